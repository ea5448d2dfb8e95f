"""Rollouts of reinforcement learning: groups of replies sampled from the current policy, and their rewards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentbridge.config import GrpoConfig
from latentbridge.data.reasoning import Problem
from latentbridge.data.shapes.tasks import problem_conversation
from latentbridge.models.options import ReplyOptions
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.qwen_vl.sampling import Replies, sample_replies
from latentbridge.ranks import local_rows
from latentbridge.rng import torch_rng
from latentbridge.training.objectives.rewards import grade, weigh
from latentbridge.types import Picture


@dataclass(frozen=True)
class Rollouts:
    """Groups of g replies to each of b problems."""

    prompts: TokenBatch
    """The problems [b s], padded on the left."""
    replies: Replies
    """[b * g t]; the replies of a group follow each other."""
    rewards: Tensor
    """float32 [b g]."""
    metrics: dict[str, float]
    """Mean rewards, lengths and speed, for the log."""


def roll_out(
    backbone: QwenVL, problems: Sequence[tuple[Picture, Problem]], settings: GrpoConfig, seed: int, step: int
) -> Rollouts:
    """Return a group of replies to each of this rank's problems.

    Reply i of a step, counted over the problems of all ranks, is a function of (seed, step, i) and the weights alone.
    """
    start = time.perf_counter()
    count = settings.generations
    indices = [number * count + copy for number in local_rows(list(range(len(problems)))) for copy in range(count)]
    problems = local_rows(list(problems))
    prompts = backbone.tokenize(
        [problem_conversation(problem, picture) for picture, problem in problems], open_ended=True, pad="left"
    )
    replies = sample_replies(
        backbone,
        prompts,
        ReplyOptions(settings.max_tokens, settings.temperature),
        [torch_rng(seed, "rollout", step, index) for index in indices],
        copies=count,
    )
    seconds = time.perf_counter() - start
    texts = [
        text if ended else ""
        for text, ended in zip(backbone.decode(replies.tokens), replies.ended.tolist(), strict=True)
    ]
    grades = [grade(text, problems[index // count][1]) for index, text in enumerate(texts)]
    rewards = torch.tensor([weigh(parts, settings.rewards) for parts in grades]).view(len(problems), count)
    means = {name.replace("_", " "): sum(parts[name] for parts in grades) / len(grades) for name in grades[0]}
    tokens = int(replies.mask.sum())
    metrics = {
        "reward": float(rewards.mean()),
        **means,
        "reply tokens": tokens / len(texts),
        "unfinished": 1 - float(replies.ended.float().mean()),
        "groups of equals": float((rewards.amax(dim=1) == rewards.amin(dim=1)).float().mean()),
        "tokens per second": tokens / seconds,
    }
    return Rollouts(prompts, replies, rewards, metrics)
