"""Access tokens for callbacks: the client credentials grant (RFC 6749 §4.4), and a token kept until it is nearly over.

The token endpoint is called over the business's own transport, so all that holds for callbacks holds for it: egress
rules at the call, verified TLS, no redirect, a bounded answer, one deadline. Its time counts towards the attempt's.

Invariants. At most one request a business is on its way to the endpoint; who needs a token meanwhile waits for that one
and, if whoever asked is cancelled or out of time, the next asks. A failure is kept for `FAILED_FOR_S`, so that a crowd
of due tasks does not become a crowd of requests. A token is used until a tenth of its life, at most `MARGIN_S`, is
left.

A receiver that answers 401 ends the attempt like any other 4xx: the callback is not sent again within the attempt. But
the token it refused is dropped, and the next attempt fetches a new one; a token younger than `YOUNG_S` stays, so that a
receiver which refuses every token costs the endpoint two requests a minute and not one a callback.

On failure an attempt fails with nothing sent to the receiver. The message names the endpoint's host, its status and,
if it is a plain word, its `error` (RFC 6749 §5.2); never what else it said, which might repeat a secret.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import trio

from taskcenter.actors.egress.exchange import Answered, CallbackRequest, Exchange, Faulted
from taskcenter.actors.egress.targets import CallbackUrlError, check_url
from taskcenter.store.callback_credentials import OAuth2Auth

MARGIN_S: Final = 30.0
DEFAULT_LIFE_S: Final = 300.0  # of a token whose end is not told
LONGEST_LIFE_S: Final = 86_400.0
FAILED_FOR_S: Final = 1.0
YOUNG_S: Final = 30.0
MAX_TOKEN_CHARS: Final = 8192

_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # b64token of RFC 6750
_WORD: Final = re.compile(r"[a-z_]{1,40}")

Send = Callable[[CallbackRequest, float], Awaitable[Exchange]]


@dataclass(frozen=True, slots=True)
class AccessToken:
    text: str = field(repr=False)
    fetched_at: float  # loop time, s
    use_until: float


def token_request(auth: OAuth2Auth) -> CallbackRequest:
    """What is sent to the endpoint. Raises `CallbackUrlError`."""
    form = {"grant_type": "client_credentials"}
    if auth.scope is not None:
        form["scope"] = auth.scope
    if auth.audience is not None:
        form["audience"] = auth.audience
    headers = [("Accept", "application/json"), ("Content-Type", "application/x-www-form-urlencoded")]
    if auth.client_authentication == "basic":
        pair = f"{quote_plus(auth.client_id)}:{quote_plus(auth.client_secret)}"  # RFC 6749 §2.3.1
        headers.append(("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"))
    else:
        form |= {"client_id": auth.client_id, "client_secret": auth.client_secret}
    return CallbackRequest("POST", check_url(auth.token_url), headers, urlencode(form).encode())


def read_answer(answer: Answered, now: float) -> AccessToken | str:
    """The token in an answer that came at `now` (loop time), or what is wrong with the answer. Pure."""
    try:
        content: Any = json.loads(answer.body)
    except (ValueError, RecursionError):
        content = None
    if answer.status != 200:
        word = content.get("error") if isinstance(content, dict) else None
        told = f" ({word})" if isinstance(word, str) and _WORD.fullmatch(word) else ""
        return f"answered {answer.status}{told}"
    if not isinstance(content, dict):
        return "answered something that is no JSON object"
    text, kind = content.get("access_token"), content.get("token_type", "bearer")
    if not isinstance(text, str) or len(text) > MAX_TOKEN_CHARS or not _TOKEN.fullmatch(text):
        return "answered without a usable access_token"
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return "answered with a token that is not of the type Bearer"
    life_s = _life_s(content.get("expires_in"))
    if life_s is None:
        return "answered with an expires_in that is no time"
    return AccessToken(text, now, now + life_s - min(MARGIN_S, life_s / 10))


def _life_s(value: Any) -> float | None:
    if value is None:
        return DEFAULT_LIFE_S
    try:
        life_s = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(life_s, LONGEST_LIFE_S) if life_s > 0 else None


class TokenSource:
    """The tokens of one business; its repr shows none. Owner of all fields: the business's client."""

    def __init__(self, auth: OAuth2Auth, send: Send) -> None:
        self._auth = auth
        self._send = send
        self._token: AccessToken | None = None
        self._failure: Faulted | None = None  # the latest fetch's
        self._failed_at = -math.inf
        self._fetching: trio.Event | None = None

    async def token(self, deadline_s: float) -> str | Faulted:
        """One to send now. `deadline_s` from now on it is too late."""
        with trio.move_on_after(deadline_s) as scope:
            while True:
                now = trio.current_time()
                if self._token is not None and now < self._token.use_until:
                    return self._token.text
                if self._failure is not None and now - self._failed_at < FAILED_FOR_S:
                    return self._failure
                if self._fetching is None:
                    return await self._fetch(scope.deadline - now)
                await self._fetching.wait()
        return Faulted("timeout", f"no access token within {deadline_s:g} s", sent=False)

    def refused(self, text: str) -> None:
        """A receiver answered 401 to this token."""
        token = self._token
        if token is not None and token.text == text and trio.current_time() - token.fetched_at >= YOUNG_S:
            self._token = None

    async def _fetch(self, left_s: float) -> str | Faulted:
        done = self._fetching = trio.Event()
        try:
            result = await self._ask(left_s)
            if isinstance(result, AccessToken):
                self._token, self._failure = result, None
                return result.text
            if result.kind != "timeout":  # that one says how long this attempt could wait, and nothing of others
                self._failure, self._failed_at = result, trio.current_time()
            return result
        finally:
            self._fetching = None
            done.set()

    async def _ask(self, left_s: float) -> AccessToken | Faulted:
        try:
            request = token_request(self._auth)
        except CallbackUrlError as error:
            return Faulted("blocked", f"no access token: token_url {error}", sent=False)
        exchange = await self._send(request, left_s)
        if isinstance(exchange, Faulted):
            return Faulted(exchange.kind, f"no access token: {exchange.message}", sent=False)
        read = read_answer(exchange, trio.current_time())
        if isinstance(read, str):
            return Faulted("connection_error", f"no access token: {request.target.host} {read}", sent=False)
        return read

    def __repr__(self) -> str:
        held = self._token is not None and trio.current_time() < self._token.use_until
        return f"<TokenSource {self._auth.client_id} {'holds a token' if held else 'holds none'}>"
