"""Input checks fitted to few samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from latentbridge.data.ood_pictures import sample_ood_picture
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.models.input_check import WordUse
from latentbridge.rng import numpy_rng
from latentbridge.training.fits.input_check import fit_input_check


def test_the_classifier_separates_scenes_from_other_images_and_is_deterministic():
    check, again = (fit_input_check("mine", ["shapes"], samples=150) for _ in range(2))
    assert all(np.array_equal(check.layers[name], again.layers[name]) for name in check.layers)
    assert np.array_equal(check.word_keys, again.word_keys)
    inside = [render(scene) for scene in distinct_scenes("test", numpy_rng(5, "fitted"), 100)]
    rng = numpy_rng(5, "outside")
    outside = [sample_ood_picture(rng) for _ in range(50)]
    assert sum(bool(check.picture_warnings(picture)) for picture in inside) <= 5
    assert sum(bool(check.picture_warnings(picture)) for picture in outside) >= 40
    assert check.text_warnings("a red circle", WordUse.PROMPT) == []
    assert check.text_warnings("an owl") == ['"mine" was not trained on questions with the word "owl".']


def test_data_similar_to_other_images_gets_no_classifier(tmp_path: Path):
    rng = numpy_rng(6, "photographs")
    lines: list[str] = []
    for number in range(60):
        Image.fromarray(sample_ood_picture(rng)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "texts": [f"leaf {number}"], "split": "train"}))
    manifest = tmp_path / "mine.jsonl"
    manifest.write_text("\n".join(lines))
    check = fit_input_check("mine", [str(manifest)], samples=120)
    assert check.layers == {} and check.picture_warnings(sample_ood_picture(rng)) == []
    assert check.text_warnings("leaf 7", WordUse.PROMPT) == []
