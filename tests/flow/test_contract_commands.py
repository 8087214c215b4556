"""CONTRACT.md §1 and §2: the commands with their exit statuses, and what wrong settings say."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.flow.contract_kit import Live
from tests.flow.kit import ADMIN_TOKEN, Answer
from typer.testing import CliRunner

from taskcenter.cli import app
from taskcenter.cli.doctor import findings

pytestmark = pytest.mark.real_time


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def environment(settings: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TASKCENTER_")} | settings


KEYS = {"TASKCENTER_ENCRYPTION_KEYS": "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}


def taskcenter(*arguments: str, **settings: str) -> Done:
    """The command, in this process: starting another takes its time. It sets up the log, for itself alone."""
    former = structlog.get_config()
    try:
        done = CliRunner().invoke(app, arguments, env=settings)
    finally:
        structlog.configure(**former)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def process(cwd: Path, *arguments: str, **settings: str) -> Done:
    """The command, as a user starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "taskcenter", *arguments],
        env=environment(settings), cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def one_line(done: Done, status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]
    assert status != 2 or "e.g. " in lines[0] or "example: " in lines[0]


def test_the_api_from_a_terminal(live: Live) -> None:
    admin = {"TASKCENTER_URL": live.service.url, "TASKCENTER_ADMIN_TOKEN": ADMIN_TOKEN}

    def told(*arguments: str, **settings: str) -> Any:
        done = taskcenter(*arguments, "--json", **settings)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    made = told("business", "create", "shell", "--name", "Shell", **admin)
    assert made["api_key"] and made["signing_secret"]
    assert "shell" in {each["business_code"] for each in told("business", "list", **admin)}
    assert told("business", "pause", "shell", **admin)["status"] == "paused"
    assert told("business", "resume", "shell", **admin)["status"] == "active"
    assert told("business", "show", "shell", **admin)["business_name"] == "Shell"
    key = told("business", "rotate", "shell", "--grace", "60", **admin)["api_key"]
    own = {"TASKCENTER_URL": live.service.url, "TASKCENTER_API_KEY": key}
    task = told(
        "task", "create", f"{live.receiver.url}/shell", "--id", "s-1", "--delay", "1h", "--payload", "[1]", **own
    )
    assert (task["business_id"], task["payload"], task["status"]) == ("s-1", [1], "pending")
    assert [each["id"] for each in told("task", "list", "--status", "pending", **own)] == [task["id"]]
    told("task", "run", task["id"], **own)
    live.receiver.wait_for("/shell")
    live_client = live.client(key)
    live_client.ended(task)
    assert told("task", "get", task["id"], **own)["status"] == "succeeded"
    refused = taskcenter("task", "cancel", task["id"], **own)
    assert (refused.returncode, refused.stdout) == (1, "") and "not_cancellable" in refused.stderr
    other = told("task", "create", f"{live.receiver.url}/shell", "--delay", "1h", **own)
    assert told("task", "cancel", other["id"], **own)["status"] == "cancelled"


def test_a_business_is_changed_by_a_file_and_its_secret_is_not_shown(live: Live, tmp_path: Path) -> None:
    admin = {"TASKCENTER_URL": live.service.url, "TASKCENTER_ADMIN_TOKEN": ADMIN_TOKEN}
    shop = live.business()
    file = tmp_path / "change.json"
    auth = {"type": "bearer", "token": "canary-token", "hosts": ["api.example.com"]}
    file.write_text(json.dumps({"callback_auth": auth, "rate_limit": 7}))
    done = taskcenter("business", "update", shop.code, "--file", str(file), "--json", **admin)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["callback_auth"] == {"type": "bearer", "hosts": ["api.example.com"]}
    assert "canary" not in done.stdout + taskcenter("business", "show", shop.code, **admin).stdout
    file.write_text("rate_limit = 7")
    wrong = taskcenter("business", "update", shop.code, "--file", str(file), **admin)
    assert wrong.returncode == 2 and "is not JSON" in wrong.stderr


def test_tables_for_people_show_a_secret_whole(live: Live) -> None:
    settings = {"TASKCENTER_URL": live.service.url, "TASKCENTER_ADMIN_TOKEN": ADMIN_TOKEN, "COLUMNS": "60"}
    done = taskcenter("business", "create", "people", **settings)
    assert done.returncode == 0
    key = re.search(r"^api_key +(tc_\S{30,})$", done.stdout, re.MULTILINE)
    assert key is not None and "…" not in done.stdout, "neither cut nor broken over two lines"
    assert live.client(key[1]).ok("GET", "/tasks") == {"items": [], "next_cursor": None}, "it is good to be pasted"
    listed = taskcenter("business", "list", **settings)
    assert "people" in listed.stdout


