"""Requests and answers of the routes that OpenAI has not: loopback, indexes, search, health."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from latentbridge.serving.schemas import AnyRequest, Seed, Warnings


class LoopbackRequest(AnyRequest):
    image: str = Field(description="A data URL of the picture to start from.")
    rounds: int = Field(default=4, ge=1, description="How often to go round: into words, and drawn from them.")
    seed: Seed | None = None


class LoopbackRound(BaseModel):
    words: str
    b64_json: str = Field(description="A PNG of what was drawn from the words.")
    to_origin: float = Field(description="Cosine of what the model sees in this picture and in the first.")
    to_previous: float = Field(description="Cosine of what it sees in this picture and in the one before.")


class LoopbackAnswer(BaseModel):
    seed: int
    rounds: list[LoopbackRound]
    warnings: Warnings = []


# --- indexes and search --------------------------------------------------------------------------


class IndexRequest(AnyRequest):
    name: str = Field(description="Small letters, digits, dashes and underscores.")


class IndexCard(BaseModel):
    id: str
    object: Literal["index"] = "index"
    items: int
    dimension: int


class IndexList(BaseModel):
    object: Literal["list"] = "list"
    data: list[IndexCard]


class NewItem(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=512)
    image: str = Field(description="A data URL of a picture.")
    metadata: dict[str, JsonValue] = Field({}, description="What filters look at.")


class AddRequest(AnyRequest):
    items: list[NewItem] = Field(min_length=1)


class Added(BaseModel):
    index: str
    added: int
    items: int = Field(description="In the index now.")


class Deleted(BaseModel):
    index: str
    deleted: int
    items: int = Field(description="In the index now.")


class SearchPart(BaseModel):
    """Words, a picture, or an item of the index ("more like this"); one of the three."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = None
    image: str | None = Field(default=None, description="A data URL of a picture.")
    item: str | None = Field(default=None, max_length=1_000)
    weight: float = Field(default=1.0, ge=-100, le=100, description="Below 0: what a hit should not be like.")


class SearchRequest(AnyRequest):
    index: str
    query: str | Annotated[list[SearchPart], Field(min_length=1, max_length=16)]
    k: int = Field(default=10, ge=1)
    where: list[Annotated[str, Field(max_length=200)]] = Field(
        default=[], max_length=16, description="Conditions on metadata, such as kind=photo or width>=640."
    )
    thumbnails: bool = Field(default=False, description="Whether each hit brings a small picture.")
    allow_unknown: bool = Field(
        default=False, description="Whether to rank by a text of which the model knows no word: a guess."
    )


class FoundItem(BaseModel):
    id: str
    score: float = Field(description="Cosine similarity to the query.")
    metadata: dict[str, JsonValue]
    thumbnail: str | None = Field(default=None, description="A data URL of a small square, where asked for.")


class SearchAnswer(BaseModel):
    object: Literal["list"] = "list"
    index: str
    data: list[FoundItem] = Field(description="Best first.")
    warnings: list[str] = Field(default=[], description="What is to be said of the query, in sentences.")
    unknown_words: list[str] = Field(
        default=[], description="Words of the query that the model does not know; hits are ranked by the rest."
    )


class Health(BaseModel):
    status: Literal["ok"] = "ok"
