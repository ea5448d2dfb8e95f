"""Tiny folders in the published formats of benchmarks, made of our own pictures and words."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture


def pictures(count: int) -> list[Picture]:
    return [render(scene) for scene in distinct_scenes("test", numpy_rng(0, "benchmark samples"), count)]


def save(picture: Picture, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def png(picture: Picture) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(rows[0])
    lines = ["\t".join(columns), *("\t".join(str(row.get(c, "")) for c in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mme(folder: Path) -> Path:
    """One task in the release's two layouts, one in the tool's: 2 + 2 + 1 pictures."""
    shown = pictures(5)
    for number in (0, 1):
        save(shown[number], folder / "existence" / f"{number}.jpg")
        lines = "Is there a circle? Please answer yes or no.\tYes\nIs there a dog? Please answer yes or no.\tNo\n"
        (folder / "existence" / f"{number}.txt").write_text(lines)
        save(shown[2 + number], folder / "artwork" / "images" / f"{number}.png")
        (folder / "artwork" / "questions_answers_YN").mkdir(exist_ok=True)
        (folder / "artwork" / "questions_answers_YN" / f"{number}.txt").write_text(lines)
    save(shown[4], folder / "code_reasoning" / "0.png")
    (folder / "code_reasoning.txt").write_text("0.png\tIs it 1?\tYes\n0.png\tIs it 2?\tNo\n")
    return folder


def pope(folder: Path, count: int = 2) -> Path:
    for number, picture in enumerate(pictures(count)):
        save(picture, folder / "val2014" / f"COCO_val2014_{number:012d}.jpg")
    for sampling in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": number,
                "image": f"COCO_val2014_{number // 2:012d}.jpg",
                "text": "Is there a circle in the image?" if number % 2 == 0 else "Is there a dog in the image?",
                "label": "no" if number % 2 else "yes",
            }
            for number in range(2 * count)
        ]
        write_lines(folder / f"coco_pope_{sampling}.json", rows)
    return folder


def mmbench(folder: Path) -> Path:
    """Two questions, each with its second rotation, whose picture is named by the first row's index."""
    rows: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures(2)):
        common = {"hint": "", "question": "Which shape?", "category": "shape", "C": "", "D": ""}
        text = base64.b64encode(png(picture)).decode()
        rows.append({"index": number, **common, "A": "circle", "B": "star", "answer": "A", "image": text})
        again = {"index": 1_000_000 + number, **common, "A": "star", "B": "circle", "answer": "B", "image": number}
        rows.append(again)
    write_tsv(folder / "MMBench_DEV_EN.tsv", sorted(rows, key=lambda row: row["index"]))
    return folder


def mmstar(folder: Path) -> Path:
    question = "Which?\nOptions: A: one, two, B: three, C: four, D: five"
    rows = [
        {
            "index": n,
            "question": question,
            "image": png(p),
            "answer": "A",
            "category": "math",
            "l2_category": "geometry",
        }
        for n, p in enumerate(pictures(2))
    ]
    write_parquet(folder / "mmstar.parquet", rows)
    return folder


