"""The base of all requests: null means absent, and a parameter that no model here has is taken at its neutral values only."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

IGNORED = "Accepted and ignored."


class StrictModel(BaseModel):
    """A model that rejects unknown names; null, which clients send for what they leave open, is as if the name were absent."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        required = {field.alias or name for name, field in cls.model_fields.items() if field.is_required()}
        return {name: value for name, value in values.items() if value is not None or name in required}


class BaseRequest(StrictModel):
    """The fields that every request may have."""

    model: str | None = Field(
        default=None, max_length=200, description="A name from /v1/models; the server's only model by default."
    )
    user: str | None = Field(default=None, description=IGNORED)
    safety_identifier: str | None = Field(default=None, description=IGNORED)


class Neutral:
    """The annotation of a parameter that asks for nothing at `values` and null, and is rejected at any other value."""

    def __init__(self, *values: Any):
        self.values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [*self.values, None], "description": "Not supported; accepted where it asks for nothing."}

    def _check(self, value: Any) -> Any:
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.values):
            raise PydanticCustomError("unsupported_value", "This server does not support it; leave it out")
        return value
