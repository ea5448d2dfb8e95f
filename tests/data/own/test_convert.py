"""Manifests of formats that people already have; every one is then read like any manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentbridge.data.own.convert import convert
from latentbridge.data.own.manifest import check_manifest
from latentbridge.errors import UserError

NAMES = ("a.png", "b.png", "sub/c.png", "COCO_val2014_000000000042.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for shade, name in enumerate(NAMES):
        Image.fromarray(np.full((4, 4, 3), 60 * shade, np.uint8)).save(tmp_path / name)
    return tmp_path


def converted(folder: Path, *documents: Any, **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the manifest's lines, sound as they are, and the sentences about what was left out."""
    sources = []
    for number, document in enumerate(documents):
        sources.append(folder / f"source{number}.json")
        sources[-1].write_text(document if isinstance(document, str) else json.dumps(document))
    faults: list[str] = []
    out, count = convert(sources, None, None, on_fault=faults.append, **options)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert out == folder / "manifest.jsonl" and count == len(lines) and check_manifest(out) == []
    return lines, faults


def test_llava_conversations(folder: Path):
    turns = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "An owl."},
        {"from": "human", "value": "Is it day?"},
        {"from": "gpt", "value": "No."},
    ]
    lines, faults = converted(
        folder,
        [
            {"id": 1, "image": "a.png", "conversations": turns},
            {"id": 2, "image": "coco/train2017/b.png", "conversations": turns[:2]},
            {"id": 3, "conversations": turns[2:]},  # 40,000 of LLaVA's own mixture have no picture
            {"id": 4, "image": ["a.png", "b.png"], "conversations": turns},
            {"id": 5, "image": "none.png", "conversations": turns},
            {"id": 6, "video": "x.mp4", "conversations": turns},
            {"id": 7, "image": "b.png", "conversations": turns[:1]},
        ],
    )
    assert lines == [
        {"image": "a.png", "question": "What is it?", "answer": "An owl."},
        {"image": "a.png", "question": "Is it day?", "answer": "No."},
        {"image": "b.png", "question": "What is it?", "answer": "An owl."},
    ]
    words = ("record 3 has no pictures", "has 2 pictures", "names the picture none.png", "a video", "no answer")
    assert [word for word in words if any(word in fault for fault in faults)] == list(words)


def test_sharegpt_messages_with_lists_of_parts_and_roles(folder: Path):
    parts = [{"type": "image_url", "image_url": {"url": "sub/c.png"}}, {"type": "text", "text": "What is it?"}]
    lines, faults = converted(
        folder,
        [
            {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": parts},
                          {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}]},
            {"images": ["a.png"], "messages": [{"role": "user", "content": "<image>"},
                                               {"role": "assistant", "content": "a black square"}]},
            {"conversations": [{"from": "user", "value": "Picture 1: <img>b.png</img>\nHow many?"},
                               {"from": "assistant", "value": "2"}]},
        ],
    )  # fmt: skip
    assert not faults
    assert lines == [
        {"image": "sub/c.png", "question": "What is it?", "answer": "A cat."},
        {"image": "a.png", "texts": ["a black square"]},
        {"image": "b.png", "question": "How many?", "answer": "2"},
    ]


def test_metadata_of_hugging_face_in_folders_of_splits(folder: Path):
    for place, name in (("train", "a.png"), ("validation", "b.png")):
        (folder / "data" / place).mkdir(parents=True)
        (folder / name).rename(folder / "data" / place / "0001.png")
    (folder / "data" / "train" / "metadata.jsonl").write_bytes(
        b'\xef\xbb\xbf{"file_name": "0001.png", "text": "an owl"}\r\n{"file_name": "0002.png", "text": "gone"}\r\n'
    )
    (folder / "data" / "validation" / "metadata.csv").write_text("file_name,text\n0001.png,a cat\n")
    faults: list[str] = []
    out, _ = convert([folder / "data"], None, None, on_fault=faults.append)
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"image": "train/0001.png", "texts": ["an owl"], "split": "train"},
        {"image": "validation/0001.png", "texts": ["a cat"], "split": "val"},
    ]
    assert len(faults) == 1 and "0002.png" in faults[0] and check_manifest(out) == []


