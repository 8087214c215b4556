"""`taskcenter keys …`: encryption keys."""

from __future__ import annotations

import base64
import os
import time
from typing import Annotated, Any, Final

import typer

from taskcenter.cli.api import admin_client, refuse
from taskcenter.cli.show import show

app = typer.Typer(help="Encryption keys at rest.", no_args_is_help=True)
POLL_S: Final = 0.5
STALLED_S: Final = 20.0  # without news for so long, whoever rotated has gone: ask again


@app.command()
def generate() -> None:
    """Print a new key, to be put first in TASKCENTER_ENCRYPTION_KEYS; the old ones stay behind it."""
    typer.echo(f"k{int(time.time())}:{base64.b64encode(os.urandom(32)).decode()}")


@app.command()
def rotate(
    wait: Annotated[bool, typer.Option(help="Show progress until it is done.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Seal everything with the newest key while the service runs; continues a rotation that broke off.

    Before: put the new key first on every instance and restart them one by one. After: the older keys can go, once the
    API keys that are still in use were used (they are hashed anew then).
    """
    client = admin_client()
    progress = client.call("POST", "/keys/rotate")
    news = time.monotonic()
    while wait and progress["state"] == "running":
        time.sleep(POLL_S)
        former, progress = progress, client.call("GET", "/keys/rotate")
        if progress["updated_at"] != former["updated_at"]:
            news = time.monotonic()
            typer.echo(_line(progress), err=True)
        elif time.monotonic() - news > STALLED_S:
            progress = client.call("POST", "/keys/rotate")
            news = time.monotonic()
    show(progress, as_json)
    if progress["state"] == "failed" or progress["unreadable"]:
        refuse("something could not be sealed anew: keep the older keys, and look into the service's log")


def _line(progress: Any) -> str:
    return f"walk {progress['walk']}: {progress['seen']} rows seen, {progress['resealed']} sealed anew"
