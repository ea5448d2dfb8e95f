from __future__ import annotations

import numpy as np
import pytest
import torch

from latentbridge.config import AuxiliaryEmbeddingConfig
from latentbridge.errors import UserError
from latentbridge.models.efficientnet import FEATURE_WIDTH
from latentbridge.models.omnibridge.auxiliary_embedding import AuxiliaryEmbedding
from latentbridge.types import WordReport

WORDS = ("anchor", "boat", "cat", "dog", "sea")
WIDTH = 7


@pytest.fixture(scope="module")
def lexicon() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {word: torch.randn(WIDTH, generator=generator) for word in WORDS}


@pytest.fixture(scope="module")
def view(lexicon: dict[str, torch.Tensor]) -> AuxiliaryEmbedding:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        view = AuxiliaryEmbedding(AuxiliaryEmbeddingConfig(words=len(WORDS), width=WIDTH, eye_px=32, share=0.3)).eval()
        view.fill(torch.randn(FEATURE_WIDTH) / 9, torch.randn(FEATURE_WIDTH, WIDTH), lexicon)
    return view


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return list(np.random.default_rng(5).integers(0, 256, (3, 41, 43, 3), dtype=np.uint8))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=-1))


def test_a_text_is_the_mean_of_its_known_words_in_any_order(view: AuxiliaryEmbedding, lexicon: dict[str, torch.Tensor]):
    one, other, unknown, alone = view.embed_texts(["a Boat, at SEA!", "sea boat", "zebra", "sea zebra"])
    assert torch.equal(one, other) and cosine(one, lexicon["boat"] + lexicon["sea"]) > 0.999
    assert unknown.count_nonzero() == 0
    assert torch.equal(alone, view.embed_texts(["sea"])[0]) and not torch.allclose(alone, one, atol=1e-2)


def test_a_picture_is_its_centred_standardised_features_mapped(view: AuxiliaryEmbedding, pictures: list[np.ndarray]):
    features = view.image_features(pictures)
    assert features.shape == (3, FEATURE_WIDTH)
    assert float(features.mean(dim=1).abs().max()) < 1e-5 and features.std(dim=1).sub(1).abs().max() < 1e-2
    mapped = (features - view.centre) @ (view.join.float() * view.join_scale)
    torch.testing.assert_close(view.embed_pictures(pictures), torch.nn.functional.normalize(mapped, dim=-1))
    torch.testing.assert_close(
        view.embed_pictures(pictures[1:2])[0], view.embed_pictures(pictures)[1], atol=1e-4, rtol=0
    )


def test_rounding_to_eight_bits_keeps_directions(view: AuxiliaryEmbedding, lexicon: dict[str, torch.Tensor]):
    for word, vector in zip(WORDS, view.embed_texts(list(WORDS)), strict=True):
        assert cosine(vector, lexicon[word]) > 0.999
    assert view.word_vectors.dtype == view.join.dtype == torch.int8 and int(view.join.abs().max()) == 127


def test_beside_mixes_the_cosines_of_both_views(view: AuxiliaryEmbedding, pictures: list[np.ndarray]):
    own = torch.nn.functional.normalize(torch.randn(2, 11, generator=torch.Generator().manual_seed(6)), dim=-1)
    picture = view.concatenate(own[:1], "image", pictures[:1])
    text = view.concatenate(own[1:], "text", ["cat"])
    assert picture.shape == text.shape == (1, 11 + WIDTH)
    second = cosine(view.embed_pictures(pictures[:1])[0], view.embed_texts(["cat"])[0])
    assert cosine(picture[0], text[0]) == pytest.approx(0.7 * cosine(own[0], own[1]) + 0.3 * second, abs=1e-5)
    nothing = view.concatenate(own[1:], "text", ["zebra"])
    torch.testing.assert_close(nothing[0, :11], own[1])


OWN = ("red", "circle", "left", "the")
FURTHER = ("ostrich", "kayak", "physician")


@pytest.fixture(scope="module")
def wide(lexicon: dict[str, torch.Tensor]) -> tuple[AuxiliaryEmbedding, dict[str, torch.Tensor]]:
    """A view with six numbers a word, five words in 5 bits, three in product codes, and four of another world."""
    generator = torch.Generator().manual_seed(7)
    words = {word: vector[:6] for word, vector in lexicon.items()}
    more = {word: torch.randn(6, generator=generator) for word in FURTHER}
    view = AuxiliaryEmbedding(
        AuxiliaryEmbeddingConfig(words=len(WORDS), more_words=3, own_words=4, width=6, eye_px=32)
    ).eval()
    view.fill(torch.zeros(FEATURE_WIDTH), torch.zeros(FEATURE_WIDTH, 6), words, more, OWN)
    return view, words | more


def test_words_of_both_tables_add_up(wide: tuple[AuxiliaryEmbedding, dict[str, torch.Tensor]]):
    view, vectors = wide
    for word, vector in zip((*WORDS, *FURTHER), view.embed_texts([*WORDS, *FURTHER]), strict=True):
        assert cosine(vector, vectors[word]) > 0.98
    assert cosine(view.embed_texts(["Dog, kayak"])[0], vectors["dog"] + vectors["kayak"]) > 0.98
    one, other, scene = view.embed_texts(["an ostrich", "ostriches in red circles", "a red circle"])
    assert torch.equal(one, other) and scene.count_nonzero() == 0
    assert view.word_vectors.dtype == torch.uint8 and view.word_keys.dtype == view.more_keys.dtype == torch.int32


@pytest.mark.parametrize(
    ("text", "unknown", "rest"),
    [
        ("a Red circle", (), "a Red circle"),
        ("OSTRICHES, in kayaks!", (), "OSTRICHES, in kayaks!"),
        ("a zebra by the sea, Zebra", ("zebra", "Zebra"), "a by the sea"),
        ("zxqv blorp zxqv", ("zxqv", "blorp"), ""),
        ("the", (), ""),
        ("42 ???", (), ""),
        ("猫 and кошка", ("猫", "кошка"), ""),
        ("T-shirt of a physician", ("shirt",), "T of a physician"),
    ],
)
def test_unknown_words_are_told(
    wide: tuple[AuxiliaryEmbedding, dict[str, torch.Tensor]], text: str, unknown: tuple[str, ...], rest: str
):
    assert wide[0].report_unknown_words(text) == WordReport(unknown, rest)


def test_a_view_without_a_record_of_its_own_words_reports_none(view: AuxiliaryEmbedding):
    assert view.report_unknown_words("zxqv") == WordReport((), "zxqv")


def test_widths_that_codes_do_not_divide_and_equal_keys_are_refused(
    wide: tuple[AuxiliaryEmbedding, dict[str, torch.Tensor]],
):
    with pytest.raises(UserError, match="multiple of 6"):
        AuxiliaryEmbedding(AuxiliaryEmbeddingConfig(words=4, more_words=3, width=8, eye_px=32))
    vectors = wide[1]
    words = {word: vectors[word] for word in WORDS}
    with pytest.raises(UserError, match="same key"):
        wide[0].fill_word_vectors(words, {"cat": vectors["cat"], "kayak": vectors["kayak"], "ape": vectors["cat"]}, OWN)
