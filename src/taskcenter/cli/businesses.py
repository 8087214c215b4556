"""`taskcenter business …`: the admin's calls, and rotation."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from taskcenter.cli.api import admin_client
from taskcenter.cli.show import show

app = typer.Typer(help="Business systems: create, list, show, rotate, pause, resume.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Code = Annotated[str, typer.Argument(help="The business's code.", metavar="CODE")]
COLUMNS = ("business_code", "business_name", "status", "rate_limit", "max_concurrent_tasks", "last_access_at")


@app.command()
def create(
    code: Code,
    name: Annotated[str, typer.Option(help="Name for people; the code when absent.")] = "",
    rate_limit: Annotated[int | None, typer.Option(help="Callbacks in any minute.")] = None,
    max_concurrent_tasks: Annotated[int | None, typer.Option(help="Callbacks on their way at once.")] = None,
    as_json: Json = False,
) -> None:
    """Register a business; its API key and signing secret are shown this once."""
    body: dict[str, Any] = {"business_code": code, "business_name": name or code}
    if rate_limit is not None:
        body["rate_limit"] = rate_limit
    if max_concurrent_tasks is not None:
        body["max_concurrent_tasks"] = max_concurrent_tasks
    show(admin_client().call("POST", "/businesses", body=body), as_json)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """All businesses."""
    client = admin_client()
    items: list[Any] = []
    cursor = None
    while True:
        page = client.call("GET", "/businesses", query={"limit": 200, "cursor": cursor})
        items += page["items"]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    show(items, as_json, COLUMNS)


@app.command("show")
def show_(code: Code, as_json: Json = False) -> None:
    """One business."""
    show(admin_client().call("GET", f"/businesses/{code}"), as_json)


@app.command()
def rotate(
    code: Code,
    grace: Annotated[float, typer.Option(help="How long the former key stays valid, in s.")] = 86400,
    revoke: Annotated[bool, typer.Option(help="End the former key at once.")] = False,
    signing_secret: Annotated[bool, typer.Option(help="Rotate the signing secret too.")] = False,
    as_json: Json = False,
) -> None:
    """A new API key, shown this once."""
    body = {"grace_seconds": grace, "revoke_previous": revoke, "rotate_signing_secret": signing_secret}
    show(admin_client().call("PUT", f"/businesses/{code}/credentials", body=body), as_json)


@app.command()
def update(
    code: Code,
    file: Annotated[typer.FileText, typer.Option(help="JSON with what to change, e.g. callback_auth; - for stdin.")],
    as_json: Json = False,
) -> None:
    """Change settings. They come from a file: a secret on a command line would be seen by others."""
    try:
        body = json.load(file)
    except ValueError:
        raise typer.BadParameter('is not JSON, e.g. {"rate_limit": 500}', param_hint="--file") from None
    show(admin_client().call("PUT", f"/businesses/{code}", body=body), as_json)


@app.command()
def revoke(
    code: Code,
    key_id: Annotated[str, typer.Argument(help="The key's id, as `business show` tells it.", metavar="KEY_ID")],
    as_json: Json = False,
) -> None:
    """End one API key at once."""
    show(admin_client().call("DELETE", f"/businesses/{code}/credentials/{key_id}"), as_json)


@app.command()
def pause(code: Code, as_json: Json = False) -> None:
    """No callback starts until it is resumed; creates are still accepted."""
    show(admin_client().call("PUT", f"/businesses/{code}", body={"status": "paused"}), as_json)


@app.command()
def resume(code: Code, as_json: Json = False) -> None:
    """Callbacks start again, what waited in order of due time."""
    show(admin_client().call("PUT", f"/businesses/{code}", body={"status": "active"}), as_json)
