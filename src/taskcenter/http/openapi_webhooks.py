"""The `webhooks` of the API's document: what a receiver gets and may answer (CONTRACT.md §4), for code generators.

Tests hold real callbacks against this.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from taskcenter.store.records import ExecutionStatus
from taskcenter.task import FinishReason, Status

_ID: Final = "01JA8Z3N4V7Q2M6K9T5R1X8C0B"
_AT: Final = "2027-01-31T09:30:00.000Z"


class CallbackBody(BaseModel):
    """What is sent to a task's `callback_url`."""

    task_id: str = Field(description="The task.", examples=[_ID])
    business_code: str = Field(description="The business.", examples=["orders"])
    business_id: str = Field(description="The caller's own name for the task.", examples=["order-42:reminder"])
    attempt: int = Field(description="Which attempt of the run, from 1; a deferral repeats the number.", examples=[1])
    max_attempts: int = Field(description="At most so many in a run.", examples=[4])
    run: int = Field(description="Which run of the task, from 1.", examples=[1])
    scheduled_at: str = Field(description="When the attempt was due.", examples=[_AT])
    payload: Any = Field(description="The task's payload.", examples=[{"order": 42}])


class LastExecution(BaseModel):
    """The latest attempt of a task that has ended."""

    id: str = Field(description="The attempt's id.", examples=[f"{_ID}-1"])
    attempt: int = Field(description="Which attempt of the run, from 1.", examples=[1])
    run: int = Field(description="Which run, from 1.", examples=[1])
    status: ExecutionStatus = Field(description="How it ended.", examples=["success"])
    response_status: int | None = Field(description="The receiver's HTTP status.", examples=[200])
    started_at: str = Field(description="When it was sent.", examples=[_AT])
    duration_ms: float = Field(description="The exchange, in ms.", examples=[41.7])
    error_message: str | None = Field(description="What went wrong, in words.", examples=["connection refused"])


class FinishedBody(BaseModel):
    """What is sent to a task's `finish_url`, once, when it has ended."""

    task_id: str = Field(description="The task.", examples=[_ID])
    business_code: str = Field(description="The business.", examples=["orders"])
    business_id: str = Field(description="The caller's own name for the task.", examples=["order-42:reminder"])
    status: Status = Field(description="Its final state.", examples=["failed"])
    finish_reason: FinishReason | None = Field(description="Why it ended.", examples=["retries_exhausted"])
    run: int = Field(description="The run it ended in.", examples=[1])
    attempts: int = Field(description="Attempts made, in all runs.", examples=[4])
    last_execution: LastExecution | None = Field(description="The latest attempt that has ended; null: none has.")


class ReceiverAnswer(BaseModel):
    """What a receiver may say in a JSON body; none of it is needed."""

    action: Literal["retry", "stop"] | None = Field(
        None, description="retry: this attempt failed; stop: no further attempt.", examples=["stop"]
    )
    reason: str | None = Field(None, description="For the history.", examples=["order was cancelled"])
    retry_after: float | None = Field(
        None, description="With retry: seconds until the same attempt is sent again, 1 to 3600.", examples=[30]
    )


MODELS: Final[tuple[type[BaseModel], ...]] = (CallbackBody, FinishedBody, ReceiverAnswer)

_HEADERS: Final = {
    "webhook-id": ("`<task_id>-<run>`, the same for every attempt: recognise a repeat by it.", f"{_ID}-1"),
    "webhook-timestamp": ("When it was signed, in s since 1970.", "1801387800"),
    "webhook-signature": (
        "Standard Webhooks: `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`; two while the secret is changed.",
        "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    ),
    "Idempotency-Key": ("As `webhook-id`.", f"{_ID}-1"),
    "X-TaskCenter-Task-Id": ("The task.", _ID),
    "X-TaskCenter-Business-Id": ("The task's `business_id`, percent-encoded where it is not ASCII.", "order-42"),
    "X-TaskCenter-Attempt": ("Which attempt, from 1.", "1"),
    "X-TaskCenter-Due": ("When the attempt was due, in ms since 1970.", "1801387800000"),
    "X-TaskCenter-Term": ("Grows with every instance that takes the task over: a smaller one is stale.", "1"),
    "traceparent": ("W3C trace context.", "00-7fd316fdebdc90603b34682473046c8d-4253781a83050673-00"),
    "User-Agent": ("`TaskCenter/<version>`.", "TaskCenter/0.1.0"),
}
_DUPLICATE: Final = {
    "name": "X-TaskCenter-Redelivery", "in": "header", "required": False,
    "description": "`possible-duplicate` after an attempt whose end is unknown, until that attempt has one.",
    "schema": {"type": "string", "enum": ["possible-duplicate"]}, "example": "possible-duplicate",
}  # fmt: skip
_RETRY_AFTER: Final = {
    "description": "Seconds, or an HTTP date; clamped to 1 s to 1 h.",
    "schema": {"type": "string"}, "example": "30",
}  # fmt: skip


def webhooks() -> dict[str, Any]:
    """The member of the document."""
    return {
        "callback": {
            "post": _operation(
                "callback",
                "The callback of a task",
                "To `callback_url`, by the task's method. GET and DELETE have no body: the same fields are in headers, "
                "`X-TaskCenter-Business-Code`, `-Max-Attempts`, `-Run`, `-Scheduled-At` and `-Payload` besides those "
                "below.",
                CallbackBody,
            )
        },
        "finished": {
            "post": _operation(
                "finished",
                "The end of a task",
                "To `finish_url`, once, when the task has ended; signed, and retried by the task's own list, or after "
                "1 min, 5 min and 30 min when it has none.",
                FinishedBody,
            )
        },
    }


def _operation(name: str, summary: str, description: str, body: type[BaseModel]) -> dict[str, Any]:
    parameters = [
        {"name": header, "in": "header", "required": True, "description": words, "schema": {"type": "string"},
         "example": example}
        for header, (words, example) in _HEADERS.items()
    ]  # fmt: skip
    return {
        "operationId": f"webhook_{name}",
        "summary": summary,
        "description": description,
        "security": [],
        "parameters": [*parameters, _DUPLICATE],
        "requestBody": {"required": True, "content": _content(body)},
        "responses": _responses(),
    }


def _responses() -> dict[str, Any]:
    answer = _content(ReceiverAnswer)
    stop = "Stop: no further attempt, the task is `stopped`."
    defer = {
        "description": "With `Retry-After`: the same attempt again then; without, a failed attempt.",
        "headers": {"Retry-After": _RETRY_AFTER},
    }
    return {
        "2XX": {"description": "Success, unless the body says otherwise.", "content": answer},
        "410": {"description": stop},
        "489": {"description": stop},
        "429": defer,
        "503": defer,
        "default": {
            "description": "A failed attempt (redirects are not followed), unless the body or a header "
            "(`X-TaskCenter-Action: stop`, `webhook-delivery: abort-message`) says stop.",
            "content": answer,
        },
    }


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
