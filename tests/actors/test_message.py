"""What a receiver gets (CONTRACT.md §4): body and headers, name by name."""

from __future__ import annotations

import json
import time
from urllib.parse import unquote

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from tests.actors.tasks import NOW, TASK_ID, attempt_of, claimed

from taskcenter import __version__
from taskcenter.actors.message import HIDDEN, body_of, headers_of, masked, webhook_id
from taskcenter.actors.outcome import finish_call
from taskcenter.actors.signing import SigningSecret
from taskcenter.store.engine_records import Move
from taskcenter.store.records import Task, TaskKind
from taskcenter.task import Status
from taskcenter.times import format_time

OLD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NEW = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def sent(task: Task, *secrets: str, now: int = NOW + 7) -> tuple[bytes, dict[str, str]]:
    """Body and headers; no header is sent twice."""
    body = body_of(task)
    pairs = headers_of(task, body, [SigningSecret.parse(text) for text in secrets or (NEW,)], now, TRACE)
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs)
    return body, headers


def test_the_body_has_the_fields_of_the_contract_and_the_payload_as_it_was_given() -> None:
    task = claimed(current_retry=1, run=4, business_unique_id='é"\\\u2028 x', payload=b'{"a": [1, 2.50, "\xc3\xa9"]}')
    body, _ = sent(task)
    assert json.loads(body) == {
        "task_id": TASK_ID,
        "business_code": "shop",
        "business_id": 'é"\\\u2028 x',
        "attempt": 2,
        "max_attempts": 3,
        "run": 4,
        "scheduled_at": "2027-01-15T08:00:00.000Z",
        "payload": {"a": [1, 2.5, "é"]},
    }
    assert body.endswith(b'"payload":' + task.payload + b"}")


def test_the_headers_of_a_first_attempt() -> None:
    _, headers = sent(claimed(headers={"X-Own": "1"}))
    signature = headers.pop("webhook-signature")
    assert headers == {
        "x-own": "1",
        "content-type": "application/json",
        "user-agent": f"TaskCenter/{__version__}",
        "webhook-id": f"{TASK_ID}-1",
        "idempotency-key": f"{TASK_ID}-1",
        "webhook-timestamp": str(NOW // 1000),
        "x-taskcenter-task-id": TASK_ID,
        "x-taskcenter-business-id": "order-1",
        "x-taskcenter-attempt": "1",
        "x-taskcenter-due": str(NOW),
        "x-taskcenter-term": "3",
        "traceparent": TRACE,
    }
    assert signature.startswith("v1,")
    assert len(signature.split(" ")) == 1


def test_both_secrets_sign_while_a_rotation_is_under_way() -> None:
    body, headers = sent(claimed(), NEW, OLD, now=int(time.time() * 1000))  # the library refuses an old timestamp
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (NEW, OLD):
        standardwebhooks.Webhook(secret).verify(body, headers, json_parse=False)


def test_the_id_is_one_for_all_attempts_of_a_run_and_another_for_the_next_run() -> None:
    ids = [webhook_id(claimed(run=run, current_retry=retry)) for run in (1, 2) for retry in (0, 1)]
    assert ids == [f"{TASK_ID}-1", f"{TASK_ID}-1", f"{TASK_ID}-2", f"{TASK_ID}-2"]
    assert not any("." in found for found in ids)


def test_only_an_attempt_whose_former_outcome_is_unknown_says_possible_duplicate() -> None:
    assert "x-taskcenter-redelivery" not in sent(claimed(current_retry=2))[1]
    assert sent(claimed(doubtful=True))[1]["x-taskcenter-redelivery"] == "possible-duplicate"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_get_and_delete_carry_no_body_and_the_same_fields_in_headers(method: str) -> None:
    body, headers = sent(claimed(callback_method=method, current_retry=1, run=2))
    assert body == b""
    assert "content-type" not in headers
    assert headers["x-taskcenter-business-code"] == "shop"
    assert headers["x-taskcenter-attempt"] == "2"
    assert headers["x-taskcenter-max-attempts"] == "3"
    assert headers["x-taskcenter-run"] == "2"
    assert headers["x-taskcenter-scheduled-at"] == "2027-01-15T08:00:00.000Z"


def test_a_payload_in_a_header_is_ascii_on_one_line() -> None:
    task = claimed(callback_method="GET", payload='{"é":\n"☃ \\u000a"}'.encode())
    text = sent(task)[1]["x-taskcenter-payload"]
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == {"é": "☃ \n"}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_the_other_methods_carry_the_body(method: str) -> None:
    body, headers = sent(claimed(callback_method=method))
    assert json.loads(body)["payload"] == {"n": 1}
    assert headers["content-type"] == "application/json"
    assert "x-taskcenter-payload" not in headers


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=128))
def test_any_business_id_fits_a_header_and_is_told_apart_from_every_other(business_id: str) -> None:
    value = sent(claimed(business_unique_id=business_id))[1]["x-taskcenter-business-id"]
    assert value.isascii()
    assert value.isprintable()
    assert value == value.strip()  # HTTP would strip it

    assert unquote(value) == business_id


@pytest.mark.parametrize(
    ("given_id", "value"),
    [("order-1", "order-1"), ("a ", "a%20"), (" a b", "%20a b"), ("  ", "%20%20"), ("50%", "50%25"), ("é", "%C3%A9")],
)
def test_business_ids_in_a_header(given_id: str, value: str) -> None:
    assert sent(claimed(business_unique_id=given_id))[1]["x-taskcenter-business-id"] == value


def test_a_finish_call_is_signed_like_any_and_its_body_is_the_end_itself() -> None:
    task = claimed(finish_url="https://receiver.test/finished")
    move = Move(status=Status.SUCCEEDED, current_retry=0, deferrals=0, run=1, runs_done=0)
    new = finish_call(task, move, attempt_of(task), "01K00000000000000000000002", NOW)
    assert new is not None
    row = claimed(
        id=new.id, kind=TaskKind.FINISH, payload=new.payload, callback_url=new.callback_url, business_unique_id="f"
    )
    body, headers = sent(row)
    assert json.loads(body)["task_id"] == TASK_ID
    assert body == new.payload
    assert headers["webhook-id"] == "01K00000000000000000000002-1"
    assert headers["webhook-signature"].startswith("v1,")


@pytest.mark.parametrize(
    "name", ["Authorization", "X-Api-Key", "x-auth", "Cookie", "X-Secret", "x-password", "webhook-signature", "X-TOKEN"]
)
def test_history_keeps_no_secret(name: str) -> None:
    assert masked([(name, "s3cret")]) == {name: HIDDEN}


def test_history_keeps_what_is_no_secret() -> None:
    pairs = [("Idempotency-Key", "a-1"), ("webhook-id", "a-1"), ("X-Own", "1"), ("traceparent", TRACE)]
    assert masked(pairs) == dict(pairs)


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "1970-01-01T00:00:00.000Z"), (999, "1970-01-01T00:00:00.999Z"), (NOW + 7, "2027-01-15T08:00:00.007Z")],
)
def test_times(ms: int, text: str) -> None:
    assert format_time(ms) == text
