"""A task as a caller describes it, read into a `NewTask` or a `TaskChange`. No I/O; `now` is a parameter.

Whether a body is valid must not depend on when it is sent, or the repeat of a create that was accepted long ago would
be refused instead of replayed. So a time in the past is no fault: an `execute_at` means now, a `deadline` ends the
task at once. The one exception is a schedule that has ended: `Ended` tells the caller of this module, who replays or
refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Protocol

from pydantic import Field

from taskcenter.actors.message import BODILESS, MAX_HEADER_PAYLOAD, PAYLOAD_HEADER, header_payload
from taskcenter.errors import FieldFault, InvalidInput
from taskcenter.schedule import first_due
from taskcenter.service import task_fields as f
from taskcenter.service.fields import LAST_START_MS, InputModel
from taskcenter.service.json_text import canonical_hash
from taskcenter.store.records import UNSET, Business, JsonObject, NewTask, Task, TaskChange, Unset
from taskcenter.times import TIME_EXAMPLE

URL_EXAMPLE: Final = "https://example.com/hooks/order"
SCHEDULE_ENDED: Final = FieldFault("schedule.end_at", f"lies before the first run, e.g. {TIME_EXAMPLE}")


class CallbackTarget(Protocol):
    """What a check of a callback URL returns."""

    @property
    def host(self) -> str: ...


CheckUrl = Callable[[str], CallbackTarget]
"""Parses a callback URL and judges whether it may be called. Raises ValueError with half a sentence."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A create whose schedule has no run left: fine as the repeat of an older one, invalid as a new one.

    `task` would, if it were born all the same, end at once at its deadline.
    """

    task: NewTask


def _absent() -> Unset:
    return UNSET


def _null() -> bytes:
    return b"null"


class TaskInput(InputModel):
    """A task to create. With neither `execute_at` nor `delay` it is due now."""

    business_id: Annotated[str, f.BUSINESS_ID] = Field(
        description="The caller's own name for the task: 1 to 128 printable characters, unique in the business for as "
        "long as the task is kept. `A`, `a` and `a ` are three.",
        examples=["order-42:reminder"],
    )
    callback_url: Annotated[str, f.URL] = Field(description=f.URL_RULE, examples=["https://example.com/hooks/order"])
    callback_method: Annotated[str, f.METHOD] = Field(
        "POST",
        description=f.METHOD_RULE,
        examples=["POST"],
    )
    headers: Annotated[Mapping[str, str] | None, f.HEADERS_OR_NONE] = Field(
        None, description=f.HEADERS_RULE, examples=[{"X-Order": "42"}]
    )
    payload: Annotated[bytes, f.PAYLOAD] = Field(
        default_factory=_null, description=f.PAYLOAD_RULE, examples=[{"order": 42}]
    )
    execute_at: Annotated[int | None, f.MOMENT_OR_NONE] = Field(None, description=f.AT_RULE, examples=[TIME_EXAMPLE])
    delay: Annotated[int | None, f.DELAY_OR_NONE] = Field(None, description=f.DELAY_RULE, examples=[90, "5m"])
    retry_intervals: Annotated[tuple[int, ...] | None, f.INTERVALS_OR_NONE] = Field(
        None, description=f"{f.RETRY_RULE} Default: `[]`.", examples=[[60, 300, "30m", "2h"]]
    )
    timeout: Annotated[int | None, f.TIMEOUT_OR_NONE] = Field(
        None, description=f"{f.TIMEOUT_RULE} Default: the business's.", examples=[10]
    )
    schedule: Annotated[JsonObject | None, f.SCHEDULE_OR_NONE] = Field(
        None, description=f.SCHEDULE_RULE, examples=[f.SCHEDULE_EXAMPLE]
    )
    deadline: Annotated[int | None, f.MOMENT_OR_NONE] = Field(
        None, description=f.DEADLINE_RULE, examples=["2027-02-01T00:00:00Z"]
    )
    finish_url: Annotated[str | None, f.URL_OR_NONE] = Field(
        None, description=f.FINISH_RULE, examples=["https://example.com/hooks/finished"]
    )
    tags: Annotated[tuple[str, ...] | None, f.TAGS_OR_NONE] = Field(
        None, description=f.TAGS_RULE, examples=[["orders"]]
    )
    flow_key: Annotated[str | None, f.FLOW_KEY_OR_NONE] = Field(
        None, description=f.FLOW_KEY_RULE, examples=["customer-7"]
    )
    flow_limit: Annotated[JsonObject | None, f.FLOW_LIMIT_OR_NONE] = Field(
        None, description=f.FLOW_LIMIT_RULE, examples=[f.FLOW_LIMIT_EXAMPLE]
    )


class TaskUpdate(InputModel):
    """What to change; what is left out stays. `null` takes away a `schedule`, a `deadline` or a `finish_url`."""

    callback_url: Annotated[str | Unset, f.URL] = Field(
        default_factory=_absent, description=f.URL_RULE, examples=["https://example.com/hooks/order"]
    )
    callback_method: Annotated[str | Unset, f.METHOD] = Field(
        default_factory=_absent, description=f.METHOD_RULE, examples=["PUT"]
    )
    headers: Annotated[Mapping[str, str] | Unset, f.HEADERS] = Field(
        default_factory=_absent, description=f"All of them anew. {f.HEADERS_RULE}", examples=[{"X-Order": "42"}]
    )
    payload: Annotated[bytes | Unset, f.PAYLOAD] = Field(
        default_factory=_absent, description=f.PAYLOAD_RULE, examples=[{"order": 42}]
    )
    retry_intervals: Annotated[tuple[int, ...] | Unset, f.INTERVALS] = Field(
        default_factory=_absent, description=f.RETRY_RULE, examples=[[60, 300]]
    )
    timeout: Annotated[int | Unset, f.TIMEOUT] = Field(
        default_factory=_absent, description=f.TIMEOUT_RULE, examples=[10]
    )
    execute_at: Annotated[int | None, f.MOMENT_OR_NONE] = Field(
        None, description=f"{f.AT_RULE} Ignored while an attempt is on its way.", examples=[TIME_EXAMPLE]
    )
    delay: Annotated[int | None, f.DELAY_OR_NONE] = Field(None, description=f.DELAY_RULE, examples=[90, "5m"])
    schedule: Annotated[JsonObject | Unset | None, f.SCHEDULE_OR_NONE] = Field(
        default_factory=_absent,
        description=f"{f.SCHEDULE_RULE} A new schedule sets the next due time anew.",
        examples=[f.SCHEDULE_EXAMPLE],
    )
    deadline: Annotated[int | Unset | None, f.MOMENT_OR_NONE] = Field(
        default_factory=_absent, description=f.DEADLINE_RULE, examples=["2027-02-01T00:00:00Z"]
    )
    finish_url: Annotated[str | Unset | None, f.URL_OR_NONE] = Field(
        default_factory=_absent, description=f.FINISH_RULE, examples=["https://example.com/hooks/finished"]
    )
    tags: Annotated[tuple[str, ...] | Unset, f.TAGS] = Field(
        default_factory=_absent, description=f.TAGS_RULE, examples=[["orders"]]
    )


def read_task(body: object, business: Business, task_id: str, now: int, check_url: CheckUrl) -> NewTask | Ended:
    """A create's body as the row it asks for. Raises `InvalidInput`."""
    given = TaskInput.read(body)
    faults: list[FieldFault] = []
    host = _check_url("callback_url", given.callback_url, check_url, faults)
    if given.finish_url is not None:
        _check_url("finish_url", given.finish_url, check_url, faults)
    start_at = _start_at(given.execute_at, given.delay, now, faults)
    if given.deadline is not None and given.execute_at is not None and given.deadline < given.execute_at:
        faults.append(FieldFault("deadline", f"lies before execute_at, e.g. {TIME_EXAMPLE}"))
    if given.flow_limit is not None and given.flow_key is None:
        faults.append(FieldFault("flow_key", 'is required with flow_limit, e.g. "customer-7"'))
    if fault := _payload_fault(given.callback_method, given.payload):
        faults.append(FieldFault("payload", fault))
    if faults:
        raise InvalidInput(faults)
    begin_at = now if start_at is None else start_at
    due_at = begin_at if given.schedule is None else first_due(given.schedule, begin_at)
    timeout_ms = business.default_timeout_ms if given.timeout is None else given.timeout
    task = NewTask(
        id=task_id,
        business_id=business.id,
        business_code=business.code,
        shard=business.shard,
        business_unique_id=given.business_id,
        request_hash=canonical_hash(body),
        callback_url=given.callback_url,
        callback_host=host,
        callback_method=given.callback_method,
        headers=given.headers or {},
        payload=given.payload,
        retry_intervals_ms=given.retry_intervals or (),
        timeout_ms=timeout_ms,
        due_at=now if due_at is None else due_at,
        created_at=now,
        schedule=given.schedule,
        deadline_at=now - 1 if due_at is None else given.deadline,
        finish_url=given.finish_url,
        tags=given.tags or (),
        flow_key=given.flow_key,
        flow_limit=given.flow_limit,
    )
    return Ended(task) if due_at is None else task


