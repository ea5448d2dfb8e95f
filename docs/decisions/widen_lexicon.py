"""Give a model folder with the lexicon of 2026-11-22 (8 bits, 3,200 words) the wider one, and change nothing else.

    python docs/decisions/widen_lexicon.py OLD_MODEL NEW_MODEL

The words of the first fit and its space are found anew from the drawings, and must agree with what the old folder holds.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from latentbridge.config import ModelConfig
from latentbridge.data.drawings.catalogue import Drawings, load_drawings, search_text
from latentbridge.models.checkpoint import load, new_model, save_model, unique_state
from latentbridge.recipes import ALIGN
from latentbridge.training.fits import second_view as fit


def widen(old_folder: Path, new_folder: Path) -> None:
    """Write the model of `old_folder` with the words that the recipe `align` asks for."""
    old = load(old_folder)
    assert isinstance(ALIGN.model, ModelConfig)
    sizes = ALIGN.model.second_view
    view = replace(old.config.second_view, more_words=sizes.more_words, own_words=sizes.own_words)
    new = new_model(replace(old.config, second_view=view), 0)
    kept = unique_state(old)
    with torch.no_grad():
        for name, tensor in unique_state(new).items():
            if name in kept and not name.startswith("second_view.word_"):
                tensor.copy_(kept[name])

    drawings, scenes = load_drawings(), fit._words_of_scenes()
    centre, basis = _first_space(drawings, scenes, view.words, view.width)
    known = fit._commonest(drawings.split("train"), view.words, without=scenes)
    vectors = dict(zip(known, fit.embed_words(known), strict=True))
    held = torch.stack([old.second_view._text(word) for word in known])
    found = torch.stack([(vectors[word] - centre) @ basis for word in known])
    alike = torch.nn.functional.cosine_similarity(held, found)
    print(f"cosine of old and new vectors: median {alike.median():.4f}, below 0.99: {int((alike < 0.99).sum())}")
    lexicon = dict(zip(known, found, strict=True))
    new.second_view.fill_words(lexicon, fit._further(view.more_words, {*known, *scenes}, centre, basis), scenes)
    save_model(new, new_folder, torch.bfloat16)


def _first_space(drawings: Drawings, scenes: set[str], count: int, width: int) -> tuple[Tensor, Tensor]:
    """Centre and basis of the first fit, when an accent parted a word in two."""
    train = drawings.split("train")
    named = {drawing.label: set(_parted(" ".join([drawing.label, *drawing.tags]))) for drawing in train}
    uses = Counter(word for words in named.values() for word in words - scenes)
    known = sorted(uses, key=lambda word: (-uses[word], word))[:count]
    vectors = dict(zip(known, fit.embed_words(known), strict=True))
    texts = {drawing.label: search_text(drawing) for drawing in train if drawing.tier == "object"}
    return fit._whitening(torch.stack([fit._mean(_parted(text), vectors) for text in texts.values()]), width)


def _parted(text: str) -> list[str]:
    return re.findall("[a-z]+", text.lower())


if __name__ == "__main__":
    widen(Path(sys.argv[1]), Path(sys.argv[2]))
