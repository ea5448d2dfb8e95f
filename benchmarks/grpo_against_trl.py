"""Our Step-GRPO stage beside trl's GRPOTrainer: the same weights, problems, rewards and settings, in turns, in one process.

A step is sampling, rewards, reference and update, without start and saving; steps on the same problems are compared. Replies
differ, and so do their lengths: hence a second ratio, by the sampled token. A resumed run is exact where its weights equal
those of an uninterrupted one bit for bit. Lines are those a user writes to train on a manifest. Needs trl and datasets.
Run: python benchmarks/grpo_against_trl.py [FOLDER of a trained reason-sft, else the shipped model]
"""

from __future__ import annotations

import inspect
import time
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from harness import ARGUMENTS, SMOKE, compare, keep, not_here, one_thread
from PIL import Image
from safetensors.torch import load_file
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor, TrainerCallback

from latentbridge.config import GrpoConfig, OptimConfig, RunConfig
from latentbridge.data.shapes.problems import problems
from latentbridge.data.shapes.render import render
from latentbridge.models.checkpoint import load, save_model, shipped
from latentbridge.prompts import deliberated
from latentbridge.recipes import recipe
from latentbridge.rng import numpy_rng
from latentbridge.run_folder import RunFolder
from latentbridge.training.loop import train
from latentbridge.training.objectives.rewards import REWARDS
from latentbridge.training.stages import make_stage

try:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
except ImportError as error:
    not_here(f"This benchmark compares with trl, and {error.name} is missing; install it: pip install trl datasets")

PROBLEMS, GENERATIONS, MAX_TOKENS, STEPS, ROUNDS = (1, 2, 8, 3, 1) if SMOKE else (4, 4, 128, 5, 2)
"""Of the steps of a round the first warms up and the last one also ends the run; neither counts."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The turns of `models/qwen_vl/modeling_qwen_vl.py`, as trl wants them."""


class Pace(NamedTuple):
    """Of the steps that count."""

    seconds: list[float]
    """Of CPU."""
    tokens: list[float]
    """Sampled."""


def main() -> None:
    one_thread()
    start = Path(ARGUMENTS[0]) if ARGUMENTS else shipped("tiny")
    with TemporaryDirectory() as folder:
        here = Path(folder)
        model = load(start)
        save_model(model, RunFolder(here / "start").model)
        model.backbone.model.save_pretrained(here / "hub")
        sides: dict[str, Any] = {"ours": Ours(here), "trl": Trl(here, model)}
        paces = {name: Pace([], []) for name in sides}
        for turn in range(ROUNDS):
            for name, side in sides.items():
                found = side.measure(here / f"{name}-{turn}")
                paces[name].seconds.extend(found.seconds)
                paces[name].tokens.extend(found.tokens)
        resumes = {name: side.resumes_exactly(here / f"{name}-resumed") for name, side in sides.items()}
    each = {name: [s / n for s, n in zip(*pace, strict=True)] for name, pace in paces.items()}
    targets = [
        compare("trl / ours, a step", paces["trl"].seconds, paces["ours"].seconds),
        compare("trl / ours, a sampled token", each["trl"], each["ours"]),
    ]
    details = {
        name: {
            "a step (CPU s)": round(median(pace.seconds), 3),
            "sampled tokens a step": round(median(pace.tokens)),
            "exact resume": resumes[name],
            "lines a user writes": sides[name].lines,
        }
        for name, pace in paces.items()
    }
    sizes = {"problems": PROBLEMS, "replies each": GENERATIONS, "tokens at most": MAX_TOKENS}
    keep(__file__, targets, {"trl": version("trl"), **sizes, **details})


def pace(clock: list[float], tokens: list[float]) -> Pace:
    """Of the moments (s of CPU) at which steps began, and the tokens sampled in each."""
    return Pace([after - before for before, after in zip(clock[1:], clock[2:], strict=False)], tokens[1:-1])


class Ours:
    """The stage `step_grpo` through the one loop."""

    lines = 1  # latentbridge train reason-step-grpo --set stage.manifest=own.jsonl

    def __init__(self, here: Path) -> None:
        self.here = here
        step_grpo = recipe("reason-step-grpo")
        settings = GrpoConfig(generations=GENERATIONS, max_tokens=MAX_TOKENS)
        self.config: RunConfig = replace(
            step_grpo,
            stage=replace(step_grpo.stage, grpo=settings),
            steps=STEPS,
            batch_size=PROBLEMS,
            optim=OptimConfig(lr=1e-5, muon_lr=0.0, warmup_steps=0, decay_fraction=0.0),
            init=(("", "start"),),
            log_every=1,
            checkpoint_every=1000,
            threads=1,
        )

    def measure(self, folder: Path) -> Pace:
        clock: list[float] = []
        stage: Any = make_stage(self.config)
        draw_batch = stage.batch

        def batch(model: Any, step: int) -> Any:
            clock.append(time.process_time())
            return draw_batch(model, step)

        stage.batch = batch
        train(self.config, stage, folder, progress=False)
        replies = PROBLEMS * GENERATIONS
        return pace(clock, [record["reply tokens"] * replies for record in RunFolder(folder).metrics()])

    def resumes_exactly(self, folder: Path) -> bool:
        config = replace(self.config, steps=3, checkpoint_every=2, stage=_short(self.config.stage))
        whole = train(config, make_stage(config), folder.with_suffix(".whole"), progress=False)
        stage: Any = make_stage(config)
        draw_batch = stage.batch

        def batch(model: Any, step: int) -> Any:
            if step == 2:
                raise KeyboardInterrupt
            return draw_batch(model, step)

        stage.batch = batch
        with suppress(KeyboardInterrupt):
            train(config, stage, folder, progress=False)
        resumed = train(config, make_stage(config), folder, resume=True, progress=False)
        return _equal(whole / "model.safetensors", resumed / "model.safetensors")


