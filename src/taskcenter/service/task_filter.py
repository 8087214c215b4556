"""Which tasks: the filters of the list, and of what is done to all that match."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Final, Self

from pydantic import Field

from taskcenter.errors import FieldFault, InvalidInput
from taskcenter.service.fields import (
    TIME_SCHEMA,
    InputModel,
    InsideFault,
    Reads,
    listing,
    moment,
    one_of,
    optional,
    or_null,
    text,
    text_schema,
    truth,
    whole_number,
)
from taskcenter.service.task_fields import MAX_TAG_CHARS
from taskcenter.store.records import TaskFilter
from taskcenter.task import TERMINAL, Status
from taskcenter.times import TIME_EXAMPLE

MAX_PAGE: Final = 200
DEFAULT_PAGE: Final = 50
MAX_MATCHING: Final = 10_000
DEFAULT_MATCHING: Final = 1000
MAX_REDELIVER: Final = 1000
DEFAULT_REDELIVER: Final = 100
MAX_CURSOR_CHARS: Final = 256

_STATUSES: Final = tuple(status.value for status in Status)
_ENDED: Final = tuple(status.value for status in Status if status in TERMINAL)


def _statuses(choices: tuple[str, ...]) -> Callable[[Any], frozenset[Status]]:
    read_all = listing(one_of(*choices), len(choices), unique=True)

    def read(value: Any) -> frozenset[Status]:
        if value in ("", []):
            raise ValueError(f"must name at least one of {', '.join(choices)}")
        if type(value) is not str:
            return frozenset(map(Status, read_all(value)))
        try:
            return frozenset(map(Status, read_all(value.split(","))))
        except InsideFault as error:  # within a text there is no path to point at
            raise ValueError(str(error)) from None

    return read


def _digits(least: int, most: int) -> Callable[[Any], int]:
    read_number = whole_number(least, most)

    def read(value: Any) -> int:
        return read_number(
            int(value) if type(value) is str and value.isascii() and value.isdigit() and len(value) < 10 else None
        )

    return read


def _flag(value: Any) -> bool:
    return truth({"true": True, "false": False, "1": True, "0": False}.get(str(value).lower()))


def _number_schema(least: int, most: int, default: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}


_STATUS_LIST: Final = {"type": "array", "items": {"type": "string", "enum": list(_STATUSES)}}
_ENDED_LIST: Final = {"type": "array", "items": {"type": "string", "enum": list(_ENDED)}}
_BARE_PLUS: Final = re.compile(r" (?=[0-9]{2}:[0-9]{2}$)")


def _query_moment(value: Any) -> int:
    """A + that was not written %2B arrives as a space: before an offset it can mean nothing else."""
    return moment(_BARE_PLUS.sub("+", value) if type(value) is str else value)


_TIME: Final = Reads(_query_moment, TIME_SCHEMA)
_HOST: Final = Reads(text(1, 255), text_schema(1, 255))
_TAG: Final = Reads(text(1, MAX_TAG_CHARS), text_schema(1, MAX_TAG_CHARS))
_OPTIONAL_HOST: Final = Reads(optional(text(1, 255)), or_null(text_schema(1, 255)))
_OPTIONAL_TAG: Final = Reads(optional(text(1, MAX_TAG_CHARS)), or_null(text_schema(1, MAX_TAG_CHARS)))
_OPTIONAL_TIME: Final = Reads(optional(moment), or_null(TIME_SCHEMA))


def _host(text_: str | None) -> str | None:
    """As hosts are kept."""
    return None if text_ is None else text_.lower().removesuffix(".")


class PageQuery(InputModel):
    """Which page of a list. An empty parameter is one left out: so clients write what they have no value for."""

    limit: Annotated[int, Reads(_digits(1, MAX_PAGE), _number_schema(1, MAX_PAGE, DEFAULT_PAGE))] = Field(
        DEFAULT_PAGE, description="At most so many items.", examples=[50]
    )
    cursor: Annotated[str | None, Reads(text(1, MAX_CURSOR_CHARS), text_schema(1, MAX_CURSOR_CHARS))] = Field(
        None, description="`next_cursor` of the page before, with the same filters.", examples=["q83vEjRWeJCrze8"]
    )

    @classmethod
    def read(cls, body: object) -> Self:
        """As `InputModel.read`."""
        if isinstance(body, dict):
            body = {name: value for name, value in body.items() if value != "" or name not in cls.model_fields}
        return super().read(body)


class TaskFilterQuery(InputModel):
    """Filters; all that are given must match."""

    status: Annotated[frozenset[Status] | None, Reads(_statuses(_STATUSES), _STATUS_LIST)] = Field(
        None, description="One or several states, comma separated.", examples=["pending,retrying"]
    )
    callback_host: Annotated[str | None, _HOST] = Field(
        None, description="The host of the callback URL, without port.", examples=["example.com"]
    )
    tag: Annotated[str | None, _TAG] = Field(None, description="One of the task's tags.", examples=["orders"])
    created_after: Annotated[int | None, _TIME] = Field(
        None, description="Created at this time or later.", examples=[TIME_EXAMPLE]
    )
    created_before: Annotated[int | None, _TIME] = Field(
        None, description="Created before this time.", examples=[TIME_EXAMPLE]
    )
    due_after: Annotated[int | None, _TIME] = Field(
        None, description="Next due at this time or later.", examples=[TIME_EXAMPLE]
    )
    due_before: Annotated[int | None, _TIME] = Field(
        None, description="Next due before this time.", examples=[TIME_EXAMPLE]
    )

    def where(self) -> TaskFilter:
        return TaskFilter(
            statuses=self.status or frozenset(),
            callback_host=_host(self.callback_host),
            tag=self.tag,
            created_after=self.created_after,
            created_before=self.created_before,
            due_after=self.due_after,
            due_before=self.due_before,
        )


class TaskListQuery(TaskFilterQuery, PageQuery):
    """Filters of the list, and which page of it."""


class CancelQuery(TaskFilterQuery):
    """Which tasks to cancel: at least one filter."""

    limit: Annotated[int, Reads(_digits(1, MAX_MATCHING), _number_schema(1, MAX_MATCHING, DEFAULT_MATCHING))] = Field(
        DEFAULT_MATCHING, description="At most so many tasks.", examples=[1000]
    )
    dry_run: Annotated[bool, Reads(_flag, {"type": "boolean", "default": False})] = Field(
        False, description="Only count what matches.", examples=["true"]
    )

    @classmethod
    def read(cls, body: object) -> Self:
        """As `InputModel.read`; besides refuses a query without a filter, which would cancel everything."""
        query = super().read(body)
        if not query.model_fields_set - {"limit", "dry_run"}:
            raise InvalidInput([FieldFault("", "must have at least one filter, e.g. tag=orders")])
        return query


class RedeliverInput(InputModel):
    """Which finished tasks to deliver again."""

    status: Annotated[frozenset[Status] | None, Reads(_statuses(_ENDED), _ENDED_LIST)] = Field(
        None, description="Final states; a list, or one text. Default: `failed`.", examples=[["failed", "stopped"]]
    )
    after: Annotated[int | None, _OPTIONAL_TIME] = Field(
        None, description="Finished at this time or later.", examples=[TIME_EXAMPLE]
    )
    before: Annotated[int | None, _OPTIONAL_TIME] = Field(
        None, description="Finished before this time.", examples=[TIME_EXAMPLE]
    )
    callback_host: Annotated[str | None, _OPTIONAL_HOST] = Field(
        None, description="The host of the callback URL, without port.", examples=["example.com"]
    )
    tag: Annotated[str | None, _OPTIONAL_TAG] = Field(None, description="One of the task's tags.", examples=["orders"])
    limit: Annotated[
        int, Reads(whole_number(1, MAX_REDELIVER), _number_schema(1, MAX_REDELIVER, DEFAULT_REDELIVER))
    ] = Field(DEFAULT_REDELIVER, description="At most so many tasks, the newest first.", examples=[100])
    dry_run: Annotated[bool, Reads(truth, {"type": "boolean", "default": False})] = Field(
        False, description="Only count what matches.", examples=[True]
    )

    def where(self) -> TaskFilter:
        return TaskFilter(
            statuses=self.status or frozenset({Status.FAILED}),
            finished_after=self.after,
            finished_before=self.before,
            callback_host=_host(self.callback_host),
            tag=self.tag,
        )


def narrowed(where: TaskFilter, statuses: frozenset[Status]) -> TaskFilter | None:
    """`where` for tasks in `statuses` only; None if it asks for none of them."""
    left = where.statuses & statuses if where.statuses else statuses
    return replace(where, statuses=left) if left else None


def question_of(where: TaskFilter) -> str:
    """Equal for equal filters: what a cursor is bound to."""
    return repr(replace(where, statuses=frozenset())) + ",".join(sorted(where.statuses))
