"""The operator's commands against a running service, on every store: rotate the key, verify the audit trail."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from tests.flow.contract_kit import Live, serving
from tests.flow.kit import ADMIN_TOKEN, ENCRYPTION_KEYS
from tests.store.connection_kit import by_hand
from typer.testing import CliRunner, Result

from taskcenter.cli import app

pytestmark = pytest.mark.real_time
NEW_KEY = f"k2:{base64.b64encode(b'the newer key'.ljust(32, b'.')).decode()}"
TASKS = 60


def command(live: Live, *arguments: str) -> Result:
    environment = {"TASKCENTER_URL": live.service.url, "TASKCENTER_ADMIN_TOKEN": ADMIN_TOKEN}
    return CliRunner().invoke(app, list(arguments), env=environment)


def test_rotate_the_key_and_verify_the_trail(database_url: str, tmp_path: Path) -> None:
    with serving(database_url, tmp_path) as live:
        code = live.business().code
        headers = {"X-TaskCenter-Business": code}
        later = {"headers": {"X": "y"}, "delay": 3600}
        tasks = [
            {"business_id": f"n{n}", "callback_url": live.receiver.url, "payload": n, **later} for n in range(TASKS)
        ]
        live.admin.ok("POST", "/tasks/batch", {"tasks": tasks}, **headers)
    with serving(database_url, tmp_path, TASKCENTER_ENCRYPTION_KEYS=f"{NEW_KEY},{ENCRYPTION_KEYS}") as live:
        rotated = command(live, "keys", "rotate", "--json")
        assert rotated.exit_code == 0, rotated.stderr
        assert '"state": "done"' in rotated.stdout
        beginnings = by_hand(database_url, "SELECT SUBSTR(headers, 1, 4), SUBSTR(payload, 1, 4) FROM tasks")
        assert {bytes(cell) for row in beginnings for cell in row} == {b"\x01\x02k2"}
        page = live.admin.ok("GET", "/tasks?limit=200", **headers)
        assert sorted(item["payload"] for item in page["items"]) == list(range(TASKS))

        verified = command(live, "audit", "verify", code)
        assert (verified.exit_code, verified.stderr) == (0, "")
        assert f"the trail of {code} holds: " in verified.stdout
        assert command(live, "audit", "verify").exit_code == 0
        by_hand(database_url, "UPDATE audit_log SET target = 'another' WHERE action = 'task.create' AND seq = 7")
        tampered = command(live, "audit", "verify", code)
        assert tampered.exit_code == 1
        assert "does not hold: entry 7 " in tampered.stderr
