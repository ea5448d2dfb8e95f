"""Training stages by the `kind` of their config."""

from __future__ import annotations

from latentbridge.config import RunConfig
from latentbridge.errors import UserError
from latentbridge.training.stage import Stage
from latentbridge.training.stages.align import Adaption, Align
from latentbridge.training.stages.finetune import Finetune
from latentbridge.training.stages.latentumm import LatentUMM
from latentbridge.training.stages.posttrain import PostTrainSft, Reca, UniCot, UniGame
from latentbridge.training.stages.pretrain_backbone import PretrainBackbone
from latentbridge.training.stages.pretrain_codes import PretrainCodes, PretrainSquares
from latentbridge.training.stages.pretrain_decoder import PretrainDecoder
from latentbridge.training.stages.pretrain_teacher import PretrainTeacher
from latentbridge.training.stages.pretrain_unified import PretrainUnified
from latentbridge.training.stages.sft import Sft
from latentbridge.training.stages.step_grpo import StepGrpo

STAGES: dict[str, type[Stage]] = {
    "pretrain_decoder": PretrainDecoder,
    "pretrain_backbone": PretrainBackbone,
    "pretrain_squares": PretrainSquares,
    "pretrain_codes": PretrainCodes,
    "pretrain_unified": PretrainUnified,
    "pretrain_teacher": PretrainTeacher,
    "sft": Sft,
    "finetune": Finetune,
    "adaption": Adaption,
    "step_grpo": StepGrpo,
    "align": Align,
    "posttrain_sft": PostTrainSft,
    "reca": Reca,
    "unigame": UniGame,
    "unicot": UniCot,
    "latentumm": LatentUMM,
}


def make_stage(config: RunConfig) -> Stage:
    """Return the stage of a run; raise UserError if it does not train the run's kind of model."""
    stage = STAGES[config.stage.kind](config)
    if config.model.kind not in stage.trains:
        raise UserError(
            f"{config.stage.kind} trains {' or '.join(stage.trains)}, and the model of {config.name} is a {config.model.kind}; choose a recipe for it."
        )
    return stage
