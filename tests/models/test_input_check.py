"""Warnings of the shipped model's input check."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from latentbridge.data.ood_pictures import sample_ood_picture
from latentbridge.data.shapes.language import describe, paraphrase, partial_prompt, sample_edit, sample_question
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import Split, distinct_scenes
from latentbridge.errors import UserError
from latentbridge.images import fit_square, open_picture
from latentbridge.models.checkpoint import TINY, load_model, save_model
from latentbridge.models.input_check import (
    ANY_REQUEST,
    ANY_TEXT,
    FILE,
    InputCheck,
    WordUse,
    picture_statistics,
    read_input_check,
    size_warnings,
    words_of,
)
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture

PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


@pytest.fixture(scope="module")
def tiny() -> InputCheck:
    return read_input_check(TINY)


def jpeg(picture: Picture) -> Picture:
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return open_picture(file.getvalue())


def test_photographs_of_any_size_cause_a_warning(tiny: InputCheck):
    photograph = open_picture(PHOTOGRAPH)
    for picture in (photograph, fit_square(photograph, 64), np.ascontiguousarray(photograph[:, :200])):
        (warning,) = tiny.picture_warnings(picture)
        assert warning.startswith('this picture is unlike the coloured shapes and simple drawings that "tiny"')


def test_synthetic_photographs_cause_a_warning(tiny: InputCheck):
    rng = numpy_rng(11, "outside")
    pictures = [sample_ood_picture(rng) for _ in range(40)]
    assert {picture.shape for picture in pictures} == {(64, 64, 3)}
    assert sum(bool(tiny.picture_warnings(picture)) for picture in pictures) >= 36


@pytest.mark.parametrize("split", ["test", "test_pairs"])
def test_held_out_scenes_cause_no_warning_in_any_format(tiny: InputCheck, split: Split):
    warned = 0
    for picture in map(render, distinct_scenes(split, numpy_rng(3, "checked"), 40)):
        large = np.asarray(Image.fromarray(picture).resize((512, 512)))
        wide = np.pad(large, ((0, 0), (100, 100), (0, 0)), mode="edge")
        for shown in (picture, jpeg(picture), large, jpeg(large), wide):
            warned += bool(tiny.picture_warnings(shown))
    assert warned <= 2  # of 200


def test_held_out_words_cause_no_warning(tiny: InputCheck):
    rng = numpy_rng(4, "checked words")
    for scene in distinct_scenes("test_pairs", rng, 200):
        assert tiny.text_warnings(sample_question(scene, rng).text) == []
        assert tiny.text_warnings(sample_edit(scene, rng).instruction, WordUse.INSTRUCTION) == []
        for prompt in (partial_prompt(scene, rng), paraphrase(scene, rng)):
            assert tiny.text_warnings(prompt, WordUse.PROMPT) == tiny.text_warnings(prompt, ANY_TEXT) == []
            assert tiny.description_warnings(prompt, describe(scene)) == []


@pytest.mark.parametrize(
    ("text", "use", "expected"),
    [
        ("How many people are there?", ANY_REQUEST, ["people"]),
        ("Could you please tell me, is there a zxqv?", ANY_REQUEST, ["tell", "zxqv"]),
        ("сколько кругов?", ANY_REQUEST, ["сколько", "кругов"]),
        ("a cat", WordUse.PROMPT, ["cat"]),
        ("12 red circles", WordUse.PROMPT, ["12"]),
        ("make the retina blue", WordUse.INSTRUCTION, ["retina"]),
    ],
)
def test_words_without_training_data_are_named(tiny: InputCheck, text: str, use: WordUse, expected: list[str]):
    (warning,) = tiny.text_warnings(text, use)
    assert [each for each in words_of(text) if f'"{each}"' in warning] == expected


def test_words_are_known_by_kind_of_text(tiny: InputCheck):
    assert tiny.text_warnings("a cat", ANY_TEXT) == []
    assert tiny.text_warnings("a cat", WordUse.PROMPT) == ['"tiny" was not trained on prompts with the word "cat".']


def test_words_omitted_from_a_description_are_named(tiny: InputCheck):
    description = "large red circle top, small blue star left, on white"
    assert tiny.description_warnings("draw two big circles on a white background", description) == []
    assert tiny.description_warnings("a green square and a red circle", description) == [
        'the description drawn leaves out the words "green", "square".'
    ]


def test_an_edit_at_another_size_or_drawn_smaller_causes_a_warning():
    small, large = (np.zeros((side, side, 3), np.uint8) for side in (64, 512))
    assert size_warnings(small, small, 64) == size_warnings(large, large, None) == []
    assert size_warnings(large, small, None) == ["the picture comes back at 64 x 64 px."]
    assert size_warnings(large, large, 64) == [
        "the change was drawn at 64 x 64 px and scaled up; the rest keeps its own pixels."
    ]


def test_one_colour_and_noise_have_finite_statistics():
    for picture in (np.full((64, 64, 3), 255, np.uint8), np.zeros((1, 900, 3), np.uint8)):
        assert np.isfinite(picture_statistics(picture)).all()


def test_a_blank_picture_causes_no_warning(tiny: InputCheck):
    assert tiny.picture_warnings(np.full((64, 64, 3), 255, np.uint8)) == []


def test_an_empty_check_never_warns():
    check = InputCheck()
    assert check.picture_warnings(open_picture(PHOTOGRAPH)) == check.text_warnings("zxqv") == []
    assert check.description_warnings("a cat", "a dog") == []


def test_a_check_survives_a_round_trip_and_saving_a_model_removes_it(
    tiny: InputCheck, small_model: OmniBridge, tmp_path: Path
):
    save_model(small_model, tmp_path)
    tiny.save(tmp_path)
    model = load_model(tmp_path)
    assert isinstance(model, OmniBridge)
    picture = [open_picture(PHOTOGRAPH)]
    assert np.array_equal(model.input_check.scores(picture), tiny.scores(picture))
    assert model.input_check.text_warnings("zxqv") == tiny.text_warnings("zxqv")
    save_model(model, tmp_path)
    assert not (tmp_path / FILE).exists() and not read_input_check(tmp_path).layers


def test_a_damaged_file_is_reported(tmp_path: Path):
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="latentbridge calibrate"):
        read_input_check(tmp_path)
