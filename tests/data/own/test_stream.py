from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.data.manifests import write_manifest

from latentbridge.config import SftConfig
from latentbridge.data.own import sharding
from latentbridge.data.own.manifest import Record
from latentbridge.data.own.sharding import shard_manifest
from latentbridge.data.own.shards import Shard, ShardFolder, count_fit
from latentbridge.data.own.stream import InterleavedReader, ManifestShards, Stream
from latentbridge.data.worlds import Mixture
from latentbridge.errors import UserError
from latentbridge.rng import numpy_rng


class Made:
    """Shards of 3, 0, 5 and 2 samples, of which those with an even number have texts."""

    digest = "made"

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.samples = {
            name: [Record(b"", (f"{name} {i}",) if i % 2 == 0 else (), f"{name} {i}", "yes") for i in range(count)]
            for name, count in (("a", 3), ("b", 0), ("c", 5), ("d", 2))
        }
        self.shards = [Shard(name, "train", 0, "", len(s), count_fit(s)) for name, s in self.samples.items()]

    def read(self, shard: Shard) -> list[Record]:
        self.reads.append(shard.name)
        return self.samples[shard.name]


def texts_at(stream: Stream, places: range) -> list[str]:
    return [str(stream.record(place, "a question").question) for place in places]


def test_an_epoch_has_every_sample_once_in_its_own_order():
    made = Made()
    stream = Stream(made, "made", seed=3)
    everything = sorted(f"{name} {i}" for name, samples in made.samples.items() for i in range(len(samples)))
    epochs = [texts_at(stream, range(start, start + 10)) for start in (0, 10, 20)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    for epoch in epochs:  # a shard's samples stand together, so that it is read once
        assert len([a for a, b in zip(epoch, epoch[1:], strict=False) if a[0] != b[0]]) == 2
    rows = [[sample for sample in epoch if sample[0] == "c"] for epoch in epochs]
    assert rows[0] != rows[1] or rows[1] != rows[2]
    assert [stream.record(place, "texts").texts[0] for place in range(6)] != texts_at(stream, range(6))
    assert sorted(stream.record(place, "texts").texts[0] for place in range(6)) == [
        "a 0",
        "a 2",
        "c 0",
        "c 2",
        "c 4",
        "d 0",
    ]


def test_positions_are_random_access_and_depend_on_the_seed():
    straight = texts_at(Stream(Made(), "made", seed=3), range(25))
    fresh = Stream(Made(), "made", seed=3)
    assert [texts_at(fresh, range(place, place + 1))[0] for place in reversed(range(25))] == straight[::-1]
    assert texts_at(Stream(Made(), "made", seed=4), range(25)) != straight


def test_a_shard_is_read_once_an_epoch():
    made, stream = Made(), None
    stream = Stream(made, "made", seed=0)
    texts_at(stream, range(10))
    assert sorted(made.reads) == ["a", "c", "d"]


@pytest.mark.parametrize("weights", [(1.0,), (0.5, 0.3, 0.2), (1, 2), (0.001, 1.0), (1 / 3, 1 / 3, 1 / 3)])
def test_every_source_has_its_share_at_any_moment(weights):
    turns = InterleavedReader(weights, seed=5)
    shares = np.array(weights) / sum(weights)
    counts = np.zeros(len(weights), dtype=int)
    for number in range(20_000):
        source, place = turns.at(number)
        assert place == counts[source]  # a source's samples come in turn, none twice and none left out
        counts[source] += 1
        assert np.all(np.abs(counts - shares * (number + 1)) < 3), number
    # By hand: 10,000 / 3 is 3,333 and a third, so one of three gets the odd sample of each round.
    assert sorted(counts) == sorted([6667 + 1, 6666, 6666]) if weights == (1 / 3,) * 3 else True
    assert np.allclose(counts, shares * 20_000, atol=2)


def test_the_order_depends_on_the_seed_and_tiny_shares_are_refused():
    dealt = [[InterleavedReader((1, 1), seed).at(n) for n in range(40)] for seed in (0, 0, 1)]
    assert dealt[0] == dealt[1] != dealt[2]
    with pytest.raises(UserError, match="too uneven; give each source a share of 1 in 10,000"):
        InterleavedReader((1e-6, 1.0), 0)


def test_sources_are_mixed_by_weight(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sharding, "_SHARD_BYTES", 200)
    manifest = write_manifest(tmp_path / "own", 7)
    shard_manifest(manifest, tmp_path / "shards", progress=False)
    assert len(ShardFolder(str(tmp_path / "shards")).shards) > 2
    for own in (str(manifest), str(tmp_path / "shards")):
        mixture = Mixture(SftConfig(sources=((own, 0.7), ("shapes", 0.3)), interleave=True), seed=2)
        rng = numpy_rng(0, "test")
        texts = [mixture.world_at(rng, number).sample_captioned_picture(rng)[1] for number in range(10_000 // 50)]
        mine = Counter(text for text in texts if text.startswith("text "))
        assert mine.total() == pytest.approx(140, abs=1)
        assert set(mine) == {f"text {number}" for number in range(7)} and set(mine.values()) <= {19, 20, 21}


def test_shards_are_always_interleaved_and_their_content_is_in_the_digest(tmp_path: Path):
    shard_manifest(write_manifest(tmp_path / "own", 3), tmp_path / "shards", progress=False)
    mixtures = [Mixture(SftConfig(sources=((str(tmp_path / "shards"), 1.0), ("shapes", 1.0))), seed=0)]
    assert mixtures[0].streams and not mixtures[0].manifests
    shard_manifest(write_manifest(tmp_path / "own", 4), tmp_path / "more", progress=False)
    shutil.move(tmp_path / "more", shutil.move(tmp_path / "shards", tmp_path / "gone").with_name("shards"))
    mixtures.append(Mixture(SftConfig(sources=((str(tmp_path / "shards"), 1.0), ("shapes", 1.0))), seed=0))
    assert mixtures[0].digest() != mixtures[1].digest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": ()}, "stage.sources is empty"),
        ({"sources": (("shapes", 0.0),)}, "a number above 0"),
        ({"sources": (("shapes", -1.0),)}, "a number above 0"),
        ({"sources": (("none.jsonl", 1.0),)}, "There is no manifest at none.jsonl"),
        ({"sources": (("none", 1.0),)}, "There is no none/index.json"),
    ],
)
def test_sources_that_cannot_be_mixed_are_refused(changes, words):
    with pytest.raises(UserError) as caught:
        Mixture(SftConfig(**changes), seed=0)
    assert words in str(caught.value)


def test_a_source_without_the_texts_needed_is_refused(tmp_path: Path):
    manifest = write_manifest(tmp_path, 0, only={"question": "Who?", "answer": "me"})
    stream = Stream(ManifestShards(manifest), "own.jsonl", 0)
    assert stream.record(3, "texts, a question or a described edit").answer == "me"
    with pytest.raises(UserError, match="own.jsonl has no training record with texts; "):
        stream.record(3, "texts")
