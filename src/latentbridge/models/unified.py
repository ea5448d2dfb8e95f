"""The contract of every model for its users: four skills over one item or a list."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from latentbridge import prompts
from latentbridge.config import NetworkConfig
from latentbridge.devices import device_of
from latentbridge.errors import UserError
from latentbridge.images import ImageLike, fit_square, open_picture
from latentbridge.models.input_check import InputCheck
from latentbridge.models.options import DrawingOptions, ReplyOptions, with_options
from latentbridge.models.tokenization import encode
from latentbridge.rng import repeat_seeds, torch_rng
from latentbridge.sampling_limits import check_sampling
from latentbridge.types import Conversation, EditResult, GenerationResult, Picture, Reply, Skill, WordReport

CHAT_PURPOSE = "chat"
"""Purpose of the generator that samples a reply (`rng.torch_rng`)."""
REWRITE_TEMPERATURE = 0.3
REWRITE_PURPOSE = "rewrite"
"""Purpose of the generator, in `rng.torch_rng(seed, purpose)`, that samples a rewritten prompt."""
_MODELS_WITH: dict[Skill, str] = {
    "understand": "OmniBridge, Janus-Pro, BAGEL and Harmon",
    "generate": "OmniBridge, Janus-Pro, BAGEL and Harmon",
    "edit": "OmniBridge and BAGEL",
    "embed": "OmniBridge, Janus-Pro, BAGEL, Harmon, CLIP and SigLIP",
}
_T = TypeVar("_T")


class UnifiedModel(nn.Module, ABC):
    """A model with up to four skills: understand, generate, edit, embed.

    Public methods take one item or a list and return one result or a list. Abstract methods take batches. The result of an
    item does not depend on the others in its batch, and nothing draws from a global generator.
    """

    kind: str
    """Family of the model: "omnibridge", "janus", "bagel", "harmon", or a dual encoder's name in transformers ("clip")."""
    config: NetworkConfig | None
    """Config that the model was built from; None for a release."""
    tokenizer: PreTrainedTokenizerBase
    image_size_px: int | None
    """Side of the square that the vision encoder reads; None if it reads any size."""
    drawing_size_px: int | None
    """Side of generated pictures; None for a model that generates none."""
    context_length: int
    """Largest number of tokens that prompt and reply may have together."""
    embedding_size: int
    """Length of a vector returned by `embed`."""
    reply_options: ReplyOptions
    """Options of a reply unless a call names others."""
    drawing_options: DrawingOptions
    """Options of a generated picture unless a call names others; of the model's own subclass."""
    edit_options: DrawingOptions
    """Options of an edited picture unless a call names others; only models with the skill "edit" have them."""

    def __init__(self) -> None:
        super().__init__()
        self.input_check = InputCheck()
        """Record of the training data that `load_model` found beside the weights; empty otherwise."""
        self.reply_options = ReplyOptions()
        self.templates = prompts.BUILT
        """The requests that the model was trained on."""
        self.max_pictures: int | None = None
        """Most pictures of a conversation; None for any number that fits the context."""
        self.takes_system_message = True
        """False for a model that was trained on conversations without a system message."""

    # --- properties ---

    @property
    def skills(self) -> frozenset[Skill]:
        """Skills this model has."""
        return frozenset(("understand", "generate", "embed"))

    @property
    def description_tokens(self) -> int:
        """Largest number of tokens of a rewritten prompt; 0 for a model that draws prompts as they are."""
        return 0

    @property
    def device(self) -> torch.device:
        return device_of(self)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def require(self, skill: Skill) -> None:
        """Raise UserError if the model lacks a skill."""
        if skill not in self.skills:
            raise UserError(
                f"This {self.kind} model cannot {skill}; load a model that can ({_MODELS_WITH[skill]}), such as 'tiny'."
            )

    def check_size(self, options: DrawingOptions) -> None:
        """Raise UserError for a size that the model does not draw; by default it draws one."""
        side = self.drawing_size_px or 0
        if options.size not in (None, (side, side)):
            size = "x".join(map(str, options.size))
            raise UserError(f"This {self.kind} model draws {side}x{side}, not {size}; leave out the size.")

    def at_size(self, options: DrawingOptions, size: tuple[int, int]) -> DrawingOptions:
        """Return options with the drawable size nearest to a width and height; by default a model draws one."""
        return options

    # --- the skills ---

    @overload
    def understand(
        self, images: ImageLike, questions: str = ..., *, reasoning: bool = False, **options: Any
    ) -> str: ...
    @overload
    def understand(
        self,
        images: Sequence[ImageLike],
        questions: str | Sequence[str] = ...,
        *,
        reasoning: bool = False,
        **options: Any,
    ) -> list[str]: ...
    @overload
    def understand(
        self, images: ImageLike, questions: Sequence[str], *, reasoning: bool = False, **options: Any
    ) -> list[str]: ...
    @torch.no_grad()
    def understand(
        self,
        images: ImageLike | Sequence[ImageLike],
        questions: str | Sequence[str] = prompts.CAPTION_REQUEST,
        *,
        reasoning: bool = False,
        **options: Any,
    ) -> str | list[str]:
        """Answer a question about an image; one image or question goes with a list of the other.

        `reasoning` asks for a worked answer: description, numbered steps, the final answer on the last line. `options` are
        fields of `reply_options`, and `seed`, which is 0 by default; item i of a list uses `seed + i`.
        """
        self.require("understand")
        items, texts, many = _paired(images, questions)
        pictures = [self.fit(item) for item in items]
        texts = [self.templates.with_reasoning(text) for text in texts] if reasoning else texts
        seeds = expand_seeds(options.pop("seed", 0), len(texts))
        conversations = [
            Conversation.with_picture(((text, ""),), picture) for text, picture in zip(texts, pictures, strict=True)
        ]
        replies = self.reply(conversations, [torch_rng(seed, CHAT_PURPOSE) for seed in seeds], **options)
        return _one_or_many([reply.text for reply in replies], many)

    @overload
    def rewrite(self, prompt: str, seed: int | Sequence[int] = 0, *, temperature: float = ...) -> str: ...
    @overload
    def rewrite(
        self, prompt: Sequence[str], seed: int | Sequence[int] = 0, *, temperature: float = ...
    ) -> list[str]: ...
    @torch.no_grad()
    def rewrite(
        self, prompt: str | Sequence[str], seed: int | Sequence[int] = 0, *, temperature: float = REWRITE_TEMPERATURE
    ) -> str | list[str]:
        """Complete a prompt into the full description to draw (prompt rewriting, arXiv 2509.19018).

        Return the prompt itself if the model draws prompts as they are.
        """
        texts, many = _listed(prompt)
        if self.description_tokens:
            generators = [torch_rng(value, REWRITE_PURPOSE) for value in expand_seeds(seed, len(texts))]
            conversations = [rewrite_conversation(self, text) for text in texts]
            limit = self.description_tokens
            replies = self.reply(conversations, generators, max_tokens=limit, temperature=temperature)
            texts = [prompts.unwrap_description(reply.text) for reply in replies]
        return _one_or_many(texts, many)

    @overload
    def generate(
        self, prompt: str, seed: int | Sequence[int] = 0, *, rewrite: bool = True, **options: Any
    ) -> GenerationResult: ...
    @overload
    def generate(
        self, prompt: Sequence[str], seed: int | Sequence[int] = 0, *, rewrite: bool = True, **options: Any
    ) -> list[GenerationResult]: ...
    @torch.no_grad()
    def generate(
        self, prompt: str | Sequence[str], seed: int | Sequence[int] = 0, *, rewrite: bool = True, **options: Any
    ) -> GenerationResult | list[GenerationResult]:
        """Generate a picture from a prompt; item i of a list uses `seed + i`.

        `rewrite` completes the prompt first; without it the prompt is taken as a full description. `options` are fields of
        `drawing_options`, such as `steps`, `guidance` and `size`.
        """
        self.require("generate")
        texts, many = _listed(prompt)
        seeds = expand_seeds(seed, len(texts))
        resolved = with_options(self.drawing_options, options)
        self.check_size(resolved)  # before the prompt is completed
        descriptions = self.rewrite(texts, seeds) if rewrite else texts
        return _one_or_many(self._generate(descriptions, seeds, resolved), many)

    @overload
    def edit(
        self, images: ImageLike, instructions: str, seed: int | Sequence[int] = 0, **options: Any
    ) -> EditResult: ...
    @overload
    def edit(
        self,
        images: ImageLike | Sequence[ImageLike],
        instructions: str | Sequence[str],
        seed: int | Sequence[int] = 0,
        **options: Any,
    ) -> list[EditResult]: ...
    @torch.no_grad()
    def edit(
        self,
        images: ImageLike | Sequence[ImageLike],
        instructions: str | Sequence[str],
        seed: int | Sequence[int] = 0,
        **options: Any,
    ) -> EditResult | list[EditResult]:
        """Change an image by an instruction; item i of a list uses `seed + i`.

        An OmniBridge returns it at the image's own size, BAGEL in its shape. `options` are fields of `edit_options`, such as `steps`, `guidance` and `size`.
        """
        self.require("edit")
        items, texts, many = _paired(images, instructions)
        pictures = [open_picture(item) for item in items]
        seeds = expand_seeds(seed, len(pictures))
        return _one_or_many(self.edit_pictures(pictures, texts, seeds, **options), many)

    @torch.no_grad()
    def embed(
        self,
        *,
        images: ImageLike | Sequence[ImageLike] | None = None,
        texts: str | Sequence[str] | None = None,
    ) -> np.ndarray:
        """Return unit vectors of images or of texts (give one of the two): float32 [n, e], or [e] for a single item."""
        self.require("embed")
        if (images is None) == (texts is None):
            raise UserError("embed takes either images or texts.")
        if texts is not None:
            items, many = _listed(texts)
            vectors = self.embedding("text", items)
        else:
            assert images is not None
            opened, many = _listed_images(images)
            vectors = self.embedding("image", [self.fit(image) for image in opened])
        array = vectors.float().cpu().numpy()
        return array if many else array[0]

    def read_words(self, text: str) -> WordReport:
        """Return the words of a text that the model does not know; none if it has no record of the words it knows."""
        return WordReport((), text)

    # --- batches ---

    @torch.no_grad()
    def reply(
        self,
        conversations: Sequence[Conversation],
        generators: Sequence[torch.Generator] | None = None,
        **options: Any,
    ) -> list[Reply]:
        """Return the reply to each conversation, whose last turn has none yet.

        `options` are fields of `reply_options`. Sampling uses one CPU generator per conversation.
        """
        return self._reply(conversations, with_options(self.reply_options, options), generators)

    @torch.no_grad()
    def draw_descriptions(self, descriptions: Sequence[str], seeds: Sequence[int], **options: Any) -> list[Picture]:
        """Generate a picture from each full description; `options` are fields of `drawing_options`."""
        return self._draw(
            descriptions, repeat_seeds(seeds, len(descriptions)), with_options(self.drawing_options, options)
        )

    @torch.no_grad()
    def edit_pictures(
        self, pictures: Sequence[Picture], instructions: Sequence[str], seeds: Sequence[int], **options: Any
    ) -> list[EditResult]:
        """Edit pictures of any size; `options` are fields of `edit_options`."""
        resolved = with_options(self.edit_options, options)
        self.check_size(resolved)
        return self._edit(pictures, instructions, seeds, resolved)

    # --- what each model implements ---

    def _reply(
        self,
        conversations: Sequence[Conversation],
        options: ReplyOptions,
        generators: Sequence[torch.Generator] | None,
    ) -> list[Reply]:
        """Return replies; models with the skill "understand" implement it."""
        raise NotImplementedError

    def _draw(self, descriptions: Sequence[str], seeds: Sequence[int], options: Any) -> list[Picture]:
        """Return pictures, one seed each; models with the skill "generate" implement it."""
        raise NotImplementedError

    def _generate(self, descriptions: Sequence[str], seeds: Sequence[int], options: Any) -> list[GenerationResult]:
        """Return pictures with what they were drawn from; models that write more than the description first implement it."""
        rows = zip(self._draw(descriptions, seeds, options), descriptions, seeds, strict=True)
        return [GenerationResult(*row) for row in rows]

    def _edit(
        self, pictures: Sequence[Picture], instructions: Sequence[str], seeds: Sequence[int], options: Any
    ) -> list[EditResult]:
        """Return edited pictures; models with the skill "edit" implement it."""
        raise NotImplementedError

    @abstractmethod
    def embedding(self, kind: Literal["image", "text"], items: Sequence[Picture] | Sequence[str]) -> Tensor:
        """Return unit vectors [b e] with gradients; pictures have been through `fit`."""

    def count_tokens(self, conversation: Conversation) -> int:
        """Return the number of text tokens of a conversation, which is at most that of the model's prompt."""
        return sum(len(encode(self.tokenizer, text)) for turn in conversation.turns for text in turn)

    def fit(self, image: ImageLike) -> Picture:
        """Return an image at the size the model reads, on white; at its own size if the model reads any."""
        picture = open_picture(image)
        return fit_square(picture, self.image_size_px) if self.image_size_px else picture