def _short(stage: Any) -> Any:
    return replace(stage, grpo=replace(stage.grpo, max_tokens=24))


def train_with_trl(
    manifest: list[dict], model: Any, processor: Any, folder: str, steps: int, tokens: int, **more: Any
) -> Any:
    """What a user of trl writes, once rewards, template and model are there."""

    def conversation(line: dict) -> dict:
        return {
            "prompt": [{"role": "user", "content": line["question"]}],
            "image": line["image"],
            "index": line["index"],
        }

    def reward(name: str) -> Any:
        def score(completions: list, index: list[int], **columns: Any) -> list[float]:
            texts = [completion[0]["content"] for completion in completions]
            return [REWARDS[name](text, manifest[i]["problem"]) for text, i in zip(texts, index, strict=True)]

        score.__name__ = name
        return score

    settings = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=PROBLEMS * GENERATIONS,
        num_generations=GENERATIONS,
        max_completion_length=tokens,
        temperature=1.2,
        beta=0.04,
        loss_type="grpo",
        reward_weights=[1.0, 0.1, 1.0],
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        max_steps=steps,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        **more,
    )
    rows = Dataset.from_list([conversation(line) for line in manifest])
    rewards = [reward(name) for name in REWARDS]
    return GRPOTrainer(model=model, reward_funcs=rewards, args=settings, train_dataset=rows, processing_class=processor)


class PictureProcessor(Qwen2VLProcessor):
    """transformers' processor without its half for videos, which needs torchvision."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **more: Any
    ) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
        super(Qwen2VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template, **more)


class Clock(TrainerCallback):
    """The moments at which steps begin."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.moments.append(time.process_time())


class Trl:
    """trl's trainer with the weights from disk, where its frozen start is read from too."""

    lines = len(
        [
            line
            for part in (inspect.getsource(train_with_trl), inspect.getsource(PictureProcessor), TEMPLATE)
            for line in part.splitlines()
            if line.strip()
        ]
    )

    def __init__(self, here: Path, model: Any) -> None:
        self.here, backbone = here, model.backbone
        self.processor = PictureProcessor(backbone.image_processor, backbone.tokenizer, chat_template=TEMPLATE)
        posed = [
            next(problems("train", rng))
            for rng in (numpy_rng(0, "problems", step) for step in range(STEPS))
            for _ in range(PROBLEMS)
        ]  # in the order in which our stage meets them
        self.manifest = [
            {
                "question": deliberated(problem.question),
                "image": Image.fromarray(render(scene)),
                "problem": problem,
                "index": index,
            }
            for index, (scene, problem) in enumerate(posed)
        ]

    def trainer(self, folder: Path, steps: int, tokens: int, **more: Any) -> Any:
        model = Qwen2VLForConditionalGeneration.from_pretrained(self.here / "hub", dtype=torch.float32)
        return train_with_trl(self.manifest, model, self.processor, str(folder), steps, tokens, **more)

    def measure(self, folder: Path) -> Pace:
        trainer, clock = self.trainer(folder, STEPS, MAX_TOKENS, save_strategy="no"), Clock()
        trainer.add_callback(clock)
        trainer.train()
        lengths = [
            log["completions/mean_length"] for log in trainer.state.log_history if "completions/mean_length" in log
        ]
        return pace(clock.moments, [length * PROBLEMS * GENERATIONS for length in lengths])

    def resumes_exactly(self, folder: Path) -> bool:
        saving = {"save_strategy": "steps", "save_steps": 2}
        whole = self.trainer(folder, 3, 24, **saving)
        whole.train()
        whole.save_model(str(folder / "whole"))
        resumed = self.trainer(folder, 3, 24, **saving)
        resumed.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
        resumed.save_model(str(folder / "resumed"))
        return _equal(folder / "whole" / "model.safetensors", folder / "resumed" / "model.safetensors")


def _equal(first: Path, second: Path) -> bool:
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


if __name__ == "__main__":
    main()