def read_update(body: object, now: int, check_url: CheckUrl) -> TaskChange:
    """An update's body as the change it asks for. Raises `InvalidInput`."""
    given = TaskUpdate.read(body)
    if not given.model_fields_set:
        raise InvalidInput([FieldFault("", 'must change something, e.g. {"timeout": 10}')])
    faults: list[FieldFault] = []
    host: str | Unset = UNSET
    if given.callback_url is not UNSET:
        host = _check_url("callback_url", given.callback_url, check_url, faults)
    if given.finish_url is not UNSET and given.finish_url is not None:
        _check_url("finish_url", given.finish_url, check_url, faults)
    due_at: int | Unset | None = UNSET
    if (start_at := _start_at(given.execute_at, given.delay, now, faults)) is not None:
        due_at = start_at
    if given.schedule is not UNSET and given.schedule is not None:
        due_at = first_due(given.schedule, now if start_at is None else start_at)
        if due_at is None:
            faults.append(SCHEDULE_ENDED)
    if faults:
        raise InvalidInput(faults)
    return TaskChange(
        callback_url=given.callback_url,
        callback_host=host,
        callback_method=given.callback_method,
        headers=given.headers,
        payload=given.payload,
        retry_intervals_ms=given.retry_intervals,
        timeout_ms=given.timeout,
        schedule=given.schedule,
        tags=given.tags,
        due_at=UNSET if due_at is None else due_at,
        deadline_at=given.deadline,
        finish_url=given.finish_url,
    )


