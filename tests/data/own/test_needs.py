from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.data.manifests import write_manifest

from latentbridge.config import SftConfig
from latentbridge.data.own.needs import accepting_recipes, check_own_data, training_uses
from latentbridge.data.own.sharding import shard_manifest
from latentbridge.errors import UserError
from latentbridge.recipes import recipe

ASKED = {"question": "Who?", "answer": "me"}
EDIT = {"instruction": "lighten", "target": "p0.png"}


def check(name: str, source: Path) -> None:
    check_own_data(recipe(name), str(source))


def refusal(name: str, source: Path) -> str:
    with pytest.raises(UserError) as caught:
        check(name, source)
    return str(caught.value)


def test_questions_alone_are_refused_with_a_recipe_that_takes_them(tmp_path: Path):
    manifest = write_manifest(tmp_path, 0, a=ASKED, b=ASKED, c={**ASKED, "split": "test"})
    words = f"has 2 with a question; finetune takes it: latentbridge train finetune --data {manifest}"
    assert refusal("post-sft", manifest) == f"post-sft needs texts, and the training split of {manifest} {words}"
    assert refusal("align", manifest).startswith("align needs texts, ")
    assert refusal("pretrain-backbone", manifest).startswith("pretrain-backbone takes no data of your own, ")
    for name in ("finetune", "drawings-sft", "reason-step-grpo"):
        check(name, manifest)
    assert accepting_recipes(training_uses(str(manifest))) == ["finetune", "drawings-sft", "reason-sft"]


def test_texts_suit_recipes_that_draw_but_not_rewards_for_answers(tmp_path: Path):
    manifest = write_manifest(tmp_path, 2)
    for name in ("finetune", "post-sft", "align", "pretrain-decoder"):
        check(name, manifest)
    assert refusal("reason-step-grpo", manifest).startswith("reason-step-grpo needs a question, ")


def test_an_edit_needs_a_description(tmp_path: Path):
    bare = write_manifest(
        tmp_path / "bare", 0, p0={"texts": ["x"], "split": "test"}, a={"edit": {**EDIT, "target": "a.png"}}
    )
    assert "1 training edits of" in refusal("finetune", bare) and 'a "description"' in refusal("finetune", bare)
    assert accepting_recipes(training_uses(str(bare))) == []
    described = write_manifest(tmp_path / "told", 0, a={"edit": {**EDIT, "target": "a.png", "description": "light"}})
    check("finetune", described)
    derived = write_manifest(tmp_path / "derived", 1, a={"edit": EDIT})  # p0 has a text of its own
    check("finetune", derived)
    assert training_uses(str(derived))["a described edit"] == 1


def test_shards_are_checked_by_their_index(tmp_path: Path):
    manifest = write_manifest(tmp_path / "own", 0, a=ASKED, b={**ASKED, "split": "test"})
    shard_manifest(manifest, tmp_path / "shards", progress=False)
    (tmp_path / "shards" / "train-000000.tar").unlink()  # nothing is read but the index
    assert "post-sft needs texts" in refusal("post-sft", tmp_path / "shards")
    check("finetune", tmp_path / "shards")


def test_data_for_training_must_be_in_the_training_split(tmp_path: Path):
    manifest = write_manifest(tmp_path, 0, a={"texts": ["x"], "split": "test"})
    for name in ("finetune", "post-sft"):
        assert refusal(name, manifest).startswith(f"{manifest} has no training sample; ")


def test_finetune_needs_data_and_others_do_not():
    with pytest.raises(UserError, match="give it with --data"):
        check_own_data(recipe("finetune"))
    check_own_data(recipe("post-sft"))
    assert SftConfig(sources=(("shapes", 1.0), ("mine.jsonl", 1.0))).own_sources == ["mine.jsonl"]


def test_added_data_are_half_of_the_samples(tmp_path: Path):
    manifest = str(write_manifest(tmp_path, 2))
    stage = check_own_data(recipe("sft"), manifest).stage
    assert isinstance(stage, SftConfig) and stage.sources == ((manifest, 1.0), ("shapes", 0.75), ("drawings", 0.25))
    assert stage.drawings_share == 0.25


def test_a_refusal_loads_no_torch(tmp_path: Path):
    manifest = write_manifest(tmp_path, 0, a=ASKED)
    code = (
        "import sys; from latentbridge.cli import main\n"
        f"sys.argv = ['latentbridge', 'train', 'post-sft', '--data', {json.dumps(str(manifest))}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n" and "post-sft needs texts" in done.stderr
