"""What is trained, on what, for how long, from where."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from latentbridge.config.bounds import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, check_bounds
from latentbridge.config.model_config import ModelConfig, NetworkConfig
from latentbridge.errors import UserError


@dataclass(frozen=True)
class OptimConfig:
    """Muon for the hidden matrices, AdamW for the rest; linear warm-up, then constant, then linear decay to zero."""

    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_lr: float = 5e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_fraction: float = 0.4
    """Share of the run, at its end, over which the learning rate falls to zero."""
    clip_norm: float = 1.0
    ema_decay: float = 0.998

    def __post_init__(self) -> None:
        rate = (0.0, 1e38)
        check_bounds(self, lr=rate, muon_lr=rate, weight_decay=rate, warmup_steps=NOT_NEGATIVE)
        check_bounds(self, decay_fraction=SHARE, clip_norm=(1e-9, 1e9), ema_decay=SHARE)


@dataclass(frozen=True)
class TaskMix:
    """Shares of the kinds of conversation about `shapes`; they need not sum to one."""

    look: float = 0.45
    """A picture with questions, and half of the time a description, in any order."""
    reason: float = 0.15
    """A question answered by a worked chain."""
    draw: float = 0.20
    edit: float = 0.20
    relation: float = 0.0
    """Share of questions turned into ones about a relation, on top of a sixth; the hardest kind to learn."""
    deliberate: float = 0.0
    """A question of several steps answered by a long chain of sections (R1 distillation)."""

    def __post_init__(self) -> None:
        check_bounds(self, **dict.fromkeys(("look", "reason", "draw", "edit", "relation", "deliberate"), NOT_NEGATIVE))


@dataclass(frozen=True)
class LatentUMMWeights:
    """What each term of LatentUMM counts in the total (`training/objectives/latentumm.py`)."""

    modal: float = 1.0
    task: float = 1.0
    """lambda_1."""
    preference: float = 0.1
    """lambda_2, as in the released embedding-space rollouts; the paper's value is not known."""
    anchor: float = 1.0
    """The release calls this term target."""
    contrast: float = 1.0
    """Unused by the reference objective, as is the next."""
    telling: float = 1.0

    def __post_init__(self) -> None:
        terms = ("modal", "task", "preference", "anchor", "contrast", "telling")
        check_bounds(self, **dict.fromkeys(terms, NOT_NEGATIVE))


@dataclass(frozen=True)
class PostTrainConfig:
    """What post-training adds to the native losses; a method reads the fields its docstring names."""

    understanding: float = 1.0
    """Weight of the native loss over conversations."""
    generation: float = 1.0
    """Weight of the native loss over drawings."""
    reconstruction: float = 1.0
    """Weight of RecA's term."""
    self_play: float = 1.0
    """Weight of UniGame's term."""
    perturbation: float = 0.02
    """The adversary's reach, as a share of the latent's norm; the release's bound."""
    objective: Literal["anchored", "reference"] = "anchored"
    """LatentUMM as ours or as released."""
    weights: LatentUMMWeights = LatentUMMWeights()
    teacher: str = "none"
    """Whose embeddings anchor LatentUMM's latents: "none", or a name that `load_teacher` knows."""
    rollouts: int = 4
    """K; an even number where anchored."""
    roundtrip_steps: int = 4
    """Of denoising in a round trip, where a backbone denoises."""
    through_pixels: bool = False
    """Whether Harmon's round trips decode the picture and encode it again; all others pass through pixels anyway."""
    sigma: float = 0.05
    """Size of the rollouts' noise, in units of the latent's RMS where anchored; the released one."""
    guard_warmup_steps: int = 100
    """Steps before which a collapse is not held against the run."""

    def __post_init__(self) -> None:
        terms = ("understanding", "generation", "reconstruction", "self_play", "perturbation", "sigma")
        check_bounds(self, **dict.fromkeys(terms, NOT_NEGATIVE), guard_warmup_steps=NOT_NEGATIVE)
        check_bounds(self, rollouts=(2, inf), roundtrip_steps=AT_LEAST_ONE)


@dataclass(frozen=True)
class RewardWeights:
    """What each part of a reply's reward counts (`training/objectives/rewards.py`); the defaults are R1-VL's. Plain GRPO is accuracy alone."""

    accuracy: float = 1.0
    key_steps: float = 0.1
    """StepRAR: times the share of key steps reached."""
    validity: float = 1.0
    """StepRVR: for a valid form."""

    def __post_init__(self) -> None:
        check_bounds(self, accuracy=NOT_NEGATIVE, key_steps=NOT_NEGATIVE, validity=NOT_NEGATIVE)


