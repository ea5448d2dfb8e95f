"""The two heads on the last hidden state that LatentUMM's release adds to BAGEL.

Source: TorchUMM@083395e, spec LatentUMM 1.4. The release calls `embed_to_hidden(hidden_to_embed(z))` a round trip, but
nothing is generated, decoded or encoded; a real round trip is the model's (`models/trainable.py`).
"""

from __future__ import annotations

from torch import Tensor, nn


class LatentHeads(nn.Module):
    """Maps from pooled hidden states [b h] to the space of stored embeddings [b e] and back.

    Key layout of the release behind its prefix `latentumm_`.
    """

    def __init__(self, hidden_width: int, embedding_width: int = 3072) -> None:
        super().__init__()
        self.hidden_to_embed = nn.Sequential(
            nn.Linear(hidden_width, hidden_width), nn.GELU(), nn.Linear(hidden_width, embedding_width)
        )
        self.embed_to_hidden = nn.Sequential(
            nn.Linear(embedding_width, hidden_width), nn.GELU(), nn.Linear(hidden_width, hidden_width)
        )

    def autoencode(self, z: Tensor) -> Tensor:
        """Return [b h] for [b h]: the release's stand-in for a round trip."""
        return self.embed_to_hidden(self.hidden_to_embed(z))
