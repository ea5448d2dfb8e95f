"""Settings of training stages: one dataclass for each kind, which holds what that stage reads and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import Annotated, Any, Literal

from latentbridge.config.bounds import Bounded, NonNegativeInt, PositiveInt, Share, Weight
from latentbridge.config.renamed import upgrade_stage
from latentbridge.errors import UserError

Sources = tuple[tuple[str, float], ...]
"""(source, weight) pairs; a source is "shapes", "drawings", a manifest, or a folder or URL of shards."""
WORLDS = ("shapes", "drawings")
"""Sources that the library brings; all others are the user's own."""


@dataclass(frozen=True)
class TaskMix(Bounded):
    """Shares of the kinds of conversation about `shapes`; they need not sum to one."""

    vqa: Weight = 0.45
    """Questions about a picture, and in half of the conversations a caption, in random order."""
    cot: Weight = 0.15
    """A question answered by a worked chain of thought."""
    generation: Weight = 0.20
    """A prompt rewritten as a full description to draw."""
    editing: Weight = 0.20
    """A picture and an instruction answered by the description of the edited picture."""
    relations: Weight = 0.0
    """Share of questions turned into ones about a spatial relation, beside the sixth that are anyway; the hardest to learn."""
    long_cot: Weight = 0.0
    """A question of several steps answered by a long chain of sections (R1 distillation)."""


@dataclass(frozen=True)
class LatentUMMWeights(Bounded):
    """Weights of LatentUMM's terms in its total (`training/objectives/latentumm.py`)."""

    modal: Weight = 1.0
    task: Weight = 1.0
    """lambda_1."""
    preference: Weight = 0.1
    """lambda_2, as in the released embedding-space rollouts; the paper's value is not known."""
    anchor: Weight = 1.0
    """The release calls this term target."""
    contrast: Weight = 1.0
    """Unused by the reference objective, as is `cycle`."""
    cycle: Weight = 1.0
    """Likelihood of the caption given the model's own drawing of it."""


@dataclass(frozen=True)
class RewardWeights(Bounded):
    """Weights of a reply's rewards (`training/objectives/rewards.py`); the defaults are R1-VL's. Plain GRPO is accuracy alone."""

    accuracy: Weight = 1.0
    key_steps: Weight = 0.1
    """StepRAR: times the share of key steps reached."""
    validity: Weight = 1.0
    """StepRVR: for a valid form."""


