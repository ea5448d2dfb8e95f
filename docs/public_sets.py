"""Write the manifests that docs/data.md shows: questions, captions and edits out of public sets that packages ship.

    pip install easy-vqa scikit-learn
    python docs/public_sets.py questions --out easy_vqa        # 48,248 questions about 5,000 pictures
    python docs/public_sets.py captions --out digits           # 1,797 handwritten digits
    python docs/public_sets.py edits --out recoloured          # 3,038 pictures of easy-VQA, each in another colour

easy-VQA (MIT) keeps its own train and test pictures apart, and so do the manifests. Of scikit-learn's digits (UCI, CC-BY-4.0)
the first half trains and the second half tests, as in scikit-learn's own example; other people wrote the second half.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Line = dict[str, Any]
SPLITS = ("train", "test")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHAPES = {"circle", "rectangle", "triangle"}
SCALE = 8
"""Pixels of a side for each of a digit's 8."""
COLOURS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}
"""easy-VQA's colours, RGB from 0 to 255."""


def questions(out: Path) -> Iterator[Line]:
    """Yield a line for each question of easy-VQA, its picture copied beside the manifest."""
    for split in SPLITS:
        for question, answer, number in _asked(split):
            name = f"{split}-{number}.png"
            if not (out / name).exists():
                shutil.copyfile(_picture(split, number), out / name)
            yield {"image": name, "question": question, "answer": answer, "split": split}


def captions(out: Path) -> Iterator[Line]:
    """Yield a line for each of scikit-learn's digits, 8 x 8 levels from 0 to 16, drawn dark on white at 64 x 64 px."""
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]

    levels, numbers = load_digits(return_X_y=True)
    for index, (row, number) in enumerate(zip(levels.reshape(-1, 8, 8), numbers, strict=True)):
        name = f"{index}.png"
        grey = (255 - row * 255 / 16).astype(np.uint8)
        Image.fromarray(grey.repeat(SCALE, 0).repeat(SCALE, 1)).convert("RGB").save(out / name)
        split = SPLITS[index >= len(numbers) // 2]
        yield {"image": name, "texts": [f"a handwritten {NUMBERS[number]}"], "split": split}


def edits(out: Path) -> Iterator[Line]:
    """Yield a line for each picture of easy-VQA whose answers name shape and colour, and the same in a colour drawn by its number."""
    for split in SPLITS:
        facts: dict[int, set[str]] = {}
        for _, answer, number in _asked(split):
            facts.setdefault(number, set()).add(answer)
        for number, answers in sorted(facts.items()):
            if not (answers & SHAPES and answers & COLOURS.keys()):
                continue
            (shape,), (before,) = answers & SHAPES, answers & COLOURS.keys()
            others = sorted(COLOURS.keys() - {before})
            after = others[np.random.default_rng(number).integers(len(others))]
            source, target = f"{split}-{number}.png", f"{split}-{number}-{after}.png"
            shutil.copyfile(_picture(split, number), out / source)
            _recolour(np.asarray(Image.open(out / source).convert("RGB")), before, after).save(out / target)
            edit = {"instruction": f"make the {shape} {after}", "target": target, "description": f"a {after} {shape}"}
            yield {"image": source, "texts": [f"a {before} {shape}"], "edit": edit, "split": split}


def _recolour(picture: np.ndarray, before: str, after: str) -> Image.Image:
    """Return a picture, uint8 [h, w, 3], whose shape has another colour; smoothed edges keep their share of the background."""
    background, old, new = (
        np.array(colour, float) for colour in (picture[_plain(picture)], COLOURS[before], COLOURS[after])
    )
    towards = old - background
    share = ((picture - background) @ towards / (towards @ towards)).clip(0, 1)[..., None]
    return Image.fromarray((background + share * (new - background)).round().astype(np.uint8))


def _plain(picture: np.ndarray) -> tuple[int, int]:
    """Return where the commonest colour of a picture stands first: the background."""
    colours, first, counts = np.unique(picture.reshape(-1, 3), axis=0, return_index=True, return_counts=True)
    row, column = divmod(int(first[counts.argmax()]), picture.shape[1])
    return row, column


def _asked(split: str) -> list[tuple[str, str, int]]:
    return json.loads((_data() / split / "questions.json").read_text())


def _picture(split: str, number: int) -> Path:
    return _data() / split / "images" / f"{number}.png"


def _data() -> Path:
    return Path(str(resources.files("easy_vqa"))) / "data"


def main() -> None:
    """Write one manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    makers = {"questions": questions, "captions": captions, "edits": edits}
    parser.add_argument("set", choices=makers)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(line) + "\n" for line in makers[chosen.set](chosen.out)]
    (chosen.out / "manifest.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
