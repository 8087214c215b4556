"""What a task may look like on input: every bound from both sides; each fault names its field and an example."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.actors.egress.policy import EgressPolicy
from taskcenter.errors import InvalidInput
from taskcenter.service.task_input import Ended, TaskInput, TaskUpdate, read_task, read_update
from taskcenter.store.records import UNSET, Business, BusinessStatus, NewTask

NOW = 1_800_000_000_000
BUSINESS = Business(
    id=7, code="orders", name="Orders", shard=3, status=BusinessStatus.ACTIVE, rate_limit=1000, breaker={},
    host_limits={}, version=1, max_concurrent_tasks=10, max_active_tasks=100, default_timeout_ms=5000, created_at=0,
    updated_at=0, last_access_at=None,
)  # fmt: skip
CHECK = EgressPolicy().check_url
URL = "https://example.com/hook"
LEAST = {"business_id": "a", "callback_url": URL}


@dataclass(frozen=True)
class Case:
    field: str
    value: Any
    fault_at: str | None = None  # None: the field itself


def each(field: str, values: Iterable[Any], fault_at: str | None = None) -> Iterator[Case]:
    return (Case(field, value, fault_at) for value in values)


def read(**fields: Any) -> NewTask:
    task = read_task(LEAST | fields, BUSINESS, "ID", NOW, CHECK)
    assert isinstance(task, NewTask)
    return task


def faults(body: object) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        read_task(body, BUSINESS, "ID", NOW, CHECK)
    return {fault.field: fault.message for fault in caught.value.faults}


def test_defaults() -> None:
    task = read()
    assert (task.callback_method, task.headers, task.payload) == ("POST", {}, b"null")
    assert (task.due_at, task.retry_intervals_ms, task.timeout_ms, task.tags) == (NOW, (), 5000, ())
    assert (task.callback_host, task.schedule, task.deadline_at, task.finish_url) == ("example.com", None, None, None)
    assert (task.business_id, task.business_code, task.shard, task.created_at) == (7, "orders", 3, NOW)


def test_everything() -> None:
    task = read(
        callback_method="PUT", headers={"X-Order": "42", "Content-Type": "application/json; charset=utf-8"},
        payload={"b": 1, "a": [1.5, "é"]}, delay="5m", retry_intervals=[1, "30m", 0.1 * 20], timeout=0.1,
        deadline="2027-02-01T00:00:00+08:00", finish_url=f"{URL}/finished", tags=["a", "A"],
    )  # fmt: skip
    assert task.callback_method == "PUT"
    assert task.headers == {"X-Order": "42"}  # application/json is what is sent anyway
    assert task.payload == '{"b":1,"a":[1.5,"é"]}'.encode()
    assert task.due_at == NOW + 300_000
    assert (task.retry_intervals_ms, task.timeout_ms) == ((1000, 1_800_000, 2000), 100)
    assert (task.deadline_at, task.finish_url, task.tags) == (1_801_411_200_000, f"{URL}/finished", ("a", "A"))


@pytest.mark.parametrize(
    "name", sorted(set(TaskInput.model_fields) - {"business_id", "callback_url", "callback_method"})
)
def test_null_is_as_good_as_nothing(name: str) -> None:
    with_null, without = read(**{name: None}), read()
    assert with_null.request_hash != without.request_hash
    for attribute in NewTask.__slots__:
        if attribute != "request_hash":
            assert getattr(with_null, attribute) == getattr(without, attribute)


GOOD: list[Case] = [
    Case("business_id", "x" * 128), Case("business_id", "业务 😀"), Case("business_id", "a "),
    Case("business_id", "/../?#%"),
    Case("callback_url", "http://example.com:8080/a?b=c"), Case("callback_url", "https://例え.jp/パス"),
    Case("callback_method", "DELETE"), Case("headers", {f"X-{n}": "v" for n in range(32)}),
    Case("headers", {"Authorization": "Bearer x", "X-Latin": "é", "X-Empty": "", "X-Tab": "a\tb"}),
    Case("headers", {"X-Request-Id": "r-1"}),
    Case("payload", "x" * (256 * 1024 - 2)), Case("payload", False), Case("payload", []),
    Case("execute_at", "2001-01-01T00:00:00Z"), Case("execute_at", "2999-12-31T23:59:59Z"),
    Case("delay", 0), Case("delay", 0.25), Case("delay", "3653d"), Case("retry_intervals", []),
    Case("retry_intervals", ["7d"] * 10), Case("timeout", 30), Case("timeout", "30s"), Case("timeout", 0.1),
    Case("tags", ["x" * 64] + [str(n) for n in range(15)]), Case("deadline", "2001-01-01T00:00:00Z"),
    Case("schedule", {"cron": "0 9 * * *", "timezone": "Asia/Shanghai"}), Case("schedule", {"every": 1}),
]  # fmt: skip


@pytest.mark.parametrize("case", GOOD, ids=lambda case: f"{case.field}={str(case.value)[:20]}")
def test_taken(case: Case) -> None:
    read(**{case.field: case.value})


BAD: list[Case] = [
    *each("business_id", ("", "x" * 129, "a\n", "a\x7f", "a\u200b", "a\xa0", 5, None, ["a"])),
    *each("callback_url", (
        "", "ftp://example.com", "https://", "example.com", "https://user:pw@example.com/", "https://example.com/#x",
        "http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/", "http://0x7f.1/",
        "https://e.com/" + "x" * 2048,
        "https://example.com/a b", 5, None, {},
    )),
    *each("callback_method", ("post", "TRACE", "", 5, None, "CONNECT")),
    Case("headers", []), Case("headers", {f"X-{n}": "v" for n in range(33)}), Case("headers", "X: y"),
    *(Case("headers", {name: "v"}, f"headers.{name}") for name in (
        "Host", "host", "Connection", "Transfer-Encoding", "TE", "Upgrade", "Keep-Alive", "Proxy-Authorization",
        "Content-Length", "webhook-id", "Webhook-Signature", "X-TaskCenter-Attempt", "x-taskcenter-anything",
        "X_TaskCenter_Term", "webhook_signature", "Idempotency_Key", "Transfer_Encoding", "x-taskcenter_due",
        "Idempotency-Key", "traceparent", "User-Agent", "Expect", "a b", "a:b", "é", "x" * 129,
    ) if name != "x" * 129),
    Case("headers", {"": "v"}),
    *(Case("headers", {"X-A": value}, "headers.X-A") for value in (
        "a\r\nb: c", "\x00", "\x7f", "业务", " lead", "trail ", "\x85", 5, None, ["a"], "x" * 4097,
    )),
    Case("headers", {"X-A": "1", "x-a": "2"}, "headers.x-a"),
    Case("headers", {f"X-{n}": "v" * 4000 for n in range(5)}),
    Case("headers", {"Content-Type": "text/plain"}, "headers.Content-Type"),
    Case("payload", "x" * (256 * 1024 - 1)), Case("payload", "é" * (128 * 1024)),
    *each("execute_at", (
        "2027-01-31", "2027-01-31T09:30:00", "tomorrow", 1_800_000_000, "3000-01-01T00:00:00Z", {}, True,
    )),
    *each("delay", (-1, "-5s", "5", "soon", True, [5], "3654d", 1e300)),
    Case("retry_intervals", "60"), Case("retry_intervals", [60] * 11), Case("retry_intervals", {}),
    *each("retry_intervals", (
        [60, bad] for bad in list[Any]((0.999, 0, -1, "8d", True, None, "x", []))), "retry_intervals.1"),
    *each("timeout", (0, 0.09, 30.1, "31s", True, "fast", [], "1m")),
    Case("tags", "a"), Case("tags", ["a"] * 2), Case("tags", [str(n) for n in range(17)]),
    *each("tags", (["ok", bad] for bad in list[Any](("", "x" * 65, "a\n", 5, None, {}))), "tags.1"),
    Case("schedule", "0 9 * * *"), Case("schedule", {}), Case("schedule", []),
    Case("schedule", {"cron": "99 * * * *"}, "schedule.cron"), Case("schedule", {"every": 0.5}, "schedule.every"),
    Case("schedule", {"cron": "* * * * *", "timezone": "Mars"}, "schedule.timezone"),
    Case("deadline", "never"), Case("deadline", 5), Case("finish_url", "http://10.0.0.1/"), Case("finish_url", 5),
    Case("id", "x"), Case("priority", 5), Case("", 1),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case.field}={str(case.value)[:24]!a}")
def test_refused(case: Case) -> None:
    found = faults(LEAST | {case.field: case.value})
    assert list(found) == [case.field if case.fault_at is None else case.fault_at]
    (message,) = found.values()
    assert "e.g." in message or "known are" in message
    assert len(message) < 400


@pytest.mark.parametrize("body", [None, [], "x", 5, True])
def test_a_body_that_is_no_object(body: object) -> None:
    assert list(faults(body)) == [""]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("payload", ["x" * 4094, "é" * 682, {"a": [1.5, None]}])
def test_a_payload_that_fits_a_header(method: str, payload: Any) -> None:
    assert json.loads(read(callback_method=method, payload=payload).payload) == payload


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(("payload", "size"), [("x" * 4095, 4097), ("é" * 683, 4100), ("\x7f" * 700, 4202)])
def test_a_payload_that_fits_no_header(method: str, payload: str, size: int) -> None:
    found = faults(LEAST | {"callback_method": method, "payload": payload})
    assert found["payload"].startswith(f"with {method} the payload goes in the header X-TaskCenter-Payload")
    assert f"{size} characters of at most 4096" in found["payload"]
    for bodied in ("POST", "PUT", "PATCH"):
        read(callback_method=bodied, payload=payload)


def test_all_faults_are_told_at_once() -> None:
    found = faults({"callback_url": 5, "timeout": 99, "extra": 1, "tags": [""]})
    assert set(found) == {"business_id", "callback_url", "timeout", "extra", "tags.0"}


def test_times_that_contradict_each_other() -> None:
    at = "2027-06-01T00:00:00Z"
    assert list(faults(LEAST | {"execute_at": at, "delay": 5})) == ["delay"]
    assert list(faults(LEAST | {"execute_at": at, "deadline": "2027-05-31T00:00:00Z"})) == ["deadline"]


def test_a_time_in_the_past_means_now() -> None:
    assert read(execute_at="2001-01-01T00:00:00Z").due_at == NOW


def test_a_schedule_sets_the_first_due_time() -> None:
    nine = 1_800_061_200_000  # 2027-01-16 09:00 in Shanghai
    cron = {"cron": "0 9 * * *", "timezone": "Asia/Shanghai"}
    assert read(schedule=cron).due_at == nine
    assert read(schedule=cron, execute_at="2027-01-18T00:00:00Z").due_at == nine + 2 * 86_400_000
    assert read(schedule={"every": 60}).due_at == NOW
    assert read(schedule={"every": 60}, delay=5).due_at == NOW + 5000


def test_a_schedule_that_has_ended_would_end_at_once() -> None:
    """So that the repeat of an old create can still be recognised, and no race can make a task of it that runs."""
    ended = read_task(LEAST | {"schedule": {"every": 60, "end_at": "2001-01-01T00:00:00Z"}}, BUSINESS, "ID", NOW, CHECK)
    assert isinstance(ended, Ended)
    assert ended.task.deadline_at is not None
    assert ended.task.deadline_at < NOW <= ended.task.due_at


def test_the_hash_tells_bodies_apart_and_nothing_else() -> None:
    one = read(payload={"a": 1, "b": [1, 2]}, delay=5)
    same = read_task(
        {"delay": 5, "payload": {"b": [1, 2], "a": 1}, **dict(reversed(LEAST.items()))}, BUSINESS, "X", NOW + 99, CHECK
    )
    assert isinstance(same, NewTask)
    assert same.request_hash == one.request_hash
    others = [
        read(payload={"a": 1, "b": [2, 1]}, delay=5), read(payload={"a": 1, "b": [1, 2]}, delay=6),
        read(payload={"a": "1", "b": [1, 2]}, delay=5), read(payload={"a": True, "b": [1, 2]}, delay=5),
        read(payload={"a": 1, "b": [1, 2]}, delay="5s"),
    ]  # fmt: skip
    assert len({one.request_hash, *(other.request_hash for other in others)}) == 6


def test_an_update_names_what_it_changes() -> None:
    change = read_update({"payload": None, "schedule": None, "deadline": None, "timeout": "2s"}, NOW, CHECK)
    assert (change.payload, change.schedule, change.deadline_at, change.timeout_ms) == (b"null", None, None, 2000)
    assert change.callback_url is UNSET is change.headers
    assert change.due_at is UNSET
    assert read_update({"callback_url": "https://other.example/x"}, NOW, CHECK).callback_host == "other.example"
    assert read_update({"delay": 5}, NOW, CHECK).due_at == NOW + 5000
    assert read_update({"schedule": {"every": 60}}, NOW, CHECK).due_at == NOW


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, ""), ([], ""), ({"business_id": "b"}, "business_id"), ({"status": "cancelled"}, "status"),
        ({"callback_url": None}, "callback_url"), ({"callback_url": "http://127.0.0.1/"}, "callback_url"),
        ({"headers": None}, "headers"), ({"retry_intervals": None}, "retry_intervals"), ({"tags": None}, "tags"),
        ({"schedule": {"every": 60, "end_at": "2001-01-01T00:00:00Z"}}, "schedule.end_at"),
        ({"finish_url": "ftp://x"}, "finish_url"), ({"delay": 1, "execute_at": "2027-06-01T00:00:00Z"}, "delay"),
    ],
)  # fmt: skip
def test_an_update_refused(body: object, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_update(body, NOW, CHECK)
    assert [fault.field for fault in caught.value.faults] == [field]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*TaskInput.model_fields, "x"]), _JSON))
def test_any_value_anywhere_is_taken_or_refused(fields: dict[str, Any]) -> None:
    """A dict, a list, a number where another is meant: never anything but `InvalidInput`."""
    for read_it in (
        lambda: read_task(LEAST | fields, BUSINESS, "ID", NOW, CHECK),
        lambda: read_update(
            {name: value for name, value in fields.items() if name in TaskUpdate.model_fields}, NOW, CHECK
        ),
    ):
        try:
            read_it()
        except InvalidInput as error:
            assert all(fault.message for fault in error.faults)