def scienceqa(folder: Path) -> Path:
    common = {
        "question": "Which?",
        "choices": ["a rock", "a star"],
        "answer": 1,
        "hint": "",
        "subject": "natural science",
    }
    problems = {
        "1": {**common, "image": "image.png", "split": "test"},
        "2": {**common, "image": None, "split": "test", "hint": "Stars shine."},
        "3": {**common, "image": "image.png", "split": "train"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "problems.json").write_text(json.dumps(problems))
    save(pictures(1)[0], folder / "images" / "test" / "1" / "image.png")
    return folder


def ai2d(folder: Path) -> Path:
    rows = [
        {
            "question": "What eats A?",
            "options": ["fox", "owl"],
            "answer": str(n),
            "image": {"bytes": png(p), "path": ""},
        }
        for n, p in enumerate(pictures(2))
    ]
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", rows)
    return folder


def m3cot(folder: Path) -> Path:
    rows = [
        {
            "id": f"science-{n}", "question": "Which?", "context": "", "choices": ["one", "two", "three"], "answer": "C",
            "domain": "science", "topic": "physics", "image": f"images/{n}.png",
        }
        for n in range(2)
    ]  # fmt: skip
    for number, picture in enumerate(pictures(2)):
        save(picture, folder / "images" / f"{number}.png")
    write_lines(folder / "test.jsonl", rows)
    return folder


def mmmu(folder: Path) -> Path:
    """A lettered question whose second picture is in an option, and an open one with two answers."""
    one, two = ({"bytes": png(picture), "path": "x.png"} for picture in pictures(2))
    rows = [
        {
            "id": "validation_Art_1", "question": "What is <image 1>?", "options": "['a star', '<image 2>']",
            "answer": "B", "question_type": "multiple-choice", "image_1": one, "image_2": two,
        },
        {
            "id": "validation_Art_2", "question": "How many in <image 1>?", "options": "[]",
            "answer": "['3', 'three']", "question_type": "open", "image_1": one, "image_2": None,
        },
    ]  # fmt: skip
    write_parquet(folder / "Art" / "validation-00000-of-00001.parquet", rows)
    return folder


def mathvista(folder: Path) -> Path:
    common = {"unit": None, "precision": None, "answer_type": "text", "metadata": {"task": "figure question answering"}}
    shown = [{"bytes": png(picture), "path": ""} for picture in pictures(2)]
    query = "Hint: Please answer the question and provide the correct option letter at the end.\nQuestion: Which?"
    rows = [
        {"pid": "1", "question": "Which?", "query": f"{query}\nChoices:\n(A) yes\n(B) no", "choices": ["yes", "no"],
         "answer": "no", "question_type": "multi_choice", "image": "images/1.jpg", "decoded_image": shown[0], **common},
        {"pid": "2", "question": "How many?", "query": "How many?", "choices": None, "answer": "4",
         "question_type": "free_form", "image": "images/2.jpg", "decoded_image": shown[1], **common},
    ]  # fmt: skip
    write_parquet(folder / "data" / "testmini-00000-of-00001.parquet", rows)
    return folder


QUESTIONS = {
    "mme": mme, "pope": pope, "mmbench": mmbench, "mmstar": mmstar, "scienceqa": scienceqa, "ai2d": ai2d,
    "m3cot": m3cot, "mmmu": mmmu, "mathvista-mc": mathvista,
}  # fmt: skip


def karpathy(folder: Path, name: str) -> Path:
    """Three test pictures of five or six captions, and one of another split."""
    rows: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures(4)):
        save(picture, folder / "val2014" / f"{number}.jpg")
        ids = [10 * number + place for place in range(6 if number == 1 else 5)]
        rows.append(
            {
                "filepath": "val2014", "filename": f"{number}.jpg", "cocoid": number, "sentids": ids,
                "split": "train" if number == 3 else "test",
                "sentences": [{"raw": f"a thing {id}", "sentid": id, "tokens": [], "imgid": number} for id in ids],
            }
        )  # fmt: skip
    (folder / f"dataset_{name}.json").write_text(json.dumps({"dataset": name, "images": rows}))
    return folder


def eccv(folder: Path) -> Path:
    karpathy(folder, "coco")
    (folder / "eccv_image_to_caption.json").write_text(json.dumps({"0": [0, 1, 10], "2": [20]}))
    (folder / "eccv_caption_to_image.json").write_text(json.dumps({"0": [0, 1], "20": [2]}))
    np.save(folder / "coco_test_ids.npy", np.array([0, 1, 2, 3, 4, 10, 11, 12, 13, 15, 20, 21, 22, 23, 24]))
    return folder


def cirr(folder: Path) -> Path:
    names = {f"dev-{n}": f"./dev/dev-{n}.png" for n in range(7)}
    for picture, path in zip(pictures(7), names.values(), strict=True):
        save(picture, folder / path)
    members = [f"dev-{n}" for n in range(6)]
    rows = [
        {"pairid": 100 + n, "reference": f"dev-{n}", "target_hard": f"dev-{n + 1}", "target_soft": {f"dev-{n + 1}": 1.0},
         "caption": "Show one circle more", "img_set": {"id": 1, "members": members}}
        for n in range(2)
    ]  # fmt: skip
    (folder / "cap.rc2.val.json").write_text(json.dumps(rows))
    (folder / "split.rc2.val.json").write_text(json.dumps(names))
    return folder


def fashioniq(folder: Path) -> Path:
    for offset, kind in enumerate(("dress", "shirt")):
        names = [f"B{offset}{n}" for n in range(3)]
        for number, name in enumerate(names):
            save(pictures(6)[3 * offset + number], folder / "images" / f"{name}.{'png' if number else 'jpg'}")
        row = {"target": names[1], "candidate": names[0], "captions": ["is shorter.", "has a star"]}
        (folder / f"cap.{kind}.val.json").write_text(json.dumps([row]))
        (folder / f"split.{kind}.val.json").write_text(json.dumps(names))
    return folder


RETRIEVAL = {
    "flickr30k": lambda folder: karpathy(folder, "flickr30k"),
    "coco": lambda folder: karpathy(folder, "coco"),
    "eccv-caption": eccv,
    "cirr": cirr,
    "fashioniq": fashioniq,
}


def geneval(folder: Path) -> Path:
    rows = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
        {"tag": "counting", "include": [{"class": "tv remote", "count": 2}], "exclude": [{"class": "tv remote", "count": 3}],
         "prompt": "a photo of two tv remotes"},
    ]  # fmt: skip
    write_lines(folder / "evaluation_metadata.jsonl", rows)
    return folder


