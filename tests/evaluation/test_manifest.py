from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentbridge.data.own.manifest import Record
from latentbridge.errors import UserError
from latentbridge.evaluation.manifest import find_positives, pixel_difference, sample_lines, score_manifest
from latentbridge.evaluation.metrics import recall_at_1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, shade in (("a", 10), ("b", 200), ("c", 90)):
        Image.fromarray(np.full((8, 8, 3), shade, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    Image.open(tmp_path / "a.png").save(tmp_path / "a.bmp")
    return tmp_path


def write(folder: Path, *lines: dict) -> Path:
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps({"split": "test", **line}) + "\n" for line in lines))
    return path


def test_equal_texts_and_one_picture_on_several_lines_are_no_negatives(folder: Path):
    records = [
        Record(folder / "a.png", ("a dark wall",)),
        Record(folder / "a.bmp", ("A  dark wall", "night")),  # the same pixels in another file
        Record(folder / "b.png", ("a wall",)),
        Record(folder / "c.png", ("a wall",)),
    ]
    pictures, texts, positive = find_positives(records)
    assert [picture.image.name for picture in pictures] == ["a.png", "b.png", "c.png"]  # pyright: ignore
    assert texts == ["a dark wall", "night", "a wall"]
    assert positive.tolist() == [[True, False, False], [True, False, False], [False, True, True]]
    words = np.eye(3, dtype=np.float32)  # each picture is nearest to the text of the column with its 1
    images = np.array([[0.6, 0.8, 0], [0, 0, 1], [0.8, 0, 0.6]], dtype=np.float32)
    assert recall_at_1(words, images, positive) == [False, True, True]  # "a dark wall" finds c
    assert recall_at_1(images, words, positive.T) == [True, True, False]


def test_one_picture_on_three_lines_is_retrieved_by_each(folder: Path, small_model):
    scores = score_manifest(small_model, write(folder, *({"image": "a.png", "texts": [f"t{i}"]} for i in range(3))))
    result = {score.metric: score for score in scores}
    assert (result["text to picture R@1"].value, result["text to picture R@1"].n) == (1.0, 3)
    assert (result["picture to text R@1"].value, result["picture to text R@1"].n) == (1.0, 1)
    assert result["picture to text R@1"].note == "3 different texts, 1 different pictures; 3 of 3 test lines"


def test_size_samples_a_deterministic_share_of_the_lines(folder: Path, small_model):
    lines = [{"image": "a.png", "question": f"{number}?", "answer": "x"} for number in range(10)]
    path = write(folder, *lines)
    (score,) = score_manifest(small_model, path, size=30)
    assert score.n == 3 and score.note == "3 of 10 test lines"
    records = [Record(b"", (str(number),)) for number in range(10)]
    third = sample_lines(records, 30, seed=1)
    assert third == sample_lines(records, 30, seed=1) != sample_lines(records, 30, seed=2)
    assert [int(record.texts[0]) for record in third] == sorted(int(record.texts[0]) for record in third)
    assert sample_lines(records, 100, seed=1) == records and len(sample_lines(records, 1, seed=1)) == 1
    with pytest.raises(UserError, match="give 100 or less"):
        score_manifest(small_model, path, size=101)


def test_edits_are_compared_with_their_target(folder: Path, small_model):
    edit = {"instruction": "lighten", "target": "b.png"}
    nearer, distance = score_manifest(small_model, write(folder, {"image": "a.png", "edit": edit}))
    assert (nearer.n, distance.n, distance.better) == (1, 1, "lower")
    assert distance.note == "74.5 % unedited; 1 of 1 test lines"  # 190 of 255 levels
    made = small_model.fit(small_model.edit([folder / "a.png"], ["lighten"], seed=0)[0].picture)
    assert distance.value == pytest.approx(np.abs(made - 200.0).mean() / 255, abs=1e-5)
    assert nearer.value == float(distance.value < 190 / 255)


def test_pixel_difference_by_hand():
    one = np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    assert pixel_difference(one, one) == 0
    assert pixel_difference(one, 255 - one) == 1
    assert pixel_difference(one, np.array([[[51, 0, 0], [255, 255, 204]]], dtype=np.uint8)) == pytest.approx(1 / 15)
