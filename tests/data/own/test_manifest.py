from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from latentbridge.data.own.manifest import Record, check_manifest, left_out_lines, load_manifest
from latentbridge.data.reasoning import Chain, write_chain
from latentbridge.errors import UserError
from latentbridge.images import picture_digest

ASKED = {"image": "b.png", "question": "How many?", "answer": "4"}
CHAIN = write_chain(Chain("two pairs", "add them.", ("2 and 2 is 4",), "4"))


@pytest.fixture
def folder(tmp_path):
    for name, value in (("a", 10), ("b", 200), ("c", 90)):
        Image.fromarray(np.full((5, 7, 3), value, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def write(folder, *entries):
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries))
    return path


def test_a_valid_manifest_gives_records(folder):
    edit = {"instruction": "make it light", "target": "b.png"}
    path = write(
        folder,
        {"image": "a.png", "texts": ["dark", "a dark square"], "question": "How is it?", "answer": "dark"},
        "",
        {"image": "a.png", "texts": [], "edit": edit},
        {"image": "c.png", "texts": ["grey"], "split": "val"},
    )
    assert check_manifest(path) == []
    assert load_manifest(path) == [
        Record(folder / "a.png", ("dark", "a dark square"), "How is it?", "dark"),
        Record(folder / "a.png", (), None, None, "make it light", folder / "b.png"),
        Record(folder / "c.png", ("grey",), split="val"),
    ]


def test_a_missing_description_is_the_first_text_of_the_target(folder):
    edit = {"instruction": "lighten", "target": "b.png"}
    path = write(
        folder,
        {"image": "a.png", "edit": {**edit, "description": "light"}},
        {"image": "c.png", "edit": edit},
        {"image": "b.png", "texts": ["pale", "white"]},
        {"image": "c.png", "edit": {"instruction": "darken", "target": "a.png"}},
    )
    assert [record.description for record in load_manifest(path)] == ["light", "pale", None, None]


def test_a_chain_and_its_key_steps_become_a_record(folder):
    path = write(folder, {**ASKED, "chain": CHAIN, "key_steps": [["2 and 2", "two pairs"], ["4"]]})
    (record,) = load_manifest(path)
    assert record.chain == CHAIN and record.key_steps == (("2 and 2", "two pairs"), ("4",))


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("{nonsense", "line 2: this is not JSON (Expecting property name enclosed in double quotes at column 2)"),
        ([1], "line 2: a line holds one JSON object"),
        ({"texts": ["x"]}, "line 2: `image` must be the path of a picture"),
        ({"image": "d.png", "texts": ["x"]}, "line 2: there is no picture d.png"),
        ({"image": "../a.png", "texts": ["x"]}, "line 2: `image` must be a path inside the manifest's folder"),
        ({"image": "broken.png", "texts": ["x"]}, "line 2: broken.png is not a picture that can be read"),
        ({"image": "cut.png", "texts": ["x"]}, "line 2: cut.png is broken or cut short"),
        ({"image": "b.png", "text": ["x"], "texts": ["x"]}, "line 2: unknown field 'text'; did you mean 'texts'?"),
        ({"image": "b.png", "texts": "x"}, "line 2: `texts` must be a list of non-empty strings"),
        ({"image": "b.png", "texts": [" "]}, "line 2: `texts` must be a list of non-empty strings"),
        ({"image": "b.png"}, "line 2: the picture has no text"),
        (
            {"image": "b.png", "texts": ["x", "a" * 1001]},
            "line 2: `texts` has a text of 1,001 characters; shorten it to",
        ),
        ({**ASKED, "answer": "a" * 4001}, "line 2: `answer` has a text of 4,001 characters; shorten it to 4,000"),
        ({"image": "b.png", "texts": ["half \ud83d"]}, "line 2: this holds NUL or half of a surrogate pair"),
        ({"image": "b.png", "caption": "x", "texts": ["x"]}, "line 2: unknown field 'caption'; did you mean 'texts'?"),
        ({"image": "C:\\a.png", "texts": ["x"]}, "line 2: `image` must be a path inside the manifest's folder"),
        (
            {"image": "sub\\b.png", "texts": ["x"]},
            "line 2: there is no picture sub\\b.png in the manifest's folder; write it with slashes, sub/b.png",
        ),
        ({"image": "b.png", "texts": ["x"], "chain": CHAIN}, "line 2: `chain` needs `question` and `answer` beside it"),
        ({**ASKED, "chain": "it is 4"}, "line 2: `chain` needs the lines ### Image Description:"),
        ({**ASKED, "chain": CHAIN.replace("is: 4", "is: 5")}, "line 2: `chain` ends with '5', and `answer` is '4'"),
        ({**ASKED, "key_steps": ["2 and 2"]}, "line 2: `key_steps` must be a list of lists of phrases"),
        ({**ASKED, "key_steps": [[]]}, "line 2: `key_steps` must be a list of lists of phrases"),
        ({"image": "b.png", "question": "What?"}, "line 2: `question` needs `answer` beside it"),
        (
            {"image": "b.png", "texts": ["x"], "answer": 3, "question": "How many?"},
            "line 2: `answer` must be a non-empty string",
        ),
        ({"image": "b.png", "edit": {"instruction": "x"}}, 'line 2: `edit` must be {"instruction": text, "target"'),
        ({"image": "b.png", "edit": {"instruction": "x", "target": "/b.png"}}, "line 2: the `target` of `edit`"),
        ({"image": "b.png", "texts": ["x"], "split": "valid"}, "line 2: unknown split 'valid'; did you mean 'val'?"),
        ({"image": "b.png", "texts": ["x"], "split": 7}, "line 2: unknown split 7; choose train, val, test"),
        ({"image": "a.png", "texts": ["dark"]}, "line 2: this repeats line 1; remove one of them"),
    ],
)
def test_each_fault_is_one_sentence(folder, entry, fault):
    (folder / "broken.png").write_text("not a picture")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:45])
    Image.open(folder / "a.png").save(folder / "a.bmp")
    path = write(folder, {"image": "a.png", "texts": ["dark"]}, entry)
    faults = check_manifest(path)
    assert len(faults) == 1 and faults[0].startswith(fault)
    with pytest.warns(UserWarning, match="has 1 fault"):
        assert load_manifest(path) == [Record(folder / "a.png", ("dark",))]
    assert left_out_lines(path) == faults


