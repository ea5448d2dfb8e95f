"""Settings of a training run: model, stage, optimiser, starting weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from latentbridge.config.bounds import Bounded, NonNegativeInt, PositiveInt, Share
from latentbridge.config.model_config import ModelConfig, NetworkConfig
from latentbridge.config.stage_config import StageConfig
from latentbridge.errors import UserError

Rate = Annotated[float, (0.0, 1e38)]


@dataclass(frozen=True)
class OptimConfig(Bounded):
    """Muon for hidden matrices, AdamW for the rest; linear warm-up, constant rate, linear decay to zero."""

    lr: Rate = 1e-3
    """Peak learning rate of AdamW."""
    muon_lr: Rate = 5e-3
    """Peak learning rate of Muon; 0 leaves all to AdamW."""
    weight_decay: Rate = 0.01
    warmup_steps: NonNegativeInt = 100
    decay_fraction: Share = 0.4
    """Share of the run, at its end, over which the learning rate falls to zero."""
    clip_norm: Annotated[float, (1e-9, 1e9)] = 1.0
    ema_decay: Share = 0.998


@dataclass(frozen=True)
class RunConfig(Bounded):
    """A complete training run."""

    name: str
    stage: StageConfig
    steps: PositiveInt
    batch_size: PositiveInt
    model: NetworkConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    init: tuple[tuple[str, str], ...] = ()
    """(part of the model, folder it starts from) pairs. A relative folder is a sibling of this run's own, "tiny" the shipped
    model; the part "" is the whole model."""
    seed: Annotated[int, (0.0, 2.0**63 - 1)] = 0
    bf16: bool = True
    """Autocast to bfloat16, on devices that multiply it faster than float32 (CPUs with AMX take half the time for a step);
    float32 on all others. `environment.json` of a run records which."""
    recompute: Literal["none", "cheap", "blocks"] = "none"
    """Activation checkpointing (`training/recompute.py`); results stay bit for bit the same."""
    log_every: PositiveInt = 20
    checkpoint_every: PositiveInt = 200
    blend: float = 1.0
    """Interpolation between the starting weights (0) and the trained ones (1) in the finished model (WiSE-FT, arXiv
    2109.01903)."""
    device: str = "auto"
    """Device of the networks: "cpu", "cuda" and so on; "auto" takes the accelerator if there is one. Data and noise are the same on all devices,
    weights the same up to rounding (`devices.py`)."""
    threads: NonNegativeInt = 0
    """CPU threads; 0 takes as many as there are idle cores when the run starts, which `environment.json` records and a
    resumed run takes again. Results are bitwise reproducible at one count only."""

    def samples(self, step: int) -> range:
        """Return the numbers of a step's samples, counted from the run's first."""
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def inherits(self, part: str) -> bool:
        """Return whether the run starts `part`, such as "decoder.", from another folder."""
        return any(part.startswith(inherited) for inherited, _ in self.init)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.blend <= 1:
            raise UserError(f"blend is {self.blend}; it takes more than 0 and at most 1.")
        if self.blend < 1 and (self.stage.lora_rank or not self.inherits("")):
            raise UserError(
                f"blend is {self.blend}, which mixes whole models; start {self.name} from one, without stage.lora_rank, or set blend=1."
            )