def test_coco_captions_share_a_line_for_each_picture(folder: Path):
    document = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 42}],
        "annotations": [
            {"image_id": 7, "id": 1, "caption": "An owl.\n"},
            {"image_id": 7, "id": 2, "caption": "a bird"},
            {"image_id": 42, "id": 3, "caption": "a cat"},
            {"image_id": 9, "id": 4, "caption": "nothing"},
        ],
    }
    lines, faults = converted(folder, document, split="test")
    assert lines == [
        {"image": "a.png", "texts": ["An owl.", "a bird"], "split": "test"},
        {"image": "COCO_val2014_000000000042.jpg", "texts": ["a cat"], "split": "test"},
    ]
    assert len(faults) == 1 and "names the picture 9" in faults[0]


def test_questions_and_annotations_of_vqa_are_joined(folder: Path):
    questions = {"questions": [{"image_id": 42, "question": "How many?", "question_id": 420}]}
    answers = {"annotations": [{"question_id": 420, "image_id": 42, "answers": [
        {"answer": "2"}, {"answer": "3"}, {"answer": "3"}]}]}  # fmt: skip
    lines, _ = converted(folder, questions, answers)
    assert lines == [{"image": NAMES[3], "question": "How many?", "answer": "3"}]
    for alone, words in ((questions, "give the file of annotations too"), (answers, "give the file of questions too")):
        (folder / "alone.json").write_text(json.dumps(alone))
        with pytest.raises(UserError, match=words):
            convert([folder / "alone.json"], folder / "other.jsonl", None, on_fault=pytest.fail)


def test_flat_questions_and_fields_of_other_names(folder: Path):
    lines, faults = converted(
        folder,
        {"data": [{"image": "a.png", "question": "Dark?", "answer": True, "split": "validation"}]},
    )
    assert lines == [{"image": "a.png", "question": "Dark?", "answer": "yes", "split": "val"}] and not faults


def test_tables_and_captions_beside_pictures(folder: Path):
    table = folder / "captions.csv"
    table.write_text("image_name| comment_number| comment\na.png| 0| an owl\na.png| 1| a bird\nb.png| 0| a cat\n")
    out, count = convert([table], folder / "table.jsonl", None, on_fault=pytest.fail)
    assert count == 2 and json.loads(out.read_text().splitlines()[0]) == {
        "image": "a.png",
        "texts": ["an owl", "a bird"],
    }
    (folder / "a.txt").write_text("an owl\n")
    (folder / "b.txt").write_bytes(b"\xff")
    faults: list[str] = []
    out, count = convert([folder], folder / "beside.jsonl", None, on_fault=faults.append)
    assert count == 1 and json.loads(out.read_text()) == {"image": "a.png", "texts": ["an owl"]}
    assert len(faults) == 3 and any("b.txt" in fault for fault in faults)


def test_a_picture_outside_of_the_folder_is_not_named(folder: Path):
    (folder / "inner").mkdir()
    (folder / "inner" / "x.json").write_text(
        json.dumps([{"image": "../a.png", "text": "x"}, {"image": str(folder / "b.png"), "text": "y"}])
    )
    with pytest.raises(UserError, match="No sample"):
        convert([folder / "inner" / "x.json"], None, None, on_fault=lambda sentence: None)
    assert not (folder / "inner" / "manifest.jsonl").exists()


def test_a_manifest_is_not_overwritten_and_lies_around_its_pictures(folder: Path):
    (folder / "x.json").write_text(json.dumps([{"image": "c.png", "text": "x"}]))
    out, _ = convert([folder / "x.json"], None, folder / "sub", on_fault=pytest.fail)
    assert out == folder / "sub" / "manifest.jsonl"
    with pytest.raises(UserError, match="exists already"):
        convert([folder / "x.json"], None, folder / "sub", on_fault=pytest.fail)
    around, _ = convert([folder / "x.json"], folder / "m.jsonl", folder / "sub", on_fault=pytest.fail)
    assert json.loads(around.read_text())["image"] == "sub/c.png"
    with pytest.raises(UserError, match="write it to"):
        convert([folder / "x.json"], folder / "other" / "m.jsonl", folder / "sub", on_fault=pytest.fail)


@pytest.mark.parametrize(
    ("document", "words"),
    [({"annotations": [{"bbox": []}]}, "no format known here"), ([{"x": 1}], "No sample"), ("", "neither JSON nor")],
)
def test_other_documents_are_refused(folder: Path, document: Any, words: str):
    with pytest.raises(UserError, match=words):
        converted(folder, document)
