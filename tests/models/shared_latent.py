"""Stage 1 of LatentUMM as released, for parity tests: a transformer that maps text and image embeddings into one latent space.

Its "generator" is an MLP, not a model that generates images.
Source: TorchUMM@083395e, spec LatentUMM 1.2; key layout of the released `stage1_shared_latent_model.pt`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

_TEXT, _IMAGE = 0, 1


class SharedLatentModel(nn.Module):
    """Embeddings of a caption and of a picture [b e] to latents [b d], a generator back to embeddings, and a re-encoder.

    As released, `embedding_model` is idle wherever the generator is as wide as the image embeddings, the released sizes
    among them: what it makes is then encoded as if it were a picture's embedding.
    """

    def __init__(
        self,
        text_width: int = 3072,
        image_width: int = 3072,
        latent_width: int = 3072,
        output_width: int = 3072,
        hidden_width: int = 1024,
        num_layers: int = 2,
        num_heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.aligner = LatentAligner(
            text_width, image_width, latent_width, hidden_width, num_layers, num_heads, dropout
        )
        self.generator = _Perceptron(latent_width, hidden_width, output_width)
        self.embedding_model = _Perceptron(output_width, hidden_width, latent_width)
        self._output_is_image = output_width == image_width

    def reencode(self, generated: Tensor) -> Tensor:
        """Return the latents [b d] of the outputs of `generator`."""
        return self.aligner.encode("image", generated) if self._output_is_image else self.embedding_model(generated)

    def roundtrip(self, z: Tensor) -> Tensor:
        """Return the latents [b d] of z [b d] after generating and encoding again."""
        return self.reencode(self.generator(z))


class LatentAligner(nn.Module):
    """The encoders of `SharedLatentModel`. A lone embedding is a sequence of one, where attention is a linear map."""

    def __init__(
        self,
        text_width: int,
        image_width: int,
        latent_width: int,
        hidden_width: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.modality_embed = nn.Parameter(torch.zeros(2, hidden_width))
        self.text_proj = nn.Linear(text_width, hidden_width)
        self.image_proj = nn.Linear(image_width, hidden_width)
        layer = nn.TransformerEncoderLayer(
            hidden_width, num_heads, 4 * hidden_width, dropout, activation="gelu", batch_first=True
        )
        self.backbone = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(hidden_width)
        self.single_to_latent = nn.Linear(hidden_width, latent_width)
        self.fuse = nn.Sequential(
            nn.Linear(2 * hidden_width, hidden_width),
            nn.GELU(),
            nn.LayerNorm(hidden_width),
            nn.Dropout(dropout),
            nn.Linear(hidden_width, latent_width),
        )

    def encode(self, kind: Literal["text", "image"], embedding: Tensor) -> Tensor:
        """Return the latent [b d] of a caption or of a picture alone, through the same output layer."""
        token = self._text(embedding) if kind == "text" else self._image(embedding)
        return self.single_to_latent(self.norm(self.backbone(token[:, None]))[:, 0])

    def encode_pair(self, text: Tensor, image: Tensor) -> Tensor:
        """Return the fused latent [b d] of a caption and its picture, which attend to each other."""
        tokens = torch.stack([self._text(text), self._image(image)], dim=1)
        return self.fuse(self.norm(self.backbone(tokens)).flatten(1))

    def _text(self, embedding: Tensor) -> Tensor:
        return self.text_proj(embedding) + self.modality_embed[_TEXT]

    def _image(self, embedding: Tensor) -> Tensor:
        return self.image_proj(embedding) + self.modality_embed[_IMAGE]


class _Perceptron(nn.Module):
    def __init__(self, width: int, hidden_width: int, output_width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden_width), nn.GELU(), nn.Linear(hidden_width, output_width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
