"""Every knob of a model and of a run, as frozen dataclasses; the standard library only."""

from latentbridge.config.model import (
    AlignerConfig,
    AutoencoderConfig,
    BackboneConfig,
    DecoderConfig,
    MarConfig,
    ModelConfig,
    NetworkConfig,
    ReleaseConfig,
    RetrievalConfig,
    SceneConfig,
    SecondViewConfig,
    TinyBagelConfig,
    TinyHarmonConfig,
    TinyJanusConfig,
)
from latentbridge.config.released import OMNIBRIDGE_8B, QWEN2_VL_7B
from latentbridge.config.run import LatentUMMWeights, OptimConfig, PostTrainConfig, RunConfig, StageConfig, TaskMix
from latentbridge.config.values import from_dict, to_dict, with_overrides

__all__ = [
    "OMNIBRIDGE_8B",
    "QWEN2_VL_7B",
    "AlignerConfig",
    "AutoencoderConfig",
    "BackboneConfig",
    "DecoderConfig",
    "LatentUMMWeights",
    "MarConfig",
    "ModelConfig",
    "NetworkConfig",
    "OptimConfig",
    "PostTrainConfig",
    "ReleaseConfig",
    "RetrievalConfig",
    "RunConfig",
    "SceneConfig",
    "SecondViewConfig",
    "StageConfig",
    "TaskMix",
    "TinyBagelConfig",
    "TinyHarmonConfig",
    "TinyJanusConfig",
    "from_dict",
    "to_dict",
    "with_overrides",
]
