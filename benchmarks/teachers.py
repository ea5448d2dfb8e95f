"""How well teachers tell held-out pairs apart: R@1 both ways among pairs that no training has seen, world by world.

`drawings` are pictures by unseen artists, each with concept, hand and background in its text. A teacher is left out where
it knows none of a world's texts, and asked only for those it knows. Chance is one in as many as there are pairs.
Run: python benchmarks/teachers.py [TEACHER ...]; else `package`, and `scene` where it was trained in `runs`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from harness import ARGUMENTS, SMOKE, Target, keep, one_thread, share

from latentbridge.data.pairs import held_out_pairs
from latentbridge.models.teachers import load_teacher
from latentbridge.types import Teacher

PAIRS = {"shapes": 20, "drawings": 20} if SMOKE else {"shapes": 1000, "drawings": 200}


def main() -> None:
    one_thread()
    trained = sorted(Path("runs").glob("**/scene-teacher"))
    targets: list[Target] = []
    known: dict[str, dict[str, int]] = {}
    for name in ARGUMENTS or ["package", *(f"scene:{run}" for run in trained[:1])]:
        found = measure(name, load_teacher(name))
        targets += [target for pair in found.values() for target in pair[1]]
        known[name] = {world: count for world, (count, _) in found.items()}
    keep(__file__, targets, {"pairs": known})


def measure(name: str, teacher: Teacher) -> dict[str, tuple[int, list[Target]]]:
    """By world: how many pairs the teacher knows, and the shares of texts and of pictures whose nearest is their own."""
    found: dict[str, tuple[int, list[Target]]] = {}
    for world, count in PAIRS.items():
        pairs = [pair for pair in held_out_pairs(world, count, seed=0) if teacher.knows(pair.text)]
        if pairs:
            text = teacher.embed_texts([pair.text for pair in pairs])
            cosines = text @ teacher.embed_pictures([pair.picture for pair in pairs]).T
            own = np.arange(len(pairs))
            right = {"text to picture": cosines.argmax(1) == own, "picture to text": cosines.argmax(0) == own}
            told = [share(f"{name}: {world}, {way}, R@1", hits.tolist()) for way, hits in right.items()]
            found[world] = (len(pairs), told)
    return found


if __name__ == "__main__":
    main()
