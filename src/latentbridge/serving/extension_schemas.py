"""Requests and responses of routes beyond OpenAI's API: loopback, indexes, search, health."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue

from latentbridge.serving.request_base import BaseRequest, StrictModel
from latentbridge.serving.schemas import Seed, Warnings


class LoopbackRequest(BaseRequest):
    image: str = Field(description="A data URL of the picture to start from.")
    rounds: int = Field(default=4, ge=1, description="How often to describe the picture and draw the description.")
    seed: Seed | None = None


class LoopbackRound(BaseModel):
    words: str
    b64_json: str = Field(description="A PNG of the picture drawn from the words.")
    to_origin: float = Field(description="Cosine of the embeddings of this picture and of the first.")
    to_previous: float = Field(description="Cosine of the embeddings of this picture and of the previous one.")


class LoopbackResponse(BaseModel):
    seed: int
    rounds: list[LoopbackRound]
    warnings: Warnings = []


# --- indexes and search --------------------------------------------------------------------------


class IndexRequest(BaseRequest):
    name: str = Field(description="Lower-case letters, digits, dashes and underscores.")


class IndexCard(BaseModel):
    id: str
    object: Literal["index"] = "index"
    items: int
    dimension: int


class IndexList(BaseModel):
    object: Literal["list"] = "list"
    data: list[IndexCard]


class NewItem(StrictModel):
    id: str = Field(min_length=1, max_length=512)
    image: str = Field(description="A data URL of a picture.")
    metadata: dict[str, JsonValue] = Field({}, description="Fields to filter by.")


class AddRequest(BaseRequest):
    items: list[NewItem] = Field(min_length=1)


class AddResponse(BaseModel):
    index: str
    added: int
    items: int = Field(description="In the index now.")


class DeleteResponse(BaseModel):
    index: str
    deleted: int
    items: int = Field(description="In the index now.")


class SearchPart(StrictModel):
    """Words, a picture, or an item of the index ("more like this"); one of the three."""

    text: str | None = None
    image: str | None = Field(default=None, description="A data URL of a picture.")
    item: str | None = Field(default=None, max_length=1_000)
    weight: float = Field(default=1.0, ge=-100, le=100, description="Below 0 for what hits should not be like.")


class SearchRequest(BaseRequest):
    index: str
    query: str | Annotated[list[SearchPart], Field(min_length=1, max_length=16)]
    k: int = Field(default=10, ge=1)
    where: list[Annotated[str, Field(max_length=200)]] = Field(
        default=[], max_length=16, description="Conditions on metadata, such as kind=photo or width>=640."
    )
    thumbnails: bool = Field(default=False, description="Whether each hit has a thumbnail.")
    allow_unknown: bool = Field(
        default=False, description="Whether to rank by a text of which the model knows no word: a guess."
    )


class SearchHit(BaseModel):
    id: str
    score: float = Field(description="Cosine similarity to the query.")
    metadata: dict[str, JsonValue]
    thumbnail: str | None = Field(default=None, description="A data URL of a small square, if asked for.")


class SearchResponse(BaseModel):
    object: Literal["list"] = "list"
    index: str
    data: list[SearchHit] = Field(description="Best first.")
    warnings: list[str] = Field(default=[], description="Sentences about the query.")
    unknown_words: list[str] = Field(
        default=[], description="Words of the query that the model does not know; hits are ranked by the rest."
    )


class Health(BaseModel):
    status: Literal["ok"] = "ok"
