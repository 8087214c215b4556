"""`taskcenter audit …`: the audit trail, checked from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from taskcenter.cli.api import ApiClient, admin_client, refuse
from taskcenter.store.audit import Broken, verify
from taskcenter.store.records import AuditEntry
from taskcenter.times import parse_time

app = typer.Typer(help="The audit trail.", no_args_is_help=True)
PAGE = 200


@app.callback()
def audit() -> None:
    """The audit trail."""


@app.command("verify")
def verify_(
    code: Annotated[str, typer.Argument(help="The business's code; without, the system's own trail.")] = "",
) -> None:
    """Hash a trail anew, entry by entry, and tell where it was changed; exit status 1 then."""
    entries, broken = walk(admin_client(), code)
    what = f"the trail of {code}" if code else "the system's trail"
    if broken is not None:
        refuse(f"{what} does not hold: entry {broken.seq} {broken.reason}")
    typer.echo(f"{what} holds: {entries} entries")


def walk(client: ApiClient, code: str) -> tuple[int, Broken | None]:
    """How many entries there are, and the oldest that does not hold. Page by page, the newest first."""
    count, broken = 0, None
    later: AuditEntry | None = None  # the oldest entry of the page before, which follows this page's newest
    for page in _pages(client, f"/businesses/{code}/audit" if code else "/audit"):
        entries = [_entry(item) for item in reversed(page)]
        count += len(entries)
        broken = verify([*entries, later] if later is not None else entries) or broken
        later = entries[0] if entries else later
    return count, broken


def _pages(client: ApiClient, path: str) -> Iterator[list[Any]]:
    cursor = None
    while True:
        page = client.call("GET", path, query={"limit": PAGE, "cursor": cursor})
        yield page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _entry(item: Any) -> AuditEntry:
    return AuditEntry(
        business_id=int(item["chain"]), seq=item["seq"], at=parse_time(item["at"]), actor_kind=item["actor"]["kind"],
        actor_key_id=item["actor"]["key_id"], action=item["action"], target=item["target"], result=item["result"],
        ip=item["ip"], request_id=item["request_id"], hash=bytes.fromhex(item["hash"]),
    )  # fmt: skip
