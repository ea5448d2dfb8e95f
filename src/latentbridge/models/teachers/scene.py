"""A SigLIP trained on the synthetic datasets by the recipe `scene-teacher`, as a teacher."""

from __future__ import annotations

from pathlib import Path

from latentbridge.errors import UserError
from latentbridge.models.checkpoint import fingerprint, load_model
from latentbridge.models.dual_encoder import DualEncoder
from latentbridge.models.teachers.dual_encoder import DualEncoderTeacher
from latentbridge.types import EmbeddingSpace


class Scene(DualEncoderTeacher):
    """The SigLIP in a run folder; unit vectors. It covers all scenes, and the concepts and styles of training drawings."""

    def __init__(self, folder: str) -> None:
        network = load_model(Path(folder))
        if not isinstance(network, DualEncoder):
            raise UserError(f"{folder} holds another kind of model; name the run of a scene-teacher, as scene:FOLDER.")
        self.network = network.requires_grad_(False)
        self.space = EmbeddingSpace(
            f"scene:{fingerprint(network)}", network.model.config.vision_config.hidden_size, "unit"
        )
