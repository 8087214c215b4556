"""`taskcenter task …`: a business's calls."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

import typer

from taskcenter.cli.api import ApiClient, business_client
from taskcenter.cli.show import fields, show, table

app = typer.Typer(help="Tasks: create, get, list, cancel, run, redeliver, explain.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TaskId = Annotated[str, typer.Argument(help="The task's id, or yours with --own.", metavar="ID")]
Own = Annotated[bool, typer.Option("--own", help="ID is the business_id you gave the task.")]
COLUMNS = ("id", "business_id", "status", "next_execute_at", "current_retry", "last_error")
ATTEMPTS = ("run", "attempt", "started_at", "status", "response_status", "lateness_ms", "duration_ms", "error_message")
PAST = ("run", "attempt", "started_at", "status", "scheduler_ms", "policy_wait_ms", "receiver_ms", "wait_reason")


@app.command()
def create(  # an option for each
    url: Annotated[str, typer.Argument(help="Where to call.", metavar="URL")],
    business_id: Annotated[str, typer.Option("--id", help="Your unique id; a random one when absent.")] = "",
    payload: Annotated[str, typer.Option(help="Any JSON.")] = "null",
    method: Annotated[str | None, typer.Option(help="POST, PUT, PATCH, GET or DELETE.")] = None,
    header: Annotated[list[str] | None, typer.Option(help='"Name: value", sent with the callback; repeatable.')] = None,
    at: Annotated[str | None, typer.Option(help="When, e.g. 2027-01-31T09:30:00Z.")] = None,
    delay: Annotated[str | None, typer.Option(help='In how long, e.g. 90, "5m", "2h".')] = None,
    retry: Annotated[list[str] | None, typer.Option(help="An interval, e.g. 60 or 1m; repeat it for the list.")] = None,
    timeout: Annotated[str | None, typer.Option(help="For one exchange, e.g. 5.")] = None,
    every: Annotated[str | None, typer.Option(help='Recurring: the interval, e.g. "5m".')] = None,
    cron: Annotated[str | None, typer.Option(help='Recurring: five fields, e.g. "30 9 * * 1-5".')] = None,
    timezone: Annotated[str | None, typer.Option(help="Of --cron, e.g. Asia/Shanghai; UTC when absent.")] = None,
    max_runs: Annotated[int | None, typer.Option(help="Recurring: at most so many runs.", min=1)] = None,
    deadline: Annotated[str | None, typer.Option(help="No attempt starts after it.")] = None,
    finish_url: Annotated[str | None, typer.Option(help="Called once when the task ends.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="To find it by; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Create a task; without --at and --delay it is due now."""
    schedule = {"every": _seconds(every), "cron": cron, "timezone": timezone, "max_runs": max_runs}
    given = {
        "business_id": business_id or uuid.uuid4().hex,
        "callback_url": url,
        "callback_method": method,
        "headers": dict(map(_header, header or [])),
        "execute_at": at,
        "delay": _seconds(delay),
        "retry_intervals": [_seconds(each) for each in retry or []],
        "timeout": _seconds(timeout),
        "schedule": {name: value for name, value in schedule.items() if value is not None},
        "deadline": deadline,
        "finish_url": finish_url,
        "tags": tag,
    }
    body = {name: value for name, value in given.items() if value not in (None, {}, [])}
    show(business_client().call("POST", "/tasks", body={**body, "payload": _payload(payload)}), as_json)


@app.command()
def get(task_id: TaskId, own: Own = False, as_json: Json = False) -> None:
    """One task with its latest executions."""
    task = business_client().call("GET", f"/tasks/{'business/' if own else ''}{quote(task_id, safe='')}")
    show(task, as_json)
    if not as_json:
        _section(task["executions"], ATTEMPTS)


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
def cancel(task_id: TaskId, own: Own = False, as_json: Json = False) -> None:
    """Cancel; says whether a call may be on its way."""
    client = business_client()
    show(client.call("DELETE", _path(client, task_id, own)), as_json)


@app.command()
def run(task_id: TaskId, own: Own = False, as_json: Json = False) -> None:
    """Make it due now, without using up a retry."""
    client = business_client()
    show(client.call("POST", f"{_path(client, task_id, own)}/run", body={}), as_json)


@app.command()
def redeliver(task_id: TaskId, own: Own = False, as_json: Json = False) -> None:
    """A finished task's callback again, with the retry list from its start."""
    client = business_client()
    show(client.call("POST", f"{_path(client, task_id, own)}/redeliver", body={}), as_json)


@app.command()
def explain(task_id: TaskId, own: Own = False, as_json: Json = False) -> None:
    """Why it has not run yet, or ended as it did."""
    client = business_client()
    told = client.call("GET", f"{_path(client, task_id, own)}/explain")
    if as_json:
        show(told, as_json)
        return
    typer.echo(told["summary"] + "\n")
    fields({name: value for name, value in told.items() if name != "summary" and not isinstance(value, list)})
    _section([{"planned attempt": each["attempt"], **each} for each in told["planned_attempts"]],
             ("planned attempt", "due_at"))  # fmt: skip
    _section([{"planned run": each["run"], **each} for each in told["planned_runs"]], ("planned run", "due_at"))
    _section([{**each, **each["lateness"]} for each in told["past_attempts"]], PAST)


def _section(rows: Sequence[Any], columns: Sequence[str]) -> None:
    if rows:
        typer.echo("")
        table(rows, columns)


def _path(client: ApiClient, task_id: str, own: bool) -> str:
    """Of the task in the API."""
    if own:
        task_id = client.call("GET", f"/tasks/business/{quote(task_id, safe='')}")["id"]
    return f"/tasks/{quote(task_id, safe='')}"


def _payload(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; e.g. '{{\"order\": 17}}'", param_hint="--payload") from None


def _seconds(text: str | None) -> float | str | None:
    """A bare number is one of seconds; anything else is the API's to judge."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise typer.BadParameter(f'{line!r} is not "Name: value", e.g. "X-Order: 17"', param_hint="--header")
    return name.strip(), value.strip()
