"""Benchmarks of generated pictures: grading rules by hand, real folders of graders, and whole runs of two models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.bench import graders, samples

from latentbridge.cli import main
from latentbridge.errors import UserError
from latentbridge.evaluation.bench.asked import DpgBench, GenEval2, geometric_mean
from latentbridge.evaluation.bench.benchmark import Result
from latentbridge.evaluation.bench.cached_model import CachedModel, Failure, Question
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.detector import Detected, Detector, box_of, surest
from latentbridge.evaluation.bench.encoders import PictureEncoder, load_encoder
from latentbridge.evaluation.bench.geneval import COLOURS, GenEval, colour_classifier, crop, first_fault, relations
from latentbridge.evaluation.bench.harness import run_benchmark
from latentbridge.evaluation.bench.mjhq import frechet_distance
from latentbridge.evaluation.bench.realunify import read_first_letter
from latentbridge.evaluation.bench.registry import BENCHMARKS, make_benchmark
from latentbridge.models.teachers import load_teacher


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("graders")
    made = {"clip": graders.clip, "dino": graders.dino, "boxes": graders.boxes, "masks": graders.masks}
    return {name: make(root / name) for name, make in made.items()}


@pytest.mark.parametrize("name", samples.GENERATION)
def test_every_benchmark_runs_for_two_models(
    name: str, tmp_path: Path, two_models, small_bagel, tiny, tools_of, folders: dict[str, Path]
):
    model = (
        small_bagel if name == "realunify-step" and two_models is not tiny else two_models
    )  # Janus-Pro edits nothing
    others: dict[str, Any] = {
        "geneval": {"detector": Detector(folders["boxes"]), "colours": load_teacher(f"clip:{folders['clip']}")},
        "geneval2": {"vqa": CachedModel(tiny, tmp_path / "vqa")},
        "dpg-bench": {"vqa": CachedModel(tiny, tmp_path / "vqa", reply_options={"max_tokens": 3})},
        "mjhq": {"encoders": [load_encoder(f"dinov2:{folders['dino']}")]},
        "unified-bench": {
            "encoders": [load_encoder(f"dinov2:{folders['dino']}"), load_encoder(f"clip:{folders['clip']}")]
        },
    }.get(name, {})
    files = DataFolder(samples.GENERATION[name](tmp_path / "data"))
    tools = tools_of(model, **others)
    report = run_benchmark(name, make_benchmark(name), files, tools, tmp_path / "run", progress=False)
    assert report["counts"]["missing"] == 0 and tools.model.generated > 0
    assert all(row["low"] <= row["value"] <= row["high"] for row in report["rows"])
    again = tools_of(model, **others)
    repeated = run_benchmark(name, make_benchmark(name), files, again, tmp_path / "run", progress=False)
    assert again.model.generated == 0 and repeated["rows"] == report["rows"]


def test_benchmarks_name_the_grading_model_they_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, entry in BENCHMARKS.items():
        if entry.needs:
            with pytest.raises(SystemExit) as ended:
                main(["bench", name, "--data", str(tmp_path)])
            assert ended.value.code == 2 and f"--{entry.needs[0]}" in capsys.readouterr().err


# --- GenEval ---


def at(name: str, left: float, top: float, score: float = 0.9, size: float = 10) -> Detected:
    return Detected(name, score, (left, top, left + size, top + size))


def no_colours(objects: Any, name: str) -> list[str]:
    raise AssertionError("colours were asked for")


def fault(row: dict[str, Any], *objects: Detected, colours: Any = no_colours) -> str:
    return first_fault(row, surest(objects, 0.3, 16), colours)


def test_geneval_counts_with_include_and_exclude():
    row = {"include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}]}
    two = [at("dog", 0, 0), at("dog", 20, 0)]
    assert fault(row, *two) == ""
    assert fault(row, two[0]) == "1 of 2 dog"
    assert fault(row, *two, at("dog", 40, 0)) == "3 or more dog"
    assert fault(row, *two, at("dog", 40, 0, score=0.3)) == ""  # not above the threshold
    assert surest([at("dog", n, 0) for n in range(20)], 0.3, 16)["dog"][-1].box[0] == 15


def test_geneval_positions():
    row = {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}]}
    assert fault(row, at("cat", 50, 0), at("dog", 0, 0)) == ""
    assert fault(row, at("cat", 0, 0), at("dog", 50, 0)) == "dog is not left of the cat"
    assert fault(row, at("dog", 0, 0)) == "0 of 1 cat"
    assert relations(at("a", 0, 0), at("b", 50, 20)) == {"left of"}
    assert relations(at("a", 0, 0), at("b", 50, 50)) == {"left of", "above"}
    assert relations(at("a", 0, 0), at("b", 1, 1)) == set()  # within the margin of a tenth of both sizes
    assert relations(at("a", 0, 30), at("b", 0, 0)) == {"below"}


def test_geneval_colours_are_of_the_surest_objects():
    row = {"include": [{"class": "dog", "count": 1, "color": "red"}]}
    asked: list[tuple[int, str]] = []

    def colours(objects: Any, name: str) -> list[str]:
        asked.append((len(objects), name))
        return ["red" if each.box[0] == 0 else "blue" for each in objects]

    assert fault(row, at("dog", 0, 0, 0.9), at("dog", 50, 0, 0.8), colours=colours) == ""
    assert fault(row, at("dog", 50, 0, 0.9), at("dog", 0, 0, 0.8), colours=colours) == "dog is blue, not red"
    assert asked == [(1, "dog"), (1, "dog")]


def test_geneval_overall_is_the_mean_of_tags_and_missing_pictures_count():
    results = [Result(str(n), "right", 1.0, group="colors") for n in range(3)]
    results += [Result("m", "missing", group="colors"), Result("c", "wrong", group="counting")]
    scores = {score.metric: score.value for score in GenEval().aggregate(results)}
    assert scores["GenEval colors"] == 0.75 and scores["GenEval counting"] == 0
    assert scores["GenEval overall"] == 0.375


def test_crops_are_grey_outside_the_mask_and_have_the_size_of_the_box():
    picture = np.full((20, 30, 3), 200, dtype=np.uint8)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:10, 8:20] = True
    mask[5, 8] = False
    shown = crop(picture, Detected("x", 1.0, box_of(mask), mask))
    assert box_of(mask) == (8, 5, 20, 10) and shown.shape == (5, 12, 3)
    assert (shown[0, 0] == 0x99).all() and (shown[1:] == 200).all()
    assert crop(picture, Detected("x", 1.0, (-3.0, 2.0, 40.0, 2.2))).shape == (1, 30, 3)


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_detectors_pin_float32_and_name_all_that_confidence_depends_on(kind: str, folders: dict[str, Path]):
    detector = Detector(folders[kind])
    assert detector.classes == {"bench", "tv remote", "dog"}
    described = detector.describe()
    assert described["dtype"] == "float32" and described["masks"] == (kind == "masks") and len(described["model"]) > 16
    picture = np.asarray(samples.pictures(1)[0].repeat(2, axis=1))  # 64 x 128
    objects = detector.detect(picture)
    assert objects and [o.score for o in objects] == sorted((o.score for o in objects), reverse=True)
    for each in objects:
        assert each.name in detector.classes
        assert each.mask is None if kind == "boxes" else each.mask is not None and each.mask.shape == (64, 128)
    assert [(o.score, o.box) for o in objects] == [(o.score, o.box) for o in detector.detect(picture)]


def test_a_detector_without_the_classes_of_the_prompts_is_refused(
    tmp_path: Path, tiny, tools_of, folders: dict[str, Path]
):
    tools = tools_of(tiny, detector=Detector(folders["boxes"]), colours=load_teacher(f"clip:{folders['clip']}"))
    samples.write_lines(
        tmp_path / "evaluation_metadata.jsonl",
        [{"tag": "x", "prompt": "x", "include": [{"class": "zebra", "count": 1}]}],
    )
    benchmark = make_benchmark("geneval")
    with pytest.raises(UserError, match="knows no zebra"):
        benchmark.prepare(benchmark.load(DataFolder(tmp_path)), tools)


def test_colour_classifiers_average_templates(folders: dict[str, Path]):
    clip = load_teacher(f"clip:{folders['clip']}")
    classifier = colour_classifier(clip, "bench")
    assert classifier.shape == (10, 13) and np.allclose(np.linalg.norm(classifier, axis=1), 1, atol=1e-5)
    texts = ["a photo of a red bench", "a photo of a red-colored bench", "a photo of a red object"]
    mean = clip.embed_texts(texts).mean(axis=0)
    np.testing.assert_allclose(classifier[COLOURS.index("red")], mean / np.linalg.norm(mean), atol=1e-5)


# --- graded by questions ---


class Answers:
    """Stands in for a VQA `CachedModel`: replies by question, and the pictures it was shown."""

    identity = {"model": "answers"}

    def __init__(self, replies: dict[str, str]) -> None:
        self.replies, self.shown = replies, []

    def reply(self, questions: list[Question], **options: Any) -> list[str]:
        self.shown += [question.pictures[0] for question in questions]
        return [self.replies[question.prompt] for question in questions]

    def probabilities(self, questions: list[Question], candidates: list[tuple[str, ...]]) -> list[list[float]]:
        return [[0.9, 0.1] if len(known) == 2 else [0.0, 0.4, *[0.075] * 8] for known in candidates]


def graded_dpg(
    tmp_path: Path, replies: dict[str, str], pictures: list[Any]
) -> tuple[list[Result], dict[str, float], Answers]:
    benchmark, vqa = DpgBench(), Answers(replies)
    items = benchmark.load(DataFolder(samples.dpg(tmp_path)))
    tools: Any = type("", (), {"vqa": vqa})()
    results = [benchmark._grade(item, pictures, tools) for item in items]
    return results, {score.metric: score.value for score in benchmark.aggregate(results)}, vqa


def test_dpg_by_hand(tmp_path: Path):
    """The star is not there, so its red does not count; "Yes." is yes, and the first row of the file is asked."""
    replies = {"Is there a star?": "no", "Is the star red?": "Yes.", "Is there a circle?": "Yes."}
    shown = [np.zeros((64, 64, 3), np.uint8) + n for n in range(4)]
    results, scores, vqa = graded_dpg(tmp_path, replies, shown)
    assert [result.value for result in results] == [0, 1]
    assert scores["DPG-Bench"] == 0.5 and scores["DPG-Bench attribute"] == 0
    assert scores["DPG-Bench entity"] == pytest.approx(4 / 8)
    assert {picture.shape for picture in vqa.shown} == {(64, 64, 3)} and len(vqa.shown) == 12


def test_dpg_counts_missing_pictures_and_unparsed_answers(tmp_path: Path):
    replies = {"Is there a star?": "yes", "Is the star red?": "perhaps", "Is there a circle?": "yes"}
    shown = [np.zeros((8, 8, 3), np.uint8)] * 3
    results, scores, _ = graded_dpg(tmp_path, replies, [*shown, Failure("lost")])
    assert results[0].value == pytest.approx(0.5 * 3 / 4) and results[1].value == 0.75
    assert results[0].measures["unparsed answers"] == 3 and results[0].reason == "lost"
    assert scores["DPG-Bench entity"] == pytest.approx(6 / 8)
    results, _, _ = graded_dpg(tmp_path, replies, [Failure("lost")] * 4)
    assert [result.status for result in results] == ["missing", "missing"]
    assert results[0].measures["attribute asked"] == 4


def test_soft_tifa_by_hand(tmp_path: Path):
    benchmark = GenEval2()
    (item,) = benchmark.load(DataFolder(samples.geneval2(tmp_path)))
    tools: Any = type("", (), {"vqa": Answers({})})()
    result = benchmark._grade(item, np.zeros((8, 8, 3), np.uint8), tools)
    assert result.value == pytest.approx((0.4 + 0.9 + 0.9) / 3)
    assert result.measures["GM"] == pytest.approx((0.4 * 0.9 * 0.9) ** (1 / 3))
    tools.model = type("", (), {"seed": 0, "draw": lambda self, prompts, seeds: [Failure("lost")]})()
    (lost,) = benchmark.evaluate([item], tools)
    assert lost.status == "missing"
    scores = {score.metric: score.value for score in benchmark.aggregate([result, lost])}
    assert scores["Soft-TIFA AM (atoms)"] == pytest.approx(result.value / 2, abs=1e-5)
    assert scores["Soft-TIFA AM, count"] == pytest.approx(0.4 / 2)
    assert geometric_mean([0.5, 0.0]) == 0


def test_probabilities_are_of_the_model(tmp_path: Path, two_models):
    """They sum to 1, are kept, and the first is higher for what the model would say."""
    cached = CachedModel(two_models, tmp_path)
    question = Question("Is there a star?", (samples.pictures(1)[0],))
    (reply,) = cached.reply([question], max_tokens=12)
    other = "zzz q qq" if reply != "zzz q qq" else "yes"
    first, second = cached.probabilities([question, question], [(str(reply), other), (other, str(reply))])
    assert sum(first) == pytest.approx(1) and first == pytest.approx(second[::-1])
    made = cached.generated
    assert CachedModel(two_models, tmp_path).probabilities([question], [(str(reply), other)]) == [first] and made == 3


# --- encoders and distances ---


@pytest.mark.parametrize("kind", ["dinov2", "dinov3", "clip", "longclip"])
def test_encoders_are_named_by_kind_and_weights(kind: str, folders: dict[str, Path]):
    encoder = load_encoder(f"{kind}:{folders['dino' if kind in ('dinov2', 'dinov3') else 'clip']}")
    assert encoder.name.startswith(f"{kind}:") and len(encoder.name.partition(":")[2]) == 16
    vectors = encoder.unit_vectors(samples.pictures(2))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5) and not np.allclose(*vectors)
    with pytest.raises(UserError, match="Unknown encoder"):
        load_encoder("inception:x")


def test_frechet_distance_by_hand():
    rng = np.random.default_rng(0)
    one = rng.standard_normal((2_000, 3))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, one + [1, 2, 0]) == pytest.approx(5, abs=1e-9)
    scaled = one * [2, 1, 1]  # of one axis the deviation s becomes 2 s: s squared
    assert frechet_distance(one, scaled) == pytest.approx(one[:, 0].var(ddof=1) + one[:, 0].mean() ** 2, rel=1e-6)


def test_a_picture_not_redrawn_counts_as_0(tmp_path: Path, small_janus, tools_of):
    folder = samples.unified_bench(tmp_path / "data")
    (folder / "Image" / "1.jpg").write_text("broken")
    same = PictureEncoder("same:0", lambda pictures: np.ones((len(pictures), 2), np.float32))
    tools = tools_of(small_janus, encoders=[same])
    report = run_benchmark(
        "unified-bench", make_benchmark("unified-bench"), DataFolder(folder), tools, tmp_path / "r", progress=False
    )
    assert report["counts"]["missing"] == 1
    assert {row["value"] for row in report["rows"]} == {0.5}


@pytest.mark.parametrize(
    ("reply", "letter"),
    [("B", "B"), ("The answer is B.", "B"), ("(C) because", "C"), ("Because of D", "D"), ("Both", None), ("", None)],
)
def test_realunify_reads_the_first_letter(reply: str, letter: str | None):
    assert read_first_letter(reply) == letter


def test_realunify_counts_every_task_from_its_first_right_item(tmp_path: Path):
    """The authors' counters raise on the first right item of a task in their own list."""
    benchmark = make_benchmark("realunify-direct")
    items = benchmark.load(DataFolder(samples.realunify(tmp_path)))
    results = [benchmark.score(item, "B") for item in items]  # pyright: ignore[reportAttributeAccessIssue]
    assert benchmark.aggregate(results)[0].value == 1 and results[0].group == "mental_tracking"
    assert json.loads((tmp_path / "GEU_step.json").read_text())[0]["edit_prompt"]
