"""What the shipped model's check of inputs warns of: false alarms on held-out worlds, photographs missed, and its cost.

Photographs are not shipped. `python benchmarks/input_check.py FOLDER ...` takes those in folders, and the ones that
matplotlib and Gradio bring; the stored result names its own. They are split by a hash of their names: on two thirds the
check was developed, one third was left alone until it was done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from time import process_time
from urllib.parse import unquote

import gradio
import matplotlib
import numpy as np
from harness import ARGUMENTS, SMOKE, Target, keep, one_thread, share
from PIL import Image

from latentbridge.data.drawings.catalogue import FORTY_CONCEPTS, Drawings, load_drawings
from latentbridge.data.drawings.composer import ask_composition, compose, render_composition, sprite_bank
from latentbridge.data.drawings.tasks import GROUNDS, draw_drawing, redraw_drawing, show
from latentbridge.data.shapes.grading import GENEVAL_CATEGORIES, sample_prompt
from latentbridge.data.shapes.language import ask, edit, paraphrase, partial_prompt
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.images import fit_square, open_picture
from latentbridge.models.checkpoint import TINY
from latentbridge.models.input_check import ANY_REQUEST, ANY_TEXT, InputCheck, WordUse, read_input_check
from latentbridge.prompts import draw_request, edit_request
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture

COUNT = 20 if SMOKE else 1_000
INSTALLED = (
    Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
    *sorted((Path(gradio.__file__).parent / "media_assets" / "images").glob("*.jp*g")),
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".bmp")


def saved_as_jpeg(picture: Picture) -> Picture:
    """The picture after JPEG of quality 90."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return open_picture(file.getvalue())


def enlarged(picture: Picture) -> Picture:
    """The picture at 512 px."""
    return np.asarray(Image.fromarray(picture).resize((512, 512)))


def letterboxed(picture: Picture) -> Picture:
    """The picture with white at both sides, 1.6 times as wide."""
    return np.pad(picture, ((0, 0), (20, 20), (0, 0)), constant_values=255)


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "as JPEG": saved_as_jpeg,
    "at 512 px": enlarged,
    "letterboxed": letterboxed,
}


def held_out_pictures(drawings: Drawings) -> dict[str, list[Picture]]:
    """Pictures of both worlds that no training saw, by what they are."""
    found: dict[str, list[Picture]] = {}
    for split in ("test", "test_pairs"):
        found[f"shapes, {split}"] = [render(s) for s in distinct_scenes(split, numpy_rng(7, f"check {split}"), COUNT)]
    for split in ("val", "test_artist", "test_concept"):
        rng = numpy_rng(7, f"check {split}")
        known = drawings.split(split)
        chosen = [known[i] for i in rng.permutation(len(known))[:COUNT]]
        found[f"drawings, {split}"] = [show(drawings, each, GROUNDS[rng.integers(len(GROUNDS))]) for each in chosen]
        found[f"cut-outs, {split}"] = [drawings.on_background(each.index, (255, 255, 255)) for each in chosen]
        bank = sprite_bank(drawings, split)
        found[f"compositions, {split}"] = [render_composition(compose(rng, bank), drawings) for _ in range(COUNT)]
    return found


def held_out_texts(drawings: Drawings) -> dict[str, tuple[WordUse, list[str]]]:
    """Texts of both worlds that no training saw, by what they are."""
    rng = numpy_rng(7, "check texts")
    scenes = distinct_scenes("test", rng, COUNT)
    bank = sprite_bank(drawings, "val")
    drawable = [each for each in drawings.split("val") if each.label in FORTY_CONCEPTS]
    artists = [each for each in drawings.split("test_artist") if each.label in FORTY_CONCEPTS]
    prompts = [draw_drawing(drawings, drawable, rng)[0].turns[0][0] for _ in range(COUNT)]
    instructions = [redraw_drawing(drawings, artists, rng)[0].turns[0][0] for _ in range(COUNT)]
    benchmark = [sample_prompt(rng, GENEVAL_CATEGORIES[i % 6], "test").text for i in range(COUNT)]
    return {
        "shapes, questions": (ANY_REQUEST, [ask(scene, rng).text for scene in scenes]),
        "shapes, prompts": (WordUse.PROMPT, [partial_prompt(scene, rng) for scene in scenes]),
        "shapes, GenEval prompts": (WordUse.PROMPT, benchmark),
        "shapes, instructions": (WordUse.INSTRUCTION, [edit(scene, rng).instruction for scene in scenes]),
        "shapes, captions": (ANY_TEXT, [paraphrase(scene, rng) for scene in scenes]),
        "drawings, questions": (
            ANY_REQUEST,
            [ask_composition(compose(rng, bank), bank, rng)[0] for _ in range(COUNT)],
        ),
        "drawings, prompts": (WordUse.PROMPT, [text.removeprefix(draw_request("")) for text in prompts]),
        "drawings, instructions": (WordUse.INSTRUCTION, [text.removeprefix(edit_request("")) for text in instructions]),
        "drawings, captions": (ANY_TEXT, [text for each in drawings.split("val") for text in each.captions][:COUNT]),
    }


def photographs(folders: Sequence[str]) -> dict[str, Picture]:
    """Photographs by name, at 64 px."""
    files = [file for folder in folders for file in sorted(Path(folder).iterdir()) if file.suffix.lower() in SUFFIXES]
    return {unquote(file.stem): fit_square(open_picture(file), 64) for file in (files or INSTALLED)}


def is_unseen(name: str) -> bool:
    """Whether a photograph was left alone while the check was developed."""
    return sha256(name.encode()).digest()[0] % 3 == 0


def alarms(check: InputCheck, pictures: Sequence[Picture]) -> list[bool]:
    """Whether each picture is warned of."""
    return [bool(check.picture_warnings(picture)) for picture in pictures]


def main() -> None:
    one_thread()
    check, drawings = read_input_check(TINY), load_drawings()
    targets: list[Target] = []
    pictures = held_out_pictures(drawings)
    for name, each in pictures.items():
        targets.append(share(f"no false alarm: {name}", [not alarm for alarm in alarms(check, each)], least=0.99))
    for name, change in CHANGES.items():
        mixed = [change(picture) for each in pictures.values() for picture in each[:200]]
        targets.append(share(f"no false alarm: all, {name}", [not alarm for alarm in alarms(check, mixed)], least=0.99))
    for name, (use, texts) in held_out_texts(drawings).items():
        right = [not check.text_warnings(text, use) for text in texts]
        targets.append(share(f"no false alarm: words of {name}", right, least=0.99))
    shown = photographs(ARGUMENTS)
    missed: list[str] = []
    for told, unseen in (("developed on", False), ("unseen", True)):
        names = [name for name in shown if is_unseen(name) == unseen]
        found = alarms(check, [shown[name] for name in names])
        missed += [name for name, alarm in zip(names, found, strict=True) if not alarm]
        if names:
            targets.append(share(f"photographs warned of, {told}", found, least=0.95))
    sample = pictures["drawings, test_artist"][:200]
    began = process_time()
    check.scores(sample)
    cost_ms = (process_time() - began) / len(sample) * 1000
    details = {"ms a picture": round(cost_ms, 2), "photographs": sorted(shown), "missed": sorted(missed)}
    keep(__file__, targets, details)


if __name__ == "__main__":
    main()
