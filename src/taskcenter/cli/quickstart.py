"""`make run`: a demo business, a line to paste, the demo's callbacks, and then a service that keeps running."""

from __future__ import annotations

import ipaddress
from typing import Final

import trio
import typer

from taskcenter.cli.api import ApiClient
from taskcenter.cli.demo import run_demo
from taskcenter.config import Settings
from taskcenter.errors import Conflict
from taskcenter.runtime.node import Started
from taskcenter.service.businesses import Businesses
from taskcenter.service.principal import ALL_SCOPES, Principal, PrincipalKind

DEMO: Final = "demo"
LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


def quickstart_settings(settings: Settings) -> Settings:
    """The given settings, with callbacks to loopback allowed unless the operator said something else."""
    if "allowed_callback_networks" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"allowed_callback_networks": LOOPBACK})


async def show_quickstart(started: Started) -> None:
    """Beside the running service: set up, print, run the demo."""
    key = await _demo_key(started.services.businesses)
    url = f"http://{started.addresses[0]}"
    typer.echo(_text(url, key, started.new_admin_token))
    done = await trio.to_thread.run_sync(run_demo, ApiClient(url, key), abandon_on_cancel=True)
    typer.echo("\nthe demo is over" if done else "\nthe demo did not end in time", err=not done)
    typer.echo(f"Task Center goes on serving at {url} (Ctrl-C ends it). API docs: {url}/docs")


async def _demo_key(businesses: Businesses) -> str:
    """A key of the demo business: registered now, or given a new key when an earlier run registered it."""
    operator = Principal(PrincipalKind.ADMIN, None, None, ALL_SCOPES, None, None)
    try:
        registered = await businesses.register(operator, {"business_code": DEMO, "business_name": "Demo"})
    except Conflict:
        return (await businesses.rotate(operator, DEMO, {"revoke_previous": True})).api_key
    return registered.api_key


def _text(url: str, key: str, admin_token: str | None) -> str:
    lines = [f"Task Center serves at {url}", f"business     {DEMO}", f"API key      {key}"]
    body = f'{{"business_id": "order-\'$(date +%s)\'", "callback_url": "{url}/health/live", '
    body += '"callback_method": "GET", "delay": 5}'
    if admin_token is not None:
        lines.append(f"admin token  {admin_token}   (shown this once)")
    lines += [
        "",
        "A task of your own, in 5 seconds, called at a page of this service:",
        "",
        f"curl -s {url}/api/v1/tasks -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\",
        f"  -d '{body}'",
        "",
    ]
    return "\n".join(lines)
