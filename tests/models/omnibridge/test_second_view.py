from __future__ import annotations

import numpy as np
import pytest
import torch

from latentbridge.config import SecondViewConfig
from latentbridge.models.eye import FEATURE_WIDTH
from latentbridge.models.omnibridge.second_view import SecondView, word_key, words_of

WORDS = ("anchor", "boat", "cat", "dog", "sea")
WIDTH = 7


@pytest.fixture(scope="module")
def lexicon() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {word: torch.randn(WIDTH, generator=generator) for word in WORDS}


@pytest.fixture(scope="module")
def view(lexicon: dict[str, torch.Tensor]) -> SecondView:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        view = SecondView(SecondViewConfig(words=len(WORDS), width=WIDTH, eye_px=32, share=0.3)).eval()
        view.fill(torch.randn(FEATURE_WIDTH) / 9, torch.randn(FEATURE_WIDTH, WIDTH), lexicon)
    return view


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return list(np.random.default_rng(5).integers(0, 256, (3, 41, 43, 3), dtype=np.uint8))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=-1))


def test_a_text_is_the_mean_of_its_known_words_in_any_order(view: SecondView, lexicon: dict[str, torch.Tensor]):
    one, other, unknown, alone = view.texts(["a Boat, at SEA!", "sea boat", "zebra", "sea zebra"])
    assert torch.equal(one, other) and cosine(one, lexicon["boat"] + lexicon["sea"]) > 0.999
    assert unknown.count_nonzero() == 0
    assert torch.equal(alone, view.texts(["sea"])[0]) and not torch.allclose(alone, one, atol=1e-2)


def test_a_picture_is_its_centred_standardised_features_mapped(view: SecondView, pictures: list[np.ndarray]):
    features = view.features(pictures)
    assert features.shape == (3, FEATURE_WIDTH)
    assert float(features.mean(dim=1).abs().max()) < 1e-5 and features.std(dim=1).sub(1).abs().max() < 1e-2
    mapped = (features - view.centre) @ (view.join.float() * view.join_scale)
    torch.testing.assert_close(view.pictures(pictures), torch.nn.functional.normalize(mapped, dim=-1))
    torch.testing.assert_close(view.pictures(pictures[1:2])[0], view.pictures(pictures)[1], atol=1e-4, rtol=0)


def test_rounding_to_eight_bits_keeps_directions(view: SecondView, lexicon: dict[str, torch.Tensor]):
    for word, vector in zip(WORDS, view.texts(list(WORDS)), strict=True):
        assert cosine(vector, lexicon[word]) > 0.999
    assert view.word_vectors.dtype == view.join.dtype == torch.int8 and int(view.join.abs().max()) == 127


def test_beside_mixes_the_cosines_of_both_views(view: SecondView, pictures: list[np.ndarray]):
    own = torch.nn.functional.normalize(torch.randn(2, 11, generator=torch.Generator().manual_seed(6)), dim=-1)
    picture = view.beside(own[:1], "image", pictures[:1])
    text = view.beside(own[1:], "text", ["cat"])
    assert picture.shape == text.shape == (1, 11 + WIDTH)
    second = cosine(view.pictures(pictures[:1])[0], view.texts(["cat"])[0])
    assert cosine(picture[0], text[0]) == pytest.approx(0.7 * cosine(own[0], own[1]) + 0.3 * second, abs=1e-5)
    nothing = view.beside(own[1:], "text", ["zebra"])
    torch.testing.assert_close(nothing[0, :11], own[1])


def test_words_are_runs_of_latin_letters_and_keys_are_apart():
    assert words_of("It's 2 Red-hot  CHILIS") == ["it", "s", "red", "hot", "chilis"]
    keys = [word_key(word) for word in WORDS]
    assert len(set(keys)) == len(WORDS) and all(0 <= key < 2**63 for key in keys)
    assert word_key("cat") == 0x77AF778B51ABD4A3 >> 1  # sha256sum of "cat" starts so
