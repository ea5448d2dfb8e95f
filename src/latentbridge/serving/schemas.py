"""Requests and answers by OpenAI's names.

What OpenAI's API has and this model cannot do is refused unless it is asked for by its neutral value; what only concerns
OpenAI's own house (`user`, `store`) is taken and left alone; any other name is refused, as OpenAI does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Seed = Annotated[int, Field(ge=0, lt=2**63, description="Same seed, same answer; one is made up where there is none.")]
NumSteps = Annotated[int, Field(ge=1, description="Denoising steps: more is slower and finer.")]
Guidance = Annotated[float, Field(ge=0, le=50, description="How strictly the words are followed.")]
Neutral = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)]
Warnings = Annotated[
    list[str], Field(description="What to doubt: a picture or words unlike what the model was trained on, a line each.")
]
Stop = Annotated[str, Field(min_length=1, max_length=100, description="A text that ends the reply.")]


class AnyRequest(BaseModel):
    """What every request may name."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        default=None, max_length=200, description="The name at /v1/models; the only model there is if left out."
    )
    user: str | None = Field(default=None, description="Taken and left alone.")
    safety_identifier: str | None = Field(default=None, description="Taken and left alone.")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """What every refusal looks like."""

    error: ErrorDetail


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


# --- chat ----------------------------------------------------------------------------------------


class ImageUrl(BaseModel):
    url: str = Field(description="A data URL of a picture: data:image/png;base64,...")
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = Field(default=None, description="Taken and left alone.")


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class ResponseFormat(BaseModel):
    type: Literal["text"]


class ChatRequest(AnyRequest):
    messages: list[Message] = Field(min_length=1, max_length=200)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0, the default here, is the likeliest reply."
    )
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        default=None,
        description="low and medium ask for the steps before the answer, high and xhigh for a long chain of them.",
    )
    n: Literal[1] | None = 1
    top_p: One | None = 1
    frequency_penalty: Neutral | None = 0
    presence_penalty: Neutral | None = 0
    logprobs: Literal[False] | None = False
    response_format: ResponseFormat | None = None
    metadata: dict[str, JsonValue] | None = Field(default=None, description="Taken and left alone.")
    store: bool | None = Field(default=None, description="Taken and left alone.")
    service_tier: str | None = Field(default=None, description="Taken and left alone.")
    prompt_cache_key: str | None = Field(default=None, description="Taken and left alone.")


class ReplyMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int = 0
    message: ReplyMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatAnswer(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    warnings: Warnings = []


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    index: int = 0
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: None = None


class ChatChunk(BaseModel):
    """One event of a streamed reply."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    warnings: Warnings = Field([], description="In the chunk with the finish reason alone.")


# --- pictures ------------------------------------------------------------------------------------


class DrawRequest(AnyRequest):
    prompt: str
    n: int | None = Field(default=1, ge=1)
    size: str | None = Field(default=None, description='"auto" or the size the model draws.')
    seed: Seed | None = Field(default=None, description="Of the first picture; the next ones count up from it.")
    steps: NumSteps | None = 20
    guidance: Guidance | None = 2.5
    response_format: Literal["b64_json"] | None = "b64_json"
    output_format: Literal["png"] | None = "png"
    background: Literal["auto", "opaque"] | None = "auto"
    quality: Literal["auto", "standard"] | None = "auto"
    style: Literal["vivid", "natural"] | None = Field(default=None, description="Taken and left alone.")
    moderation: Literal["auto", "low"] | None = Field(default=None, description="Taken and left alone.")
    stream: Literal[False] | None = False


class PictureAnswer(BaseModel):
    b64_json: str = Field(description="A PNG.")
    revised_prompt: str = Field(description="The full description that was drawn.")
    seed: int


class PicturesAnswer(BaseModel):
    created: int
    data: list[PictureAnswer]
    output_format: Literal["png"] = "png"
    size: str
    warnings: Warnings = []


# --- embeddings ----------------------------------------------------------------------------------


class TextInput(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str


class PictureInput(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="A data URL of a picture.")


class EmbeddingRequest(AnyRequest):
    input: str | list[str | TextInput | PictureInput] = Field(
        description='OpenAI takes texts; here {"image": "data:..."} and {"text": "..."} may stand among them.',
    )
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(default=None, ge=1, description="The model's own number, if any.")


class EmbeddingItem(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Numbers, or little-endian float32 in base64.")


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(BaseModel):
    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage
    warnings: Warnings = []


# --- models ------------------------------------------------------------------------------------


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "latentbridge"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