def test_a_task_from_a_terminal_as_a_person_sees_it(live: Live) -> None:
    business = live.business()
    settings = {"TASKCENTER_URL": live.service.url, "TASKCENTER_API_KEY": business.made["api_key"], "COLUMNS": "40"}

    def seen(*arguments: str) -> str:
        done = taskcenter("task", *arguments, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def value(text: str, name: str) -> str | None:
        found = re.search(rf"^{name} +(.+)$", text, re.MULTILINE)
        return found and found[1]

    live.receiver.on[business.path] = lambda call: Answer(200, b'{"action": "stop", "reason": "\\u001b[31mred"}')
    url = f"{live.receiver.url}{business.path}"
    options = ["--id", "order/1 ä", "--retry", "1", "--retry", "5m", "--timeout", "2.5", "--header", "X-Own: a: b",
               "--tag", "one", "--tag", "two", "--method", "PUT", "--payload", '{"n": 1}']  # fmt: skip
    made = seen("create", url, *options)
    assert (value(made, "retry_intervals"), value(made, "timeout")) == ("[1, 300]", "2.5")
    assert value(made, "headers") == '{"X-Own": "a: b"}' and value(made, "tags") == '["one", "two"]'
    assert "finish_url" not in made, "what is empty is left out"
    [call] = live.receiver.wait_for(business.path)
    assert (call.method, call.json["payload"], call.headers["x-own"]) == ("PUT", {"n": 1}, "a: b")
    business.api.ended(business.api.ok("GET", "/tasks/business/order%2F1%20%C3%A4"))
    got = seen("get", "order/1 ä", "--own")
    assert value(got, "status") == "stopped" and "\x1b" not in got and "[31mred" in got
    assert re.search(r"^run +attempt +started_at", got, re.MULTILINE), "its attempts follow"
    assert "order/1 ä" in seen("list", "--tag", "one") and "\x1b" not in seen("list")
    told = seen("explain", "order/1 ä", "--own")
    assert told.startswith("It was stopped at") and re.search(r"scheduler_ms +policy_wait_ms", told)
    assert value(seen("redeliver", "order/1 ä", "--own"), "run") == "2"
    recurring = seen(
        "create", url, "--id", "daily", "--cron", "30 9 * * *", "--timezone", "Asia/Shanghai", "--max-runs", "3"
    )
    assert "01:30:00.000Z" in (value(recurring, "next_execute_at") or "")
    assert seen("explain", "daily", "--own").count("T01:30:00.000Z") == 6, (
        "due, expected, one attempt, two runs, detail"
    )
    assert value(seen("cancel", "daily", "--own"), "in_flight") == "false"


def test_a_refusal_says_each_fault_once(live: Live) -> None:
    business = live.business()
    settings = {"TASKCENTER_URL": live.service.url, "TASKCENTER_API_KEY": business.made["api_key"]}
    done = taskcenter("task", "create", "http://a.example", "--delay", "abc", "--retry", "0.1", **settings)
    assert (done.returncode, done.stdout) == (1, "")
    head, *faults = done.stderr.splitlines()
    assert head == "invalid_request:"
    assert sorted(fault.split(":")[0].strip() for fault in faults) == ["delay", "retry_intervals.0"]
    private = taskcenter("task", "create", "http://10.0.0.1/", **settings)
    assert private.returncode == 1 and private.stderr.count("callback_url") == 1
    for arguments in (("--payload", "{bad"), ("--header", "nope"), ("--max-runs", "0")):
        wrong = taskcenter("task", "create", "http://example.com/", *arguments, **settings)
        assert wrong.returncode == 2 and arguments[0] in wrong.stderr
    for url in ("nonsense", "ftp://x", "http://"):
        wrong = taskcenter("task", "list", **{**settings, "TASKCENTER_URL": url})
        assert wrong.returncode == 2 and "TASKCENTER_URL" in wrong.stderr and "e.g. http://" in wrong.stderr
        assert taskcenter("demo", "--url", url, **settings).returncode == 2


def test_exit_statuses_of_refusals_and_usage() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
        gone = taskcenter("task", "list", TASKCENTER_URL=nobody, TASKCENTER_API_KEY="x")
    assert gone.returncode == 1 and "does not answer" in gone.stderr and "Traceback" not in gone.stderr
    assert taskcenter("task", "create").returncode == 2
    assert taskcenter("task", "list").returncode == 2
    assert taskcenter("nonsense").returncode == 2
    assert taskcenter("--help").returncode == 0
    key = taskcenter("keys", "generate")
    assert key.returncode == 0 and re.fullmatch(r"\w+:[A-Za-z0-9+/]{43}=\n", key.stdout)


@pytest.mark.parametrize(
    "name, value",
    [
        ("TASKCENTER_BIND", "nowhere"), ("TASKCENTER_DATABASE_URL", "postgres://x"),
        ("TASKCENTER_RETENTION_DAYS", "soon"), ("TASKCENTER_ALLOWED_CALLBACK_NETWORKS", "300.0.0.0/8"),
        ("TASKCENTER_ENCRYPTION_KEYS", "k1:short"), ("TASKCENTER_ADMIN_TOKEN", "x"), ("TASKCENTER_LOG_LEVEL", "loud"),
        ("TASKCENTER_JWT_TTL", "-1"), ("TASKCENTER_TLS_CERT", "/nowhere.pem"),
    ],
)  # fmt: skip
def test_a_wrong_setting_stops_the_start_with_one_line(name: str, value: str) -> None:
    one_line(taskcenter("serve", **{name: value}), 2, name)


def test_the_databases_faults_stop_the_start_with_one_line(tmp_path: Path) -> None:
    away = "mysql://taskcenter:hush-hush@127.0.0.1:9/taskcenter"
    done = process(tmp_path, "serve", TASKCENTER_DATABASE_URL=away, **KEYS)
    one_line(done, 1, "taskcenter:")
    assert "hush-hush" not in done.stderr + done.stdout
    nowhere = taskcenter("serve", TASKCENTER_DATABASE_URL="sqlite:////nowhere/x.db")
    one_line(nowhere, 2, "TASKCENTER_DATABASE_URL")


def test_migrate_goes_up_and_down_doctor_tells_and_a_newer_schema_is_refused(tmp_path: Path) -> None:
    url = {"TASKCENTER_DATABASE_URL": f"sqlite:///{tmp_path / 'x.db'}", "TASKCENTER_BIND": "127.0.0.1:1"}
    assert taskcenter("migrate", **url).returncode == 0
    assert "base" in taskcenter("migrate", "--to", "base", **url).stdout
    assert taskcenter("migrate", **url).returncode == 0
    doctor = taskcenter("doctor", **url, TASKCENTER_RETENTON_DAYS="7", TASKCENTER_SERVICE_HOST="10.0.0.1")
    assert "TASKCENTER_RETENTON_DAYS is no setting" in doctor.stdout and "SERVICE_HOST" not in doctor.stdout
    assert "write it TASKCENTER_RETENTION_DAYS" in doctor.stdout
    for word in ("settings", "database", "keys", "service"):
        assert word in doctor.stdout
    assert "transit      TLS, or not beyond this machine" in doctor.stdout
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    one_line(process(tmp_path, "serve", **url), 3, "newer")
    odd = {"TASKCENTER_RETENTON_DAYS": "7", "TASKCENTER_LOG_LEVEL": "warning"}
    warned = json.loads(process(tmp_path, "serve", **url, **odd).stdout)
    assert (warned["name"], warned["meant"]) == ("TASKCENTER_RETENTON_DAYS", "TASKCENTER_RETENTION_DAYS")


def test_doctor_tells_what_leaves_the_machine_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(bind: str, database: str) -> str:
        settings = {"TASKCENTER_DATABASE_URL": database, "TASKCENTER_BIND": bind, **KEYS}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        checks = findings(None)  # each is made when it is asked for: nobody is called here
        return next(finding.says for finding in checks if finding.check == "transit")

    away = told("0.0.0.0:1,127.0.0.1:1,[::1]:1", "mysql://a:hush-hush@192.0.2.1/x")
    assert "the API at 0.0.0.0:1" in away and "127.0.0.1" not in away and "::1" not in away
    assert "192.0.2.1 (ssl-mode=preferred" in away and "hush-hush" not in away
    safe = "TLS, or not beyond this machine"
    assert told("127.0.0.1:1", "mysql://a:b@localhost/x") == safe
    assert told("127.0.0.1:1", "mysql://a:b@192.0.2.1/x?ssl-mode=verify-full") == safe


def test_settings_come_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text('bindd = "127.0.0.1:1"\n')
    one_line(taskcenter("serve", "--config", str(tmp_path / "odd.toml")), 2, "bindd")
    (tmp_path / "wrong.toml").write_text('retention_days = "x"\n')
    one_line(taskcenter("serve", "--config", str(tmp_path / "wrong.toml")), 2, "RETENTION_DAYS")


def test_make_run_without_a_terminal_shows_what_happens_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "taskcenter", "up"],
            env=environment({"TASKCENTER_BIND": "127.0.0.1:0"}), cwd=tmp_path, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while "goes on serving" not in out.read_text() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.1)
        text = out.read_text()
        assert "the demo is over" in text, text
        key = re.search(r"API key +(\S+)", text)
        assert "demo" in text and key and "admin token" in text
        command = text[text.index("curl ") :].split("\n\n")[0]
        for status in ("succeeded", "stopped", "failed", "retrying"):
            assert re.search(rf"task=\w+ .*status={status}", text), text
        pasted = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=20, check=False)
        assert json.loads(pasted.stdout)["status"] == "pending", pasted.stdout
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, out.read_text()
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "taskcenter.db").exists()
    keys = next(tmp_path.glob("*.keys"))
    assert keys.stat().st_mode & 0o077 == 0