@dataclass(frozen=True)
class GrpoConfig:
    """Step-GRPO; defaults marked R1-VL are those of its released code (spec OmniBridge 3.2), what OmniBridge used is not known."""

    generations: int = 4
    """Replies to each problem, which form a group. R1-VL."""
    temperature: float = 1.2
    """Of the policy, when it is sampled and when it is trained. R1-VL."""
    max_tokens: int = 1024
    """Of a reply; one that does not end in time is worth nothing. R1-VL."""
    rewards: RewardWeights = RewardWeights()
    beta: float = 0.04
    """Weight of the divergence from the start; 0 keeps no copy of it. DeepSeekMath's (arXiv 2402.03300)."""
    clip: float = 0.2
    """How far a token's probability may move from the one it was sampled with and still count. PPO's usual value."""

    def __post_init__(self) -> None:
        if self.generations < 2:
            raise UserError(
                f"generations is {self.generations}; a group takes 2 or more, to be compared with each other."
            )
        if self.temperature <= 0:
            raise UserError(f"temperature is {self.temperature}; replies of a group differ above 0 only.")
        check_bounds(self, max_tokens=AT_LEAST_ONE, beta=NOT_NEGATIVE, clip=SHARE)


@dataclass(frozen=True)
class StageConfig:
    """What a stage is fed and how its terms weigh; a stage reads the fields its docstring names."""

    kind: Literal[
        "pretrain_decoder",
        "pretrain_backbone",
        "pretrain_squares",
        "pretrain_codes",
        "pretrain_unified",
        "pretrain_teacher",
        "sft",
        "finetune",
        "adaption",
        "step_grpo",
        "align",
        "posttrain_sft",
        "reca",
        "unigame",
        "unicot",
        "latentumm",
    ]
    drawings: float = 0.0
    """Share of samples from the drawings world; 0 needs no downloaded data."""
    tasks: TaskMix = TaskMix()
    lora_rank: int = 0
    """0 moves all that the stage trains; else a peft adapter of this rank moves in the language model, and nothing else."""
    beta_schedule: Literal["none", "step", "linear", "cosine", "ladder"] = "linear"
    diffusion_weight: float = 0.0
    distillation_weight: float = 1.0
    retrieval_weight: float = 0.0
    items: int = 16384
    """How many items alignment or post-training goes through; what frozen networks say of them is cached on disk."""
    manifest: str = ""
    """A user's own data (JSONL, or a folder of shards), mixed in at half of the samples where given."""
    sources: tuple[tuple[str, float], ...] = ()
    """(source, weight) pairs in place of `drawings` and `manifest`: "shapes", "drawings", a manifest, a folder or url of shards.
    Weights need not sum to one; each source gets its exact share."""
    packed: bool = False
    """Whether conversations share rows instead of being padded to the longest (`models/qwen_vl/packing.py`)."""
    posttrain: PostTrainConfig = PostTrainConfig()
    grpo: GrpoConfig = GrpoConfig()

    def __post_init__(self) -> None:
        terms = ("diffusion_weight", "distillation_weight", "retrieval_weight")
        check_bounds(self, **dict.fromkeys(terms, NOT_NEGATIVE), lora_rank=NOT_NEGATIVE)
        check_bounds(self, drawings=SHARE, items=AT_LEAST_ONE)


@dataclass(frozen=True)
class RunConfig:
    """A complete run: what is trained, on what, for how long, from where."""

    name: str
    stage: StageConfig
    steps: int
    batch_size: int
    model: NetworkConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    init: tuple[tuple[str, str], ...] = ()
    """(part of the model, folder it starts from) pairs. A relative folder is a sibling of this run's own, "tiny" the shipped
    model; the part "" is the whole model."""
    seed: int = 0
    bf16: bool = True
    """Mixed precision by autocast, where the device multiplies bfloat16 faster than float32 (on CPUs with AMX it halves the
    time of a step); elsewhere float32. `environment.json` of a run records which."""
    recompute: Literal["none", "cheap", "blocks"] = "none"
    """What steps compute again to save memory (`training/recompute.py`); results stay bit for bit the same."""
    log_every: int = 20
    checkpoint_every: int = 200
    blend: float = 1.0
    """How far of the way from the weights the run starts from to those it trains the finished model goes (WiSE-FT, arXiv
    2109.01903); less than 1 gives up some of what was learned for what would be forgotten."""
    device: str = "auto"
    """Where networks compute: "cpu", "cuda" and so on; "auto" takes the accelerator where there is one. Data and noise are the
    same on all, weights the same up to rounding (`devices.py`)."""
    threads: int = 0
    """CPU threads; 0 takes as many as there are cores that other processes leave idle when the run starts, which
    `environment.json` records and a resumed run takes again. Results are bitwise reproducible at one count only."""

    def samples(self, step: int) -> range:
        """The samples of a step, numbered from the run's first."""
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def inherits(self, part: str) -> bool:
        """Whether the run starts `part`, such as "decoder.", from another folder."""
        return any(part.startswith(given) for given, _ in self.init)

    def __post_init__(self) -> None:
        numbers = ("steps", "batch_size", "log_every", "checkpoint_every")
        check_bounds(self, **dict.fromkeys(numbers, AT_LEAST_ONE), seed=NOT_NEGATIVE, threads=NOT_NEGATIVE)
        if not 0 < self.blend <= 1:
            raise UserError(f"blend is {self.blend}; it takes more than 0 and at most 1.")
        if self.blend < 1 and (self.stage.lora_rank or not self.inherits("")):
            raise UserError(
                f"blend is {self.blend}, which mixes whole models; start {self.name} from one, without stage.lora_rank, or set blend=1."
            )