@dataclass(frozen=True)
class GrpoConfig(Bounded):
    """Step-GRPO; defaults marked R1-VL are those of its released code (spec OmniBridge 3.2), OmniBridge's are not known."""

    generations: int = 4
    """Replies in the group of each problem. R1-VL."""
    temperature: float = 1.2
    """Temperature of the policy, in sampling and in training. R1-VL."""
    max_tokens: PositiveInt = 1024
    """Longest reply; one that does not end in time has reward 0. R1-VL."""
    rewards: RewardWeights = RewardWeights()
    beta: Weight = 0.04
    """Weight of the KL divergence from the start; 0 keeps no copy of it. DeepSeekMath's (arXiv 2402.03300)."""
    clip: Share = 0.2
    """PPO's clip range of the probability ratio."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generations < 2:
            raise UserError(
                f"generations is {self.generations}; a group takes 2 or more, to be compared with each other."
            )
        if self.temperature <= 0:
            raise UserError(f"temperature is {self.temperature}; replies of a group differ above 0 only.")


@dataclass(frozen=True, kw_only=True)
class BaseStageConfig(Bounded):
    """Settings of every stage."""

    lora_rank: NonNegativeInt = 0
    """0 trains the stage's own weights; a higher rank trains a peft adapter of the language model in their place."""

    @classmethod
    def upgrade(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return stored values under today's names; see `config/renamed.py`."""
        return upgrade_stage(values, cls, StageConfig)


@dataclass(frozen=True, kw_only=True)
class DataStageConfig(BaseStageConfig):
    """Settings of stages that are fed from a mixture of sources (`data/worlds.py`)."""

    sources: Sources = (("shapes", 1.0),)
    """Mixture that samples are drawn from; weights need not sum to one."""
    interleave: bool = False
    """Give each source exactly its share and, of the user's own, each sample once an epoch, instead of drawing at random
    with replacement. Always so if a source is shards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise UserError('stage.sources is empty; give a source and its weight, such as [["shapes", 1]].')
        if any(not isfinite(weight) or weight <= 0 for _, weight in self.sources):
            raise UserError("A weight in stage.sources is a number above 0; leave out what is not wanted.")

    @property
    def own_sources(self) -> list[str]:
        """The user's manifests and shards."""
        return [name for name, _ in self.sources if name not in WORLDS]

    @property
    def drawings_share(self) -> float:
        """Share of drawings among the samples of the library's worlds, from 0 to 1."""
        worlds = {name: weight for name, weight in self.sources if name in WORLDS}
        return worlds.get("drawings", 0.0) / (sum(worlds.values()) or 1.0)


@dataclass(frozen=True, kw_only=True)
class PretrainDecoderConfig(DataStageConfig):
    """Text encoder and diffusion decoder."""

    kind: Literal["pretrain_decoder"] = "pretrain_decoder"


@dataclass(frozen=True, kw_only=True)
class PretrainBackboneConfig(BaseStageConfig):
    """Language model and vision tower, on scenes of `shapes`."""

    kind: Literal["pretrain_backbone"] = "pretrain_backbone"
    tasks: TaskMix = TaskMix()


@dataclass(frozen=True, kw_only=True)
class PretrainCodesConfig(DataStageConfig):
    """Janus-Pro's VQ model: its autoencoder without codes ("pretrain_squares"), then with them."""

    kind: Literal["pretrain_squares", "pretrain_codes"] = "pretrain_codes"


@dataclass(frozen=True, kw_only=True)
class PretrainTeacherConfig(DataStageConfig):
    """The teacher `scene`, a dual encoder."""

    kind: Literal["pretrain_teacher"] = "pretrain_teacher"


@dataclass(frozen=True, kw_only=True)
class SftConfig(DataStageConfig):
    """Supervised fine-tuning on conversations."""

    kind: Literal["sft"] = "sft"
    tasks: TaskMix = TaskMix()
    packed: bool = False
    """Put several conversations into one row instead of padding to the longest (`models/qwen_vl/packing.py`)."""


@dataclass(frozen=True, kw_only=True)
class StepGrpoConfig(DataStageConfig):
    """Step-GRPO on problems of several steps; `drawings` have none, and `shapes` stand in for them."""

    kind: Literal["step_grpo"] = "step_grpo"
    grpo: GrpoConfig = GrpoConfig()


@dataclass(frozen=True, kw_only=True)
class AlignConfig(DataStageConfig):
    """Latent alignment, or what comes before it ("adaption"): projector and queries alone."""

    kind: Literal["align", "adaption"] = "align"
    items: PositiveInt = 16384
    """Size of the finite set of items; the frozen networks' features of each are cached on disk."""
    beta_schedule: Literal["none", "step", "linear", "cosine", "ladder"] = "linear"
    diffusion_weight: Weight = 0.0
    distillation_weight: Weight = 1.0
    retrieval_weight: Weight = 0.0


@dataclass(frozen=True, kw_only=True)
class NativeStageConfig(DataStageConfig):
    """Settings of stages that minimise a unified backbone's native losses."""

    tasks: TaskMix = TaskMix()
    understanding_weight: Weight = 1.0
    """Weight of the language loss over conversations."""
    generation_weight: Weight = 1.0
    """Weight of the backbone's own image loss over described pictures."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(NativeStageConfig):
    """Fine-tuning on a user's own data, with the library's worlds replayed."""

    kind: Literal["finetune"] = "finetune"
    packed: bool = False
    """As of `SftConfig`."""
    distillation_weight: Weight = 1.0
    """Weight of the drift from the start's conditions and embeddings."""
    retrieval_weight: Weight = 0.0


@dataclass(frozen=True, kw_only=True)
class PretrainUnifiedConfig(NativeStageConfig):
    """A whole Janus-Pro, BAGEL or Harmon from random weights."""

    kind: Literal["pretrain_unified"] = "pretrain_unified"
    items: PositiveInt = 16384
    """Size of the finite set of described pictures."""


@dataclass(frozen=True, kw_only=True)
class PostTrainConfig(NativeStageConfig):
    """Settings of every method of post-training."""

    items: PositiveInt = 16384
    """Size of the finite set of described pictures, which a teacher embeds once."""
    roundtrip_steps: PositiveInt = 4
    """Denoising steps of a round trip, in backbones that denoise."""
    through_pixels: bool = False
    """Decode Harmon's drawings and encode them again in round trips; all other backbones go through pixels anyway."""
    guard_warmup_steps: NonNegativeInt = 100
    """Steps before which a collapse does not stop the run."""


@dataclass(frozen=True, kw_only=True)
class PostTrainSftConfig(PostTrainConfig):
    """The native losses alone."""

    kind: Literal["posttrain_sft"] = "posttrain_sft"


@dataclass(frozen=True, kw_only=True)
class RecaConfig(PostTrainConfig):
    """Reconstruction alignment."""

    kind: Literal["reca"] = "reca"
    reconstruction_weight: Weight = 1.0


@dataclass(frozen=True, kw_only=True)
class UniGameConfig(PostTrainConfig):
    """Adversarial self-play."""

    kind: Literal["unigame"] = "unigame"
    self_play_weight: Weight = 1.0
    perturbation: Weight = 0.02
    """Norm of the adversary's perturbation as a share of the latent's norm; the release's bound."""


@dataclass(frozen=True, kw_only=True)
class UniCotConfig(PostTrainConfig):
    """The native losses, with chains of thought before drawing among the conversations."""

    kind: Literal["unicot"] = "unicot"


@dataclass(frozen=True, kw_only=True)
class LatentUMMConfig(PostTrainConfig):
    """Dual latent alignment (arXiv 2605.17766)."""

    kind: Literal["latentumm"] = "latentumm"
    objective: Literal["anchored", "reference"] = "anchored"
    """Ours, or the release's."""
    weights: LatentUMMWeights = LatentUMMWeights()
    teacher: str = "none"
    """Whose embeddings anchor the latents: "none", or a name that `load_teacher` knows."""
    rollouts: Annotated[int, (2.0, inf)] = 4
    """K; an even number if anchored."""
    sigma: Weight = 0.05
    """Standard deviation of the rollouts' noise, in units of the latent's RMS if anchored; the released one."""


StageConfig = (
    PretrainDecoderConfig
    | PretrainBackboneConfig
    | PretrainCodesConfig
    | PretrainUnifiedConfig
    | PretrainTeacherConfig
    | SftConfig
    | FinetuneConfig
    | StepGrpoConfig
    | AlignConfig
    | PostTrainSftConfig
    | RecaConfig
    | UniGameConfig
    | UniCotConfig
    | LatentUMMConfig
)
"""Settings of one stage, told apart by `kind`."""
