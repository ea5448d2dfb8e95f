"""Requests and responses of OpenAI's API.

A parameter of OpenAI's API that these models do not support is accepted at its neutral value and rejected otherwise.
Parameters that concern OpenAI's own service (`user`, `store`) are ignored; unknown names are rejected, as OpenAI does. What
the server answers is accepted in the next request: clients append a reply to the messages as they received it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, BeforeValidator, Field, JsonValue
from pydantic_core import PydanticCustomError

from latentbridge.serving.request_base import IGNORED, BaseRequest, Neutral, StrictModel
from latentbridge.types import Skill

Seed = Annotated[int, Field(ge=0, lt=2**63, description="The same seed gives the same answer; random by default.")]
NumSteps = Annotated[
    int, Field(ge=1, description="Sampling steps: more is slower and finer; the model's own number by default.")
]
Guidance = Annotated[
    float, Field(ge=0, le=50, description="Scale of classifier-free guidance; the model's own by default.")
]
Warnings = Annotated[
    list[str], Field(description="Reasons for doubt: a picture or words unlike the training data, one sentence each.")
]
Stop = Annotated[str, Field(min_length=1, max_length=100, description="A text that ends the reply.")]


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
    detail: Literal["auto", "low", "high", "original"] | None = None


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl | Annotated[str, Field(description="The URL itself.")]

    @property
    def url(self) -> str:
        """The picture's URL."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


class RefusalPart(BaseModel):
    type: Literal["refusal"]
    refusal: str


class InputMessage(StrictModel):
    role: Literal["system", "developer", "user"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    name: str | None = Field(default=None, description=IGNORED)


class AssistantMessage(StrictModel):
    """An earlier reply, with the fields that clients keep of it."""

    role: Literal["assistant"]
    content: str | list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]] | None = None
    refusal: str | None = Field(default=None, description="What another server answered in place of a text.")
    name: str | None = Field(default=None, description=IGNORED)
    annotations: list[JsonValue] | None = Field(default=None, description=IGNORED)
    reasoning: JsonValue | None = Field(default=None, description=IGNORED)
    reasoning_content: str | None = Field(default=None, description=IGNORED)
    provider_specific_fields: dict[str, JsonValue] | None = Field(default=None, description=IGNORED)
    audio: Annotated[JsonValue, Neutral()] = None
    function_call: Annotated[JsonValue, Neutral()] = None
    tool_calls: Annotated[JsonValue, Neutral([])] = None


Message = Annotated[InputMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(BaseModel):
    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(default=None, description=IGNORED)


class ResponseFormat(BaseModel):
    type: Literal["text"]


class ChatCompletionRequest(BaseRequest):
    messages: list[Message] = Field(min_length=1, max_length=200)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, description="A number above the limit stands for the limit.")
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, description="0, the default here, is greedy decoding.")
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        default=None,
        description="low and medium ask for steps before the answer, high and above for a long chain of them.",
    )
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(
        default=None, ge=-1, description="Most likely tokens that are sampled from; 0 or -1 for all."
    )
    response_format: ResponseFormat | None = None
    n: Annotated[JsonValue, Neutral(1)] = None
    frequency_penalty: Annotated[JsonValue, Neutral(0)] = None
    presence_penalty: Annotated[JsonValue, Neutral(0)] = None
    repetition_penalty: Annotated[JsonValue, Neutral(1)] = None
    min_p: Annotated[JsonValue, Neutral(0)] = None
    logit_bias: Annotated[JsonValue, Neutral({})] = None
    logprobs: Annotated[JsonValue, Neutral(False)] = None
    top_logprobs: Annotated[JsonValue, Neutral(0)] = None
    modalities: Annotated[JsonValue, Neutral(["text"])] = None
    audio: Annotated[JsonValue, Neutral()] = None
    tools: Annotated[JsonValue, Neutral([])] = None
    tool_choice: Annotated[JsonValue, Neutral("none", "auto")] = None
    functions: Annotated[JsonValue, Neutral([])] = None
    function_call: Annotated[JsonValue, Neutral("none", "auto")] = None
    verbosity: Annotated[JsonValue, Neutral("medium")] = None
    web_search_options: Annotated[JsonValue, Neutral()] = None
    moderation: Annotated[JsonValue, Neutral()] = None
    parallel_tool_calls: bool | None = Field(default=None, description=IGNORED)
    prediction: dict[str, JsonValue] | None = Field(default=None, description=IGNORED)
    metadata: dict[str, JsonValue] | None = Field(default=None, description=IGNORED)
    store: bool | None = Field(default=None, description=IGNORED)
    service_tier: str | None = Field(default=None, description=IGNORED)
    prompt_cache_key: str | None = Field(default=None, description=IGNORED)
    prompt_cache_options: dict[str, JsonValue] | None = Field(default=None, description=IGNORED)
    prompt_cache_retention: str | None = Field(default=None, description=IGNORED)


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
    size: str | None = Field(
        default=None,
        description='WIDTHxHEIGHT, to which the picture is scaled; "auto" is the model\'s own, or that of the picture to edit.',
    )
    seed: Seed | None = Field(default=None, description="The first picture's seed; the others count up from it.")
    steps: NumSteps | None = None
    guidance: Guidance | None = None
    response_format: Literal["b64_json"] | None = "b64_json"
    output_format: Literal["png"] | None = "png"
    background: Literal["auto", "opaque"] | None = "auto"
    quality: Literal["auto", "standard"] | None = "auto"
    stream: Annotated[bool | None, Neutral(False)] = None
    partial_images: Annotated[int | None, Neutral(0)] = None
    frame_count: Annotated[int | None, Neutral(1)] = None
    svg: Annotated[JsonValue, Neutral({})] = None
    complexity: Annotated[JsonValue, Neutral()] = None
    frame_duration_ms: int | None = Field(default=None, description=IGNORED)
    output_compression: int | None = Field(default=None, ge=0, le=100, description=IGNORED)
    style: Literal["vivid", "natural"] | None = Field(default=None, description=IGNORED)
    moderation: Literal["auto", "low"] | None = Field(default=None, description=IGNORED)


class ImageEditRequest(ImageGenerationRequest):
    """A form, as in OpenAI's API."""

    image: UploadFile | None = Field(default=None, description="The picture to change.")
    images: list[UploadFile] | None = Field(default=None, alias="image[]", description="The same, in a list of one.")
    mask: UploadFile | None = Field(default=None, description="Rejected: the model computes its own mask.")
    markup: UploadFile | None = Field(default=None, description="Rejected: the model reads no marks.")
    input_fidelity: Literal["low", "high"] | None = Field(default=None, description=IGNORED)


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


def _reject_tokens(item: Any) -> Any:
    if isinstance(item, (int, list)):
        advice = "send texts (LangChain does with check_embedding_ctx_length=False)"
        raise PydanticCustomError("token_array", f"Token numbers are those of another model's tokenizer; {advice}")
    return item


InputItem = Annotated[str | TextInput | PictureInput, BeforeValidator(_reject_tokens)]


class EmbeddingRequest(BaseRequest):
    input: str | list[InputItem] = Field(
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
