"""What one business calls with: its connections, and its credentials for the receivers they are for.

`authorize` puts the credential into a request, `exchange` sends it. They are two steps because the history shows the
headers that were sent (masked), a credential's too. A new version of the business (`update`) is in force for the next
attempt: a changed certificate gets connections of its own (`transport`), a changed OAuth2 client new tokens.

Fail closed: a credential that cannot be opened (its encryption key is gone) fails every callback over it would go with,
and since nobody can tell which those are, every callback of the business.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from taskcenter.actors.egress.exchange import Answered, CallbackRequest, Exchange, Faulted
from taskcenter.actors.egress.pins import covered
from taskcenter.actors.egress.tls import ClientIdentity
from taskcenter.actors.egress.transport import CallbackTransport
from taskcenter.actors.message import HIDDEN
from taskcenter.actors.oauth2 import TokenSource
from taskcenter.store.callback_credentials import BearerAuth, ClientCertificate, OAuth2Auth, Unreadable
from taskcenter.store.records import Business

HEADER: Final = "Authorization"
SHORTEST_BLOTTED: Final = 8  # characters of a token below which the history would be full of blots
UNREADABLE: Final = Faulted(
    "connection_error",
    "the business's credential for callbacks cannot be opened: its encryption key is missing; set it anew",
    sent=False,
)


def without(answer: Answered, token: str) -> Answered:
    """The answer as the history may show it: a receiver that echoes its headers does not tell the business's API keys a
    token that only the admin knows. Pure."""
    secret = token.encode()
    if len(token) < SHORTEST_BLOTTED:
        return answer
    headers = tuple((name, value.replace(token, HIDDEN)) for name, value in answer.headers)
    return replace(answer, headers=headers, body=answer.body.replace(secret, HIDDEN.encode()))


def connections_of(business: Business) -> int:
    """As many as callbacks may be on their way, so that none waits within its time-out; and one to ask for a token."""
    return business.max_concurrent_tasks + 1


class BusinessClient:
    """See `tools.CallbackClient`."""

    def __init__(self, business: Business, transport: CallbackTransport) -> None:
        """`transport`: this client's own from now on."""
        self._transport = transport
        self._auth = business.callback_auth
        self._tls = business.callback_tls
        self._tokens = self._token_source()
        transport.identify(self._tls_hosts(), self._identity())
        transport.resize(connections_of(business))

    def update(self, business: Business) -> None:
        """New settings, in force for the next attempt."""
        self._transport.resize(connections_of(business))
        if business.callback_auth != self._auth:
            self._auth = business.callback_auth
            self._tokens = self._token_source()
        if business.callback_tls != self._tls:
            self._tls = business.callback_tls
            self._transport.identify(self._tls_hosts(), self._identity())

    async def authorize(self, request: CallbackRequest, deadline_s: float) -> CallbackRequest | Faulted:
        """`request` with the business's credential, if its receiver is to have one and the task brings none itself."""
        auth = self._auth
        if isinstance(auth, Unreadable) or isinstance(self._tls, Unreadable):
            return UNREADABLE
        if auth is None or not covered(auth.hosts, request.target):
            return request
        headers = list(request.headers)
        if any(name.lower() == "authorization" for name, _ in headers):
            return request
        if isinstance(auth, BearerAuth):
            token: str | Faulted = auth.token
        else:
            assert self._tokens is not None, "made with the credential"
            token = await self._tokens.token(deadline_s)
        if isinstance(token, Faulted):
            return token
        return replace(request, headers=[*headers, (HEADER, f"Bearer {token}")], bearer=token)

    async def exchange(self, request: CallbackRequest, deadline_s: float) -> Exchange:
        """Raises as the transport. A credential of the business's that comes back in the answer is blotted out."""
        result = await self._transport.exchange(request, deadline_s)
        token = request.bearer
        if token is None or isinstance(result, Faulted):
            return result
        if result.status == 401 and self._tokens is not None:
            self._tokens.refused(token)
        return without(result, token)

    def close_idle(self) -> int:
        return self._transport.close_idle()

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _token_source(self) -> TokenSource | None:
        return TokenSource(self._auth, self._transport.exchange) if isinstance(self._auth, OAuth2Auth) else None

    def _tls_hosts(self) -> tuple[str, ...]:
        return self._tls.hosts if isinstance(self._tls, ClientCertificate) else ()

    def _identity(self) -> ClientIdentity | None:
        if not isinstance(self._tls, ClientCertificate):
            return None
        return ClientIdentity(self._tls.certificate, self._tls.private_key, self._tls.fingerprint)

    def __repr__(self) -> str:
        return f"<BusinessClient {self._transport!r} auth={type(self._auth).__name__} tls={type(self._tls).__name__}>"
