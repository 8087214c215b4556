"""`taskcenter task …`: a business's calls."""

from __future__ import annotations

import json
import uuid
from typing import Annotated, Any

import typer

from taskcenter.cli.api import business_client, show

app = typer.Typer(help="Tasks: create, get, list, cancel, run, explain.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TaskId = Annotated[str, typer.Argument(help="The task's id.", metavar="ID")]
COLUMNS = ("id", "business_id", "status", "next_execute_at", "current_retry", "last_error")


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="Where to call.", metavar="URL")],
    business_id: Annotated[str, typer.Option("--id", help="Your unique id; a random one when absent.")] = "",
    payload: Annotated[str, typer.Option(help="Any JSON.")] = "null",
    at: Annotated[str | None, typer.Option(help="When, e.g. 2026-01-31T09:30:00Z.")] = None,
    delay: Annotated[str | None, typer.Option(help='In how long, e.g. "90s", "5m".')] = None,
    retry: Annotated[list[str] | None, typer.Option(help='An interval, e.g. "1m"; several make the list.')] = None,
    as_json: Json = False,
) -> None:
    """Create a task."""
    body: dict[str, Any] = {"business_id": business_id or uuid.uuid4().hex, "callback_url": url}
    try:
        body["payload"] = json.loads(payload)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; e.g. '{{\"order\": 17}}'", param_hint="--payload") from None
    if at is not None:
        body["execute_at"] = at
    if delay is not None:
        body["delay"] = delay
    body["retry_intervals"] = retry or []
    show(business_client().call("POST", "/tasks", body=body), as_json)


@app.command()
def get(task_id: TaskId, as_json: Json = False) -> None:
    """One task with its latest executions."""
    task = business_client().call("GET", f"/tasks/{task_id}")
    show(task, as_json)
    if not as_json and task["executions"]:
        show(
            task["executions"],
            False,
            ("attempt", "started_at", "status", "response_status", "lateness_ms", "duration_ms", "error_message"),
        )


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="pending, running, retrying, succeeded, failed …")] = None,
    host: Annotated[str | None, typer.Option(help="The callback's host.")] = None,
    tag: Annotated[str | None, typer.Option(help="A tag.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=200)] = 50,
    as_json: Json = False,
) -> None:
    """The newest tasks that match."""
    query = {"status": status, "callback_host": host, "tag": tag, "limit": limit}
    show(business_client().call("GET", "/tasks", query=query)["items"], as_json, COLUMNS)


@app.command()
def cancel(task_id: TaskId, as_json: Json = False) -> None:
    """Cancel; says whether a call may be on its way."""
    show(business_client().call("DELETE", f"/tasks/{task_id}"), as_json)


@app.command()
def run(task_id: TaskId, as_json: Json = False) -> None:
    """Make it due now, without using up a retry."""
    show(business_client().call("POST", f"/tasks/{task_id}/run", body={}), as_json)


@app.command()
def explain(task_id: TaskId, as_json: Json = False) -> None:
    """Why it has not run yet, or ended as it did."""
    show(business_client().call("GET", f"/tasks/{task_id}/explain"), as_json)
