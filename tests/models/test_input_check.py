"""The check of inputs: what the shipped model's record warns of, and what it does not."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from latentbridge.data.outside import outside_picture
from latentbridge.data.shapes.language import ask, describe, edit, paraphrase, partial_prompt
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


def test_a_photograph_is_warned_of_at_any_size(tiny: InputCheck):
    photograph = open_picture(PHOTOGRAPH)
    for picture in (photograph, fit_square(photograph, 64), np.ascontiguousarray(photograph[:, :200])):
        (warning,) = tiny.picture_warnings(picture)
        assert warning.startswith('this picture is unlike the coloured shapes and simple drawings that "tiny"')


def test_what_is_made_to_stand_for_photographs_is_warned_of(tiny: InputCheck):
    rng = numpy_rng(11, "outside")
    pictures = [outside_picture(rng) for _ in range(40)]
    assert {picture.shape for picture in pictures} == {(64, 64, 3)}
    assert sum(bool(tiny.picture_warnings(picture)) for picture in pictures) >= 36


@pytest.mark.parametrize("split", ["test", "test_pairs"])
def test_held_out_scenes_are_not_warned_of_however_they_are_saved(tiny: InputCheck, split: Split):
    warned = 0
    for picture in map(render, distinct_scenes(split, numpy_rng(3, "checked"), 40)):
        large = np.asarray(Image.fromarray(picture).resize((512, 512)))
        wide = np.pad(large, ((0, 0), (100, 100), (0, 0)), mode="edge")
        for shown in (picture, jpeg(picture), large, jpeg(large), wide):
            warned += bool(tiny.picture_warnings(shown))
    assert warned <= 2  # of 200


def test_held_out_words_are_not_warned_of(tiny: InputCheck):
    rng = numpy_rng(4, "checked words")
    for scene in distinct_scenes("test_pairs", rng, 200):
        assert tiny.text_warnings(ask(scene, rng).text) == []
        assert tiny.text_warnings(edit(scene, rng).instruction, WordUse.INSTRUCTION) == []
        for prompt in (partial_prompt(scene, rng), paraphrase(scene, rng)):
            assert tiny.text_warnings(prompt, WordUse.PROMPT) == tiny.text_warnings(prompt, ANY_TEXT) == []
            assert tiny.description_warnings(prompt, describe(scene)) == []


@pytest.mark.parametrize(
    ("text", "use", "told"),
    [
        ("How many people are there?", ANY_REQUEST, ["people"]),
        ("Could you please tell me, is there a zxqv?", ANY_REQUEST, ["tell", "zxqv"]),
        ("сколько кругов?", ANY_REQUEST, ["сколько", "кругов"]),
        ("a cat", WordUse.PROMPT, ["cat"]),
        ("12 red circles", WordUse.PROMPT, ["12"]),
        ("make the retina blue", WordUse.INSTRUCTION, ["retina"]),
    ],
)
def test_words_that_training_never_used_are_named(tiny: InputCheck, text: str, use: WordUse, told: list[str]):
    (warning,) = tiny.text_warnings(text, use)
    assert [each for each in words_of(text) if f'"{each}"' in warning] == told


def test_a_word_counts_where_it_was_used(tiny: InputCheck):
    assert tiny.text_warnings("a cat", ANY_TEXT) == []
    assert tiny.text_warnings("a cat", WordUse.PROMPT) == ['"tiny" was not trained on prompts with the word "cat".']


def test_a_description_that_leaves_words_out_is_told(tiny: InputCheck):
    description = "large red circle top, small blue star left, on white"
    assert tiny.description_warnings("draw two big circles on a white background", description) == []
    assert tiny.description_warnings("a green square and a red circle", description) == [
        'the description drawn leaves out the words "green", "square".'
    ]


def test_an_edit_that_comes_back_smaller_is_told():
    assert size_warnings(np.zeros((64, 64, 3), np.uint8), 64) == []
    assert size_warnings(np.zeros((512, 512, 3), np.uint8), 64) == ["the picture comes back at 64 x 64 px."]


def test_one_colour_and_noise_have_finite_statistics():
    for picture in (np.full((64, 64, 3), 255, np.uint8), np.zeros((1, 900, 3), np.uint8)):
        assert np.isfinite(picture_statistics(picture)).all()


def test_a_blank_picture_is_not_warned_of(tiny: InputCheck):
    assert tiny.picture_warnings(np.full((64, 64, 3), 255, np.uint8)) == []


def test_no_record_warns_of_nothing():
    check = InputCheck()
    assert check.picture_warnings(open_picture(PHOTOGRAPH)) == check.text_warnings("zxqv") == []
    assert check.description_warnings("a cat", "a dog") == []


def test_a_record_is_read_as_it_was_written_and_a_saved_model_has_none(
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


def test_a_damaged_record_is_one_sentence(tmp_path: Path):
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="latentbridge calibrate"):
        read_input_check(tmp_path)