def rewrite_conversation(model: UnifiedModel, prompt: str) -> Conversation:
    """Return the conversation whose reply is the full description of a prompt."""
    return Conversation(((model.templates.rewrite_request(prompt), ""),))


def expand_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    """Return one seed per item: `seed + i`, or the given `count` seeds; raise UserError for a seed out of range."""
    listed = isinstance(seed, (Sequence, np.ndarray)) and not isinstance(seed, str)
    values: list[Any] = list(cast(Sequence[int], seed)) if listed else [seed]
    for value in values:
        check_sampling(value)
    seeds = [int(value) for value in values] if listed else [int(values[0]) + i for i in range(count)]
    if len(seeds) != count:
        raise UserError(f"There are {len(seeds)} seeds but {count} items; give one seed for all or one for each.")
    return seeds


def _paired(
    images: ImageLike | Sequence[ImageLike], texts: str | Sequence[str]
) -> tuple[list[ImageLike], list[str], bool]:
    """Return images and texts, one for one, and whether either was a list."""
    items, many_images = _listed_images(images)
    words, many_texts = _listed(texts)
    count = max(len(items), len(words))
    items = items * count if len(items) == 1 else items
    words = words * count if len(words) == 1 else words
    if len(items) != len(words):
        raise UserError(
            f"There are {len(items)} pictures but {len(words)} texts; give one text for all or one for each."
        )
    return items, words, many_images or many_texts


def _listed(texts: str | Sequence[str]) -> tuple[list[str], bool]:
    """Return texts as a list, and whether they were one."""
    if isinstance(texts, str):
        return [texts], False
    listed: list[Any] = list(texts) if isinstance(texts, Iterable) else [texts]
    if not all(isinstance(text, str) for text in listed):
        raise UserError("A text or a list of texts is expected; give a string or a list of strings.")
    return _not_empty(listed), True


def _listed_images(images: ImageLike | Sequence[ImageLike]) -> tuple[list[ImageLike], bool]:
    """Return images as a list, and whether they were one; an array [b h w 3] is a list too."""
    if isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4):
        return _not_empty(list(images)), True
    return [images], False  # pyright: ignore[reportReturnType]


def _not_empty(items: list[_T]) -> list[_T]:
    if not items:
        raise UserError("The list is empty; give at least one picture or text.")
    return items


def _one_or_many(results: list[_T], many: bool) -> _T | list[_T]:
    return results if many else results[0]
