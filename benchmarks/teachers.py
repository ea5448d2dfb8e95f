"""How well teachers tell held-out pairs apart: R@1 both ways among pairs that no training has seen, world by world.

`drawings` are pictures by unseen artists, each with concept, hand and background in its text. A teacher is left out where
it knows none of a world's texts, and asked only for those it knows. Writes `teachers.json` beside this file. Run:
python benchmarks/teachers.py package scene:runs/scene-teacher
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from latentbridge.data.pairs import held_out_pairs
from latentbridge.models.teachers import load_teacher
from latentbridge.types import Teacher

PAIRS = {"shapes": 1000, "drawings": 200}


def main() -> None:
    results = {name: measure(load_teacher(name)) for name in sys.argv[1:]}
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def measure(teacher: Teacher) -> dict[str, dict[str, float]]:
    """By world: how many pairs the teacher knows, and the share of texts and of pictures whose nearest is their own."""
    found: dict[str, dict[str, float]] = {}
    for world, count in PAIRS.items():
        pairs = [pair for pair in held_out_pairs(world, count, seed=0) if teacher.knows(pair.text)]
        if pairs:
            text = teacher.embed_texts([pair.text for pair in pairs])
            cosines = text @ teacher.embed_pictures([pair.picture for pair in pairs]).T
            own = np.arange(len(pairs))
            found[world] = {
                "pairs": len(pairs),
                "text to picture": round(float(np.mean(cosines.argmax(1) == own)), 3),
                "picture to text": round(float(np.mean(cosines.argmax(0) == own)), 3),
            }
    return found


if __name__ == "__main__":
    main()
