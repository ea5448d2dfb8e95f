from __future__ import annotations

import pytest
import torch

from latentbridge.models.omnibridge.word_vectors import (
    CODES,
    STOP_WORDS,
    forms,
    from_bits,
    letter_runs,
    short_key,
    to_bits,
    to_codes,
    word_key,
    words_of,
)


def test_words_are_runs_of_latin_letters_without_accents():
    assert words_of("It's 2 Red-hot  CHILIS, crêpes & a piñata") == [
        "it",
        "s",
        "red",
        "hot",
        "chilis",
        "crepes",
        "a",
        "pinata",
    ]
    assert words_of("猫 кошка 🐈 42") == []


def test_runs_are_of_any_script_and_keep_their_marks():
    assert letter_runs("Big 猫, кошка; बिल्ली 3x") == ["Big", "猫", "кошка", "बिल्ली", "x"]
    assert letter_runs("cafe\u0301") == ["café"]


@pytest.mark.parametrize(
    ("word", "base"),
    [
        ("cats", "cat"), ("foxes", "fox"), ("horses", "horse"), ("berries", "berry"), ("knives", "knife"), ("wolves", "wolf"),
        ("women", "woman"), ("firemen", "fireman"), ("children", "child"), ("jumping", "jump"), ("running", "run"),
        ("riding", "ride"), ("jumped", "jump"), ("planned", "plan"),
    ],
)  # fmt: skip
def test_a_form_leads_to_its_word(word: str, base: str):
    assert next(iter(forms(word))) == word and base in forms(word)


@pytest.mark.parametrize("word", ["glass", "bus", "red", "king", "does", "this"])
def test_what_is_no_form_is_only_itself(word: str):
    assert list(forms(word)) == [word]


def test_stop_words_are_no_words_of_scenes_that_tell_places():
    assert not STOP_WORDS & {"left", "right", "top", "bottom", "red", "background"}


def test_keys_are_parts_of_a_hash():
    assert word_key("cat") == 0x77AF778B51ABD4A3 >> 1  # sha256sum of "cat" starts so
    assert short_key("cat") == 0x77AF778B - 2**31
    assert all(-(2**31) <= short_key(str(number)) < 2**31 for number in range(1000))


def test_five_bits_keep_what_they_can():
    table = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)
    packed, scale = to_bits(table)
    again = from_bits(packed, 8) * scale
    assert packed.shape == (1000, 5) and packed.dtype == torch.uint8
    # the best uniform 32-level quantiser of a normal distribution has an error of 0.35 % of the variance (Max, 1960)
    error = (again - table).square().mean(dim=0) / table.square().mean(dim=0)
    assert float(error.max()) < 0.0048  # 4 bits: 0.0115


def test_product_codes_find_clusters_exactly():
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(20, 12, generator=generator) * 10
    table = centres[torch.randint(20, (600,), generator=generator)]
    codes, book = to_codes(table, torch.Generator().manual_seed(2))
    assert codes.shape == (600, 2) and book.shape == (2, CODES, 6)
    again = book[torch.arange(2), codes.long()].flatten(1)
    torch.testing.assert_close(again, table, atol=1e-4, rtol=0)