def test_a_picture_in_two_splits_is_refused(folder):
    Image.open(folder / "a.png").save(folder / "a.bmp")
    path = write(folder, {"image": "a.png", "texts": ["x"]}, {"image": "a.bmp", "texts": ["y"], "split": "test"})
    words = "line 2: a.bmp is the picture of line 1, which is in split 'train'"
    assert [fault.startswith(words) for fault in check_manifest(path)] == [True]
    for read in (load_manifest, left_out_lines):
        with pytest.raises(UserError, match="has 1 fault.*a.bmp is the picture of line 1"):
            read(path)


def test_a_target_in_another_split_is_a_fault(folder):
    edit = {"instruction": "lighten", "target": "b.png"}
    path = write(folder, {"image": "a.png", "edit": edit}, {"image": "b.png", "texts": ["x"], "split": "test"})
    assert check_manifest(path)[0].startswith("line 2: b.png is the picture of line 1")


def test_all_faults_are_found_and_the_first_are_quoted(folder):
    path = write(folder, *[{"image": f"{i}.png", "texts": ["x"]} for i in range(5)])
    assert [fault.split(":")[0] for fault in check_manifest(path)] == [f"line {i}" for i in range(1, 6)]
    with pytest.raises(UserError, match=r"5 fault\(s\): line 1: .*; line 2: .*; line 3: .*; and 2 more"):
        load_manifest(path)


def test_other_files_are_refused(folder):
    with pytest.raises(UserError, match="no manifest"):
        check_manifest(folder / "other.jsonl")
    with pytest.raises(UserError, match="a.png is a picture; give a manifest"):
        check_manifest(folder / "a.png")
    (folder / "odd.jsonl").write_bytes(
        b'{"image": "a.png", "texts": ["caf\xe9"]}\n{"image": "no.png", "texts": ["x"]}\n'
    )
    faults = check_manifest(folder / "odd.jsonl")
    assert [fault.partition(":")[0] for fault in faults] == ["line 1", "line 2"] and "UTF-8" in faults[0]
    assert check_manifest(write(folder, "")) == ["line 1: the manifest is empty; write one JSON object a line"]


def test_the_digest_depends_on_content_not_format(folder):
    Image.open(folder / "a.png").save(folder / "a.bmp")
    assert picture_digest(folder / "a.bmp") == picture_digest(folder / "a.png") != picture_digest(folder / "b.png")
    Image.fromarray(np.full((7, 5, 3), 10, dtype=np.uint8)).save(folder / "turned.png")
    assert picture_digest(folder / "turned.png") != picture_digest(folder / "a.png")
