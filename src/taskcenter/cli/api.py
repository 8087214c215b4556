"""The REST API from a terminal: one small client, and how refusals are printed.

`TASKCENTER_URL` (http://127.0.0.1:8080), `TASKCENTER_API_KEY` for a business's calls, `TASKCENTER_ADMIN_TOKEN` for
the admin's. A refusal prints the problem's detail and its fields on stderr and exits with 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NoReturn

import httpx
import typer

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_S = 30.0


class ApiClient:
    """`token`: an API key, a JWT or the admin token; it is in no message and no repr."""

    def __init__(self, url: str, token: str, business: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        if business is not None:
            headers["X-TaskCenter-Business"] = business
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1",
            headers=headers,
            timeout=TIMEOUT_S,
            limits=httpx.Limits(max_keepalive_connections=0),  # nothing stays open when the command ends
            trust_env=False,
        )

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer's JSON. A refusal or an unreachable service ends the command with 1."""
        wanted = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            response = self._http.request(method, path, json=body, params=wanted, headers=dict(headers or {}))
        except httpx.HTTPError as error:
            refuse(f"{self._http.base_url.host}:{self._http.base_url.port} does not answer: {error}")
        answer = _json(response)
        if response.is_error:
            refuse(describe(response.status_code, answer))
        return answer


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return {"detail": response.text[:200]}


def describe(status: int, problem: Any) -> str:
    """A problem+json as lines for a person."""
    if not isinstance(problem, dict):
        return f"refused with {status}"
    code, faults = problem.get("code", status), problem.get("errors", [])
    if not faults:
        return f"{code}: {problem.get('detail') or problem.get('title', '')}"
    return "\n".join([f"{code}:", *(f"  {fault['field'] or 'the whole'}: {fault['message']}" for fault in faults)])


def refuse(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


def business_client() -> ApiClient:
    """For a business's own calls; an admin token with TASKCENTER_BUSINESS does as well."""
    if key := os.environ.get("TASKCENTER_API_KEY"):
        return ApiClient(_url(), key)
    if (token := os.environ.get("TASKCENTER_ADMIN_TOKEN")) and (code := os.environ.get("TASKCENTER_BUSINESS")):
        return ApiClient(_url(), token, code)
    typer.echo("set TASKCENTER_API_KEY, e.g. export TASKCENTER_API_KEY=tc_live_…", err=True)
    raise typer.Exit(2)


def admin_client() -> ApiClient:
    if token := os.environ.get("TASKCENTER_ADMIN_TOKEN"):
        return ApiClient(_url(), token)
    typer.echo("set TASKCENTER_ADMIN_TOKEN: it was printed at the service's first start", err=True)
    raise typer.Exit(2)


def _url() -> str:
    return checked_url(os.environ.get("TASKCENTER_URL", DEFAULT_URL))


def checked_url(url: str) -> str:
    """The service's address, or the end of the command with 2."""
    try:
        given = httpx.URL(url)
    except httpx.InvalidURL:
        given = httpx.URL("")
    if given.scheme not in {"http", "https"} or not given.host:
        typer.echo(f"TASKCENTER_URL: {url!r} is not an address of the service, e.g. {DEFAULT_URL}", err=True)
        raise typer.Exit(2)
    return url
