"""`taskcenter keys …`: encryption keys."""

from __future__ import annotations

import base64
import os
import time

import typer

app = typer.Typer(help="Encryption keys at rest.", no_args_is_help=True)


@app.command()
def generate() -> None:
    """Print a new key, to be put first in TASKCENTER_ENCRYPTION_KEYS; the old ones stay behind it."""
    typer.echo(f"k{int(time.time())}:{base64.b64encode(os.urandom(32)).decode()}")