def check_changed(change: TaskChange, task: Task) -> None:
    """Whether the task that this change leads to may be. Pure. Raises `InvalidInput`."""
    if fault := _payload_fault(task.callback_method, task.payload):
        raise InvalidInput([FieldFault("callback_method" if change.payload is UNSET else "payload", fault)])


def _payload_fault(method: str, payload: bytes) -> str | None:
    """Without a body the payload is in a header, and receivers take only so much there."""
    if method not in BODILESS or (size := len(header_payload(payload))) <= MAX_HEADER_PAYLOAD:
        return None
    return (
        f"with {method} the payload goes in the header {PAYLOAD_HEADER}, where this one takes {size} characters of at"
        f' most {MAX_HEADER_PAYLOAD}; a method with a body takes it, e.g. "POST"'
    )


def _start_at(execute_at: int | None, delay_ms: int | None, now: int, faults: list[FieldFault]) -> int | None:
    """The first due time asked for, never before `now`; None when none was."""
    if execute_at is None:
        return None if delay_ms is None else now + delay_ms
    if delay_ms is not None:
        faults.append(FieldFault("delay", "excludes execute_at: give one of them, e.g. 90"))
    if execute_at >= LAST_START_MS:
        faults.append(FieldFault("execute_at", f"must lie before the year 3000, e.g. {TIME_EXAMPLE}"))
    return max(execute_at, now)


def _check_url(field: str, url: str, check_url: CheckUrl, faults: list[FieldFault]) -> str:
    try:
        return check_url(url).host
    except ValueError as error:
        message = str(error)
        faults.append(FieldFault(field, message if "e.g. " in message else f"{message}, e.g. {URL_EXAMPLE}"))
        return ""
