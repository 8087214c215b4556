"""What a field of the input may be: readers that pydantic calls, and how their faults are told.

A reader takes the parsed JSON value and returns ours, or raises ValueError with half a sentence that follows the
field's name ("must be …"). `InputModel` collects all faults of a body in one pass; `read` turns them into
`InvalidInput`, and adds the field's example, so that every message names the fault and something that would do. The
JSON schema of the same annotations is what the API's document shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from taskcenter.errors import FieldFault, InvalidInput
from taskcenter.times import DAY_MS, TIME_EXAMPLE, parse_duration, parse_time, spell_duration

MAX_FAULTS: Final = 50
MAX_NAME_SHOWN: Final = 64

Schema = Mapping[str, Any]
Value = TypeVar("Value")
Reader = Callable[[Any], Value]


class InputModel(BaseModel):
    """A JSON object from outside: unknown names refused, nothing coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def read(cls, body: object) -> Self:
        """Raises `InvalidInput` with every fault that the fields have."""
        if not isinstance(body, dict):
            raise InvalidInput([FieldFault("", "the body must be a JSON object, e.g. {}")])
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise InvalidInput(_faults(cls, error)) from None


def _faults(model: type[BaseModel], error: ValidationError) -> list[FieldFault]:
    faults = []
    for fault in error.errors(include_url=False, include_input=False)[:MAX_FAULTS]:
        path = list(fault["loc"])
        field = model.model_fields.get(str(path[0]))
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, InsideFault):
            path.append(cause.inside)
        name = ".".join(str(part)[:MAX_NAME_SHOWN] for part in path if part != "")
        if fault["type"] == "extra_forbidden":
            message = f"is not a field here; known are {', '.join(model.model_fields)}"
        elif fault["type"] == "missing":
            message = "is required"
        elif fault["type"] == "value_error":
            message = str(cause)
        else:
            message = f"is not what the field takes ({fault['msg'].lower()})"
        if field is not None and field.examples and "e.g." not in message:
            message += f", e.g. {json.dumps(field.examples[0], ensure_ascii=False)}"
        faults.append(FieldFault(name, message))
    return faults


class InsideFault(ValueError):
    """The caller's: a fault at `inside`, an index or a name within the field."""

    def __init__(self, inside: int | str, message: str) -> None:
        super().__init__(message)
        self.inside = inside


class Reads:
    """Metadata for `Annotated`: the field is read by `reader` and shown as `schema`."""

    def __init__(self, reader: Callable[[Any], Any], schema: Schema) -> None:
        self._reader = reader
        self._schema = dict(schema)

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._reader)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self._schema)


def optional(reader: Reader[Value]) -> Reader[Value | None]:
    """`null` means the same as leaving the field out."""

    def read(value: Any) -> Value | None:
        return None if value is None else reader(value)

    return read


# --- readers ----------------------------------------------------------------------------------------------------------


def text(least: int, most: int) -> Reader[str]:
    """Printable characters only (no controls, no line ends, no invisible ones)."""

    def read(value: Any) -> str:
        if type(value) is not str or not least <= len(value) <= most or not value.isprintable():
            raise ValueError(f"must be a text of {least} to {most} printable characters")
        return value

    return read


def whole_number(least: int, most: int) -> Reader[int]:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return read


def truth(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("must be true or false")
    return value


def one_of(*choices: str) -> Reader[str]:
    def read(value: Any) -> str:
        if type(value) is not str or value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value

    return read


def duration(least_ms: int, most_ms: int) -> Reader[int]:
    """To ms. A number of seconds, or a text with a unit."""
    bounds = f"must be from {spell_duration(least_ms)} to {spell_duration(most_ms)}"

    def read(value: Any) -> int:
        if type(value) not in (int, float, str):
            raise ValueError('must be a number of seconds or a text like "90s", "5m", "2h" or "1d"')
        duration_ms = parse_duration(value)
        if not least_ms <= duration_ms <= most_ms:
            raise ValueError(bounds)
        return duration_ms

    return read


def moment(value: Any) -> int:
    """To ms since 1970."""
    if type(value) is not str:
        raise ValueError(f"must be an RFC 3339 time with an offset, e.g. {TIME_EXAMPLE}")
    return parse_time(value)


def listing(item: Reader[Value], most: int, *, unique: bool = False) -> Reader[tuple[Value, ...]]:
    def read(value: Any) -> tuple[Value, ...]:
        if type(value) is not list or len(value) > most:
            raise ValueError(f"must be a list of at most {most}")
        items = []
        for index, one in enumerate(value):
            try:
                items.append(item(one))
            except ValueError as error:
                raise InsideFault(index, str(error)) from None
        if unique and len(set(items)) != len(items):
            raise ValueError("names the same twice")
        return tuple(items)

    return read


# --- schemas ----------------------------------------------------------------------------------------------------------

TEN_YEARS_MS: Final = 3653 * DAY_MS
LAST_START_MS: Final = 32_503_680_000_000  # the year 3000: what is planned from there still has a date
TIME_SCHEMA: Final[Schema] = {"type": "string", "format": "date-time"}


def duration_schema(least_ms: int, most_ms: int) -> dict[str, Any]:
    return {
        "anyOf": [
            {"type": "number", "minimum": least_ms / 1000, "maximum": most_ms / 1000},
            {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,6})?(s|m|h|d)$"},
        ]
    }


def text_schema(least: int, most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": least, "maxLength": most}


def or_null(schema: Schema) -> dict[str, Any]:
    """The schema with `null` besides."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {"anyOf": [dict(schema), {"type": "null"}]}
