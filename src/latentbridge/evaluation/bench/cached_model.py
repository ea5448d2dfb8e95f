"""A model whose replies, pictures and embeddings are kept by content, so that a changed scorer generates nothing again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from PIL import Image

from latentbridge.data.stores.embeddings import EmbeddingStore
from latentbridge.errors import StorageError, UserError
from latentbridge.evaluation.bench.json_log import JsonLog
from latentbridge.evaluation.bench.pictures import PictureReader, PictureSource
from latentbridge.files import atomic_write
from latentbridge.images import open_picture
from latentbridge.models.checkpoint import as_trainable, fingerprint
from latentbridge.models.options import with_options
from latentbridge.models.tokenization import encode
from latentbridge.models.trainable import TrainableModel
from latentbridge.models.unified import CHAT_PURPOSE, UnifiedModel
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation, EmbeddingSpace, Picture

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """A placeholder for a reply, picture or embedding that could not be made."""

    reason: str


@dataclass(frozen=True)
class Question:
    """A prompt after any number of pictures."""

    prompt: str
    pictures: tuple[PictureSource, ...] = ()


@dataclass(frozen=True)
class _Job(Generic[T]):
    """One generation: its key, and what makes it."""

    key: str
    content: T


class CachedModel:
    """A model beside a folder of what it generated, keyed by weights, precision, device kind, inputs, options and seed.

    Everything takes lists, generates what is not kept yet in batches, and returns a `Failure` for an item that the model
    refuses with a UserError, whatever the others in its batch.
    """

    def __init__(
        self,
        model: UnifiedModel,
        folder: Path,
        *,
        batch_size: int = 8,
        seed: int = 0,
        reply_options: dict[str, Any] | None = None,
        drawing_options: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.folder, self.batch_size, self.seed = model, folder, batch_size, seed
        self.reply_options, self.drawing_options = reply_options or {}, drawing_options or {}
        self.pictures = PictureReader()
        self.identity = {
            "model": fingerprint(model),
            "kind": model.kind,
            "compat": getattr(getattr(model, "backbone", None), "compat", "corrected"),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
        }
        self.generated = 0
        """Number of replies, pictures and embeddings made since this was built; what was kept does not count."""
        self._replies = JsonLog(folder / "replies.jsonl", "key")
        self._shares = JsonLog(folder / "probabilities.jsonl", "key")
        self._embeddings: EmbeddingStore | None = None

    def reply(self, questions: Sequence[Question], **options: Any) -> list[str | Failure]:
        """Return the replies to questions; `options` are fields of the model's `reply_options`."""
        self.model.require("understand")
        resolved = with_options(self.model.reply_options, {**options, **self.reply_options})
        content = {"skill": "reply", "options": asdict(resolved), "seed": self.seed}

        def make(jobs: Sequence[_Job[Question]]) -> list[str]:
            conversations = [self._conversation(job.content) for job in jobs]
            generators = [torch_rng(self.seed, CHAT_PURPOSE) for _ in jobs]
            replies = self.model.reply(conversations, generators, **asdict(resolved))
            return [reply.text for reply in replies]

        def keep(keys: Sequence[str], texts: Sequence[str]) -> None:
            self._replies.append({"key": key, "text": text} for key, text in zip(keys, texts, strict=True))

        def kept(key: str) -> str | None:
            return self._replies.records[key]["text"] if key in self._replies else None

        jobs = [self._job(question, question.prompt, question.pictures, content) for question in questions]
        return self._run(jobs, kept, make, keep)

    def probabilities(
        self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]
    ) -> list[list[float] | Failure]:
        """Return the probability of each candidate reply to each question, among its candidates."""
        model = as_trainable(self.model)

        def make(jobs: Sequence[_Job[tuple[Question, Sequence[str]]]]) -> list[list[float]]:
            return [_candidate_shares(model, self._conversation(job.content[0]), job.content[1]) for job in jobs]

        def keep(keys: Sequence[str], shares: Sequence[list[float]]) -> None:
            self._shares.append({"key": key, "shares": row} for key, row in zip(keys, shares, strict=True))

        def kept(key: str) -> list[float] | None:
            return self._shares.records[key]["shares"] if key in self._shares else None

        jobs = [
            self._job((question, replies), question.prompt, question.pictures, {"skill": "choose", "replies": replies})
            for question, replies in zip(questions, candidates, strict=True)
        ]
        return self._run(jobs, kept, make, keep)

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], rewrite: bool = True, **options: Any
    ) -> list[Picture | Failure]:
        """Return a picture for each prompt and seed; with `rewrite` a model that completes prompts does so."""
        self.model.require("generate")
        given = {**options, **self.drawing_options}
        resolved = with_options(self.model.drawing_options, given)
        self.model.check_size(resolved)  # once, not as a failure of every item
        content = {"skill": "generate", "options": asdict(resolved), "rewrite": rewrite}

        def make(jobs: Sequence[_Job[tuple[str, int]]]) -> list[Picture]:
            texts, numbers = zip(*(job.content for job in jobs), strict=True)
            return [
                result.picture for result in self.model.generate(list(texts), list(numbers), rewrite=rewrite, **given)
            ]

        rows = zip(prompts, seeds, strict=True)
        jobs = [self._job((prompt, seed), prompt, (), {**content, "seed": seed}) for prompt, seed in rows]
        return self._run(jobs, self._kept_picture, make, self._keep_pictures)

    def edit(
        self, pictures: Sequence[PictureSource], instructions: Sequence[str], seeds: Sequence[int], **options: Any
    ) -> list[Picture | Failure]:
        """Return each picture edited by its instruction."""
        self.model.require("edit")
        given = {**options, **self.drawing_options}
        resolved = with_options(self.model.edit_options, given)
        self.model.check_size(resolved)
        content = {"skill": "edit", "options": asdict(resolved)}

        def make(jobs: Sequence[_Job[tuple[PictureSource, str, int]]]) -> list[Picture]:
            sources, texts, numbers = zip(*(job.content for job in jobs), strict=True)
            opened = [self.pictures.open(source) for source in sources]
            return [result.picture for result in self.model.edit(opened, list(texts), list(numbers), **given)]

        rows = zip(pictures, instructions, seeds, strict=True)
        jobs = [self._job(row, row[1], (row[0],), {**content, "seed": row[2]}) for row in rows]
        return self._run(jobs, self._kept_picture, make, self._keep_pictures)

    def embed(
        self, kind: Literal["image", "text"], items: Sequence[PictureSource] | Sequence[str]
    ) -> list[np.ndarray | Failure]:
        """Return the unit vector, float32 [e], of each picture or text."""
        self.model.require("embed")
        store = self._embedding_store()

        def make(jobs: Sequence[_Job[Any]]) -> list[np.ndarray]:
            contents = [job.content for job in jobs]
            if kind == "text":
                vectors = self.model.embed(texts=contents)
            else:
                vectors = self.model.embed(images=[self.pictures.open(content) for content in contents])
            return list(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))  # 16 bits round unit vectors

        def keep(keys: Sequence[str], vectors: Sequence[np.ndarray]) -> None:
            store.add([bytes.fromhex(key) for key in keys], np.stack(vectors))

        def kept(key: str) -> np.ndarray | None:
            digest = bytes.fromhex(key)
            return store.vectors([digest])[0] if digest in store else None

        jobs: list[_Job[Any] | Failure] = []
        for item in items:
            text, sources = (str(item), ()) if kind == "text" else ("", (item,))
            jobs.append(self._job(item, text, sources, {"skill": f"embed {kind}"}))  # pyright: ignore[reportArgumentType]
        return self._run(jobs, kept, make, keep)

    def _job(self, content: T, text: str, pictures: Sequence[PictureSource], rest: dict[str, Any]) -> _Job[T] | Failure:
        """Return a generation under the hash of all that it depends on; a Failure if a picture cannot be read."""
        try:
            digests = [self.pictures.digest(picture) for picture in pictures]
        except UserError as error:
            return Failure(str(error))
        values = {**self.identity, "text": text, "pictures": digests, **rest}
        return _Job(sha256(json.dumps(values, sort_keys=True).encode()).hexdigest(), content)

    def _run(
        self,
        jobs: Sequence[_Job[Any] | Failure],
        kept: Callable[[str], Any],
        make: Callable[[Sequence[_Job[Any]]], list[Any]],
        keep: Callable[[Sequence[str], Sequence[Any]], None],
    ) -> list[Any]:
        """Return the result of each job: kept, made now, or a Failure."""
        results: dict[str, Any] = {}
        todo: dict[str, _Job[Any]] = {}
        for job in jobs:
            if isinstance(job, _Job) and job.key not in results and job.key not in todo:
                result = kept(job.key)
                if result is None:
                    todo[job.key] = job
                else:
                    results[job.key] = result
        waiting = list(todo.values())
        for start in range(0, len(waiting), self.batch_size):
            results |= self._make(waiting[start : start + self.batch_size], make, keep)
        return [results[job.key] if isinstance(job, _Job) else job for job in jobs]

    def _make(self, jobs: Sequence[_Job[Any]], make: Callable[..., list[Any]], keep: Callable[..., None]) -> Any:
        """Make a batch; if the model refuses it, make its items one by one."""
        try:
            made = make(jobs)
        except StorageError:
            raise
        except UserError as error:
            if len(jobs) == 1:
                return {jobs[0].key: Failure(str(error))}
            return {key: result for job in jobs for key, result in self._make([job], make, keep).items()}
        self.generated += len(made)
        keys = [job.key for job in jobs]
        keep(keys, made)
        return dict(zip(keys, made, strict=True))

    def _conversation(self, question: Question) -> Conversation:
        most, count = self.model.max_pictures, len(question.pictures)
        if most is not None and count > most:
            raise UserError(f"The question has {count} pictures and this model looks at {most}; choose another model.")
        pictures = tuple(self.model.fit(self.pictures.open(picture)) for picture in question.pictures)
        conversation = Conversation(((question.prompt, ""),), (pictures,) if pictures else ())
        tokens, limit = self.model.count_tokens(conversation), self.model.context_length
        if tokens >= limit:
            raise UserError(f"The question has {tokens} tokens and this model reads {limit}; choose another model.")
        return conversation

    def _picture_path(self, key: str) -> Path:
        return self.folder / "pictures" / f"{key}.png"

    def _kept_picture(self, key: str) -> Picture | None:
        path = self._picture_path(key)
        return open_picture(path) if path.is_file() else None

    def _keep_pictures(self, keys: Sequence[str], pictures: Sequence[Picture]) -> None:
        for key, picture in zip(keys, pictures, strict=True):
            with atomic_write(self._picture_path(key)) as temporary:
                Image.fromarray(picture).save(temporary)

    def _embedding_store(self) -> EmbeddingStore:
        if self._embeddings is None:
            identity = sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
            space = EmbeddingSpace(identity, self.model.embedding_size, "unit")
            self._embeddings = EmbeddingStore(self.folder / f"embeddings-{identity}", space)
        return self._embeddings


@torch.no_grad()
def _candidate_shares(model: TrainableModel, conversation: Conversation, replies: Sequence[str]) -> list[float]:
    """Return the probability of each reply as a whole, end of turn included, divided by their sum."""
    prompt = conversation.turns[0][0]
    logs: list[float] = []
    for reply in replies:
        loss = model.understanding_loss([replace(conversation, turns=((prompt, reply),))])
        logs.append(-float(loss) * (len(encode(model.tokenizer, reply)) + 1))
    shares = np.exp(np.array(logs) - max(logs))
    return (shares / shares.sum()).tolist()
