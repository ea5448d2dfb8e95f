"""Groups of replies sampled from the policy as it is, and what they are worth: the data of reinforcement learning."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentbridge.config import GrpoConfig
from latentbridge.data.reasoning import Problem
from latentbridge.data.shapes.tasks import problem_conversation
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.qwen_vl.sampling import Replies, sample_replies
from latentbridge.ranks import local_rows
from latentbridge.rng import torch_rng
from latentbridge.training.objectives.rewards import grade, weigh
from latentbridge.types import Picture


@dataclass(frozen=True)
class Rollouts:
    """g replies to each of b problems."""

    prompts: TokenBatch
    """The problems [b s], padded on the left."""
    replies: Replies
    """[b * g t]; those to one problem follow each other."""
    rewards: Tensor
    """float32 [b g]."""
    told: dict[str, float]
    """What to log of them."""


def roll_out(
    backbone: QwenVL, problems: Sequence[tuple[Picture, Problem]], settings: GrpoConfig, seed: int, step: int
) -> Rollouts:
    """A group of replies to each of this rank's problems; reply i of a step, counted over the problems of all ranks, is a
    function of (seed, step, i) and the weights alone."""
    began = time.perf_counter()
    count = settings.generations
    places = [number * count + copy for number in local_rows(list(range(len(problems)))) for copy in range(count)]
    problems = local_rows(list(problems))
    prompts = backbone.tokenize(
        [problem_conversation(problem, picture) for picture, problem in problems], open_ended=True, pad="left"
    )
    replies = sample_replies(
        backbone,
        prompts,
        copies=count,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        generators=[torch_rng(seed, "rollout", step, place) for place in places],
    )
    seconds = time.perf_counter() - began
    texts = [
        text if ended else ""
        for text, ended in zip(backbone.decode(replies.tokens), replies.ended.tolist(), strict=True)
    ]
    graded = [grade(text, problems[index // count][1]) for index, text in enumerate(texts)]
    rewards = torch.tensor([weigh(each, settings.rewards) for each in graded]).view(len(problems), count)
    parts = {name.replace("_", " "): sum(each[name] for each in graded) / len(graded) for name in graded[0]}
    tokens = int(replies.mask.sum())
    told = {
        "reward": float(rewards.mean()),
        **parts,
        "reply tokens": tokens / len(texts),
        "unfinished": 1 - float(replies.ended.float().mean()),
        "groups of equals": float((rewards.amax(dim=1) == rewards.amin(dim=1)).float().mean()),
        "tokens per second": tokens / seconds,
    }
    return Rollouts(prompts, replies, rewards, told)