def geneval2(folder: Path) -> Path:
    row = {
        "prompt": "two red stars", "atom_count": 3, "skills": ["count", "attribute", "object"],
        "vqa_list": [["How many stars are in the image?", "two"], ["Are the stars red?", "Yes"], ["Are there any stars in the image?", "Yes"]],
    }  # fmt: skip
    write_lines(folder / "geneval2_data.jsonl", [row])
    return folder


def dpg(folder: Path) -> Path:
    """Two prompts; the first row of the file is the first question of the first."""
    lines = [
        "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language",
        'p1,"a red star, left",,1,0,entity,whole,entity - whole (star),Is there a star?',
        'p1,"a red star, left",,2,1,attribute,color,"attribute - color (star, red)",Is the star red?',
        "p2,a circle,,1,0,entity,whole,entity - whole (circle),Is there a circle?",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dpg_bench.csv").write_text("\n".join(lines) + "\n")
    return folder


def mjhq(folder: Path) -> Path:
    rows = {f"a{n}": {"category": "art", "prompt": f"{n} circles"} for n in range(3)}
    for id, picture in zip(rows, pictures(3), strict=True):
        save(picture, folder / "mjhq30k_imgs" / "art" / f"{id}.jpg")
    (folder / "meta_data.json").write_text(json.dumps(rows))
    return folder


def unified_bench(folder: Path) -> Path:
    for number, picture in enumerate(pictures(2)):
        save(picture, folder / "Image" / f"{number}.jpg")
    return folder


def realunify(folder: Path) -> Path:
    common = {
        "question": "Which?",
        "option": ["one", "two"],
        "evaluation_prompt": "Which?\nA. one\nB. two",
        "answer": "B",
    }
    rows = [
        {"index": n, "task_type": "mental_tracking", "input_image": f"./image/t/{n}.png", "edit_prompt": "remove the star", **common}
        for n in range(2)
    ]  # fmt: skip
    for number, picture in enumerate(pictures(2)):
        save(picture, folder / "image" / "t" / f"{number}.png")
    for way in ("direct", "step"):
        (folder / f"GEU_{way}.json").write_text(json.dumps(rows))
    return folder


GENERATION = {
    "geneval": geneval, "geneval2": geneval2, "dpg-bench": dpg, "mjhq": mjhq, "unified-bench": unified_bench,
    "realunify-direct": realunify, "realunify-step": realunify,
}  # fmt: skip


def wise(folder: Path, end: str = "") -> Path:
    rows = [
        {"Prompt": f"planet {n}", "Explanation": "Jupiter", "Category": "x", "Subcategory": "y", "prompt_id": n}
        for n in (568, 401)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"spatio-temporal_reasoning{end}.json").write_text(json.dumps(rows))
    return folder


def imgedit(folder: Path) -> Path:
    rows = {str(n): {"id": f"animal/{n}.jpg", "prompt": "make it red", "edit_type": "adjust"} for n in range(2)}
    for number, picture in enumerate(pictures(2)):
        save(picture, folder / "animal" / f"{number}.jpg")
    (folder / "basic_edit.json").write_text(json.dumps(rows))
    (folder / "prompts.json").write_text(json.dumps({"adjust": "Grade this edit: <edit_prompt>"}))
    return folder


def gedit(folder: Path) -> Path:
    rows = [
        {"key": f"k{n}", "task_type": "color_alter", "instruction": "make it red", "instruction_language": language,
         "Intersection_exist": True, "input_image": {"bytes": png(picture), "path": ""}}
        for n, (language, picture) in enumerate(zip(("en", "cn"), pictures(2), strict=True))
    ]  # fmt: skip
    write_parquet(folder / "data.parquet", rows)
    return folder


def ueval(folder: Path) -> Path:
    rubric = {"criterion": "It is red.", "tags": ["x"]}
    row = {
        "id": "1", "prompt": "How do I draw a star?", "task_type": "art", "question_type": "open",
        "text_rubrics": [rubric, {"criterion": "It is blue.", "tags": ["x"]}], "image_rubrics": [{**rubric, "type": "y"}],
    }  # fmt: skip
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", [row])
    return folder


def mmvet(folder: Path) -> Path:
    rows = {
        f"v1_{n}": {"imagename": f"v1_{n}.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"][: n + 1]}
        for n in range(2)
    }  # fmt: skip
    for name, picture in zip(rows, pictures(2), strict=True):
        save(picture, folder / "images" / f"{name}.png")
    (folder / "mm-vet.json").write_text(json.dumps(rows))
    return folder


JUDGED = {
    "wise": wise,
    "wise-verified": lambda folder: wise(folder, "_verified"),
    "imgedit": imgedit,
    "gedit": gedit,
    "ueval": ueval,
    "mm-vet": mmvet,
    "mathvista": mathvista,
}
