"""Access tokens: what is asked and read, and that a crowd of tasks is one request. Time is virtual."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from taskcenter.actors.egress.exchange import Answered, CallbackRequest, Exchange, Faulted
from taskcenter.actors.oauth2 import FAILED_FOR_S, YOUNG_S, AccessToken, TokenSource, read_answer, token_request
from taskcenter.store.callback_credentials import OAuth2Auth

SECRET = "canary:s3cr3t/ü&="
AUTH = OAuth2Auth("https://id.example/token", "task center", SECRET, ("api.example",), "a b", "https://api.example")


def answered(content: Any, status: int = 200) -> Answered:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answered(status, (), body, len(body), reused=False)


def token(text: str = "t1", **more: Any) -> Answered:
    return answered({"access_token": text, "token_type": "Bearer", "expires_in": 100, **more})


class Endpoint:
    """Answers what it is told, after a while, and counts."""

    def __init__(self, *answers: Exchange, takes_s: float = 0.5) -> None:
        self.answers = list(answers)
        self.takes_s = takes_s
        self.asked: list[float] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, request: CallbackRequest, deadline_s: float) -> Exchange:
        self.asked.append(trio.current_time())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            with trio.move_on_after(deadline_s):
                await trio.sleep(self.takes_s)
                return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            return Faulted("timeout", f"no answer within {deadline_s:g} s", sent=True)
        finally:
            self.at_once -= 1


def test_the_request_is_rfc_6749s() -> None:
    request = token_request(AUTH)
    headers = dict(request.headers)
    assert (request.method, request.target.url) == ("POST", "https://id.example/token")
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == (
        b"task+center:canary%3As3cr3t%2F%C3%BC%26%3D"
    ), "both are form-encoded before they are joined (section 2.3.1)"
    assert parse_qs(request.body.decode()) == {
        "grant_type": ["client_credentials"], "scope": ["a b"], "audience": ["https://api.example"],
    }  # fmt: skip
    plain = OAuth2Auth("https://id.example/token", "tc", SECRET, ("a.example",), client_authentication="body")
    request = token_request(plain)
    assert "Authorization" not in dict(request.headers)
    assert parse_qs(request.body.decode()) == {
        "grant_type": ["client_credentials"], "client_id": ["tc"], "client_secret": [SECRET],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "until"),
    [
        (token(), 90.0), (token(expires_in="100"), 90.0), (token(expires_in=3600), 3570.0),
        (token(expires_in=10**9), 86_370.0), (token(expires_in=None), 270.0), (token(token_type="bearer"), 90.0),
        (answered({"access_token": "a.b-c_d~e+f/g=="}), 270.0),
    ],
)  # fmt: skip
def test_a_token_is_used_until_shortly_before_its_end(answer: Answered, until: float) -> None:
    read = read_answer(answer, 0.0)
    assert isinstance(read, AccessToken) and read.use_until == until
    assert read.text not in repr(read)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (answered({"error": "invalid_client"}, 401), "answered 401 (invalid_client)"),
        (answered({"error": SECRET, "error_description": SECRET}, 400), "answered 400"),
        (answered({"error": ["invalid_client"]}, 400), "answered 400"),
        (answered(b"<html>" + SECRET.encode(), 500), "answered 500"),
        (answered({"access_token": "t"}, 302), "answered 302"),
        (answered(b"not json"), "answered something that is no JSON object"),
        (answered(b"[" * 60_000), "answered something that is no JSON object"),
        (answered([1]), "answered something that is no JSON object"),
        (answered({}), "answered without a usable access_token"),
        (token("a b"), "answered without a usable access_token"),
        (token("a\r\nX-Evil: 1"), "answered without a usable access_token"),
        (token("é"), "answered without a usable access_token"),
        (token(""), "answered without a usable access_token"),
        (token("x" * 9000), "answered without a usable access_token"),
        (answered({"access_token": 7}), "answered without a usable access_token"),
        (token(token_type="mac"), "answered with a token that is not of the type Bearer"),
        (token(token_type=7), "answered with a token that is not of the type Bearer"),
        (token(expires_in=0), "answered with an expires_in that is no time"),
        (token(expires_in=-5), "answered with an expires_in that is no time"),
        (token(expires_in="soon"), "answered with an expires_in that is no time"),
        (token(expires_in=True), "answered with an expires_in that is no time"),
        (token(expires_in=[1]), "answered with an expires_in that is no time"),
        (answered(b'{"access_token": "t", "expires_in": NaN}'), "answered with an expires_in that is no time"),
    ],
)
def test_what_is_no_token_is_told_without_repeating_it(answer: Answered, told: str) -> None:
    assert read_answer(answer, 0.0) == told


@given(st.binary(max_size=200), st.integers(200, 599))
def test_no_answer_brings_an_exception(body: bytes, status: int) -> None:
    assert isinstance(read_answer(Answered(status, (), body, len(body), reused=False), 0.0), AccessToken | str)


async def test_a_crowd_is_one_request_and_the_token_is_kept_until_shortly_before_its_end(
    autojump_clock: MockClock,
) -> None:
    endpoint = Endpoint(token("t1"), token("t2"))
    source = TokenSource(AUTH, endpoint)
    got: list[object] = []

    async def ask() -> None:
        got.append(await source.token(5))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert got == ["t1"] * 50 and len(endpoint.asked) == 1
    await trio.sleep(89)
    assert await source.token(5) == "t1"
    await trio.sleep(1.1)
    assert await source.token(5) == "t2"
    assert len(endpoint.asked) == 2
    assert "t2" not in repr(source) and SECRET not in repr(source)


async def test_who_gives_up_leaves_the_asking_to_the_next(autojump_clock: MockClock) -> None:
    endpoint = Endpoint(token("t1"), takes_s=2)
    source = TokenSource(AUTH, endpoint)
    got: dict[str, object] = {}

    async def ask(name: str, deadline_s: float, cancel_after_s: float = 99) -> None:
        with trio.move_on_after(cancel_after_s):
            got[name] = await source.token(deadline_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "cancelled", 10, 0.5)
        await trio.sleep(0.1)
        nursery.start_soon(ask, "short", 0.3)
        nursery.start_soon(ask, "long", 10)
    assert got == {"short": Faulted("timeout", "no access token within 0.3 s", sent=False), "long": "t1"}
    assert endpoint.most_at_once == 1


async def test_the_asker_that_is_out_of_time_fails_alone(autojump_clock: MockClock) -> None:
    endpoint = Endpoint(token("t1"), takes_s=2)
    source = TokenSource(AUTH, endpoint)
    got: dict[float, object] = {}

    async def ask(deadline_s: float) -> None:
        got[deadline_s] = await source.token(deadline_s)

    async with trio.open_nursery() as nursery:
        for deadline_s in (1, 5, 6):
            nursery.start_soon(ask, deadline_s)
            await trio.sleep(0.1)
    first = got[1]
    assert isinstance(first, Faulted) and first.kind == "timeout" and first.message.startswith("no access token")
    assert got[5] == got[6] == "t1" and len(endpoint.asked) == 2


async def test_a_failure_is_shared_and_kept_for_a_moment(autojump_clock: MockClock) -> None:
    endpoint = Endpoint(answered({"error": "invalid_client", "error_description": SECRET}, 401), token("t1"))
    source = TokenSource(AUTH, endpoint)
    failed = [await source.token(5) for _ in range(20)]
    told = "no access token: id.example answered 401 (invalid_client)"
    assert set(failed) == {Faulted("connection_error", told, sent=False)} and len(endpoint.asked) == 1
    await trio.sleep(FAILED_FOR_S)
    assert await source.token(5) == "t1"


@pytest.mark.parametrize("kind", ["timeout", "connection_error", "blocked", "invalid_response"])
async def test_a_fault_on_the_way_to_the_endpoint_is_the_attempts(kind: Any, autojump_clock: MockClock) -> None:
    source = TokenSource(AUTH, Endpoint(Faulted(kind, "what happened", sent=True)))
    assert await source.token(5) == Faulted(kind, "no access token: what happened", sent=False)


async def test_a_refused_token_is_replaced_but_not_again_and_again(autojump_clock: MockClock) -> None:
    endpoint = Endpoint(token("t1"), token("t2"), token("t3"))
    source = TokenSource(AUTH, endpoint)
    assert await source.token(5) == "t1"
    source.refused("t1")
    assert await source.token(5) == "t1", "fresh: another would be refused as well"
    await trio.sleep(YOUNG_S)
    source.refused("another")
    assert await source.token(5) == "t1"
    source.refused("t1")
    assert await source.token(5) == "t2"
    for _ in range(100):
        source.refused("t2")
        assert await source.token(5) == "t2"
    assert len(endpoint.asked) == 2


async def test_an_endpoint_that_may_not_be_named_any_more_is_told() -> None:
    source = TokenSource(OAuth2Auth("https://", "a", "b", ("c.example",)), Endpoint(token()))
    fault = await source.token(5)
    assert isinstance(fault, Faulted) and fault.kind == "blocked" and "token_url" in fault.message
