"""Requests and responses of OpenAI's API.

A parameter of OpenAI's API that these models do not support is accepted at its neutral value and rejected otherwise.
Parameters that concern OpenAI's own service (`user`, `store`) are ignored; unknown names are rejected, as OpenAI does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from latentbridge.types import Skill

Seed = Annotated[int, Field(ge=0, lt=2**63, description="The same seed gives the same answer; random by default.")]
NumSteps = Annotated[
    int, Field(ge=1, description="Sampling steps: more is slower and finer; the model's own number by default.")
]
Guidance = Annotated[
    float, Field(ge=0, le=50, description="Scale of classifier-free guidance; the model's own by default.")
]
Zero = Annotated[float, Field(ge=0, le=0)]
Warnings = Annotated[
    list[str], Field(description="Reasons for doubt: a picture or words unlike the training data, one sentence each.")
]
Stop = Annotated[str, Field(min_length=1, max_length=100, description="A text that ends the reply.")]
IGNORED = "Accepted and ignored."


class StrictModel(BaseModel):
    """A model that rejects unknown names."""

    model_config = ConfigDict(extra="forbid")


class BaseRequest(StrictModel):
    """The fields that every request may have."""

    model: str | None = Field(
        default=None, max_length=200, description="A name from /v1/models; the server's only model by default."
    )
    user: str | None = Field(default=None, description=IGNORED)
    safety_identifier: str | None = Field(default=None, description=IGNORED)


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
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


class Message(StrictModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = Field(default=None, description=IGNORED)


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class ResponseFormat(BaseModel):
    type: Literal["text"]


class ChatCompletionRequest(BaseRequest):
    messages: list[Message] = Field(min_length=1, max_length=200)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, description="0, the default here, is greedy decoding.")
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        default=None,
        description="low and medium ask for steps before the answer, high and xhigh for a long chain of them.",
    )
    n: Literal[1] | None = 1
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, description="Most likely tokens that are sampled from; 0 for all.")
    frequency_penalty: Zero | None = 0
    presence_penalty: Zero | None = 0
    logprobs: Literal[False] | None = False
    response_format: ResponseFormat | None = None
    metadata: dict[str, JsonValue] | None = Field(default=None, description=IGNORED)
    store: bool | None = Field(default=None, description=IGNORED)
    service_tier: str | None = Field(default=None, description=IGNORED)
    prompt_cache_key: str | None = Field(default=None, description=IGNORED)


class ReplyMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int = 0
    message: ReplyMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatCompletion(BaseModel):
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


class ChatCompletionChunk(BaseModel):
    """One event of a streamed reply."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    warnings: Warnings = Field([], description="Only in the chunk with the finish reason.")


# --- images --------------------------------------------------------------------------------------


class ImageGenerationRequest(BaseRequest):
    prompt: str
    n: int | None = Field(default=1, ge=1)
    size: str | None = Field(default=None, description='"auto", or WIDTHxHEIGHT of a size that the model draws.')
    seed: Seed | None = Field(default=None, description="The first picture's seed; the others count up from it.")
    steps: NumSteps | None = None
    guidance: Guidance | None = None
    response_format: Literal["b64_json"] | None = "b64_json"
    output_format: Literal["png"] | None = "png"
    background: Literal["auto", "opaque"] | None = "auto"
    quality: Literal["auto", "standard"] | None = "auto"
    style: Literal["vivid", "natural"] | None = Field(default=None, description=IGNORED)
    moderation: Literal["auto", "low"] | None = Field(default=None, description=IGNORED)
    stream: Literal[False] | None = False


class ImageEditRequest(ImageGenerationRequest):
    """A form, as in OpenAI's API."""

    image: UploadFile | None = Field(default=None, description="The picture to change.")
    images: list[UploadFile] | None = Field(default=None, alias="image[]", description="The same, in a list of one.")
    mask: UploadFile | None = Field(default=None, description="Rejected: the model computes its own mask.")


class ImageObject(BaseModel):
    b64_json: str = Field(description="A PNG.")
    revised_prompt: str = Field(description="The full description that was drawn.")
    seed: int


class ImagesResponse(BaseModel):
    created: int
    data: list[ImageObject]
    output_format: Literal["png"] = "png"
    size: str
    warnings: Warnings = []


# --- embeddings ----------------------------------------------------------------------------------


class TextInput(StrictModel):
    text: str


class PictureInput(StrictModel):
    image: str = Field(description="A data URL of a picture.")


class EmbeddingRequest(BaseRequest):
    input: str | list[str | TextInput | PictureInput] = Field(
        description='Texts, as in OpenAI\'s API, {"image": "data:..."} and {"text": "..."}.',
    )
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(default=None, ge=1, description="The dimension of the model's vectors.")


class EmbeddingItem(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Numbers, or little-endian float32 in base64.")


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
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
    skills: list[Skill] = Field(description="The skills of the model; requests for others get a 400.")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
