"""The document held against the served API by Schemathesis, a generator that was written by others.

The app is served on a socket over a store of its own, and the engine is a double: a task that a generated body creates
is never called. TASKCENTER_TEST_SCHEMATHESIS_S gives the time for a longer search with random seeds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import STDOUT

import trio
from tests.http.api_kit import ADMIN, Api
from tests.http.test_tasks_socket import served

SEARCH_S = os.environ.get("TASKCENTER_TEST_SCHEMATHESIS_S")
SHORT = ("--phases=examples,coverage,fuzzing", "--max-examples=2", "--generation-deterministic")
LONG = ("--phases=examples,coverage,fuzzing,stateful", f"--max-time={SEARCH_S}", "--generation-database=none")
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance",
)  # fmt: skip
CONFIG = """\
headers = {{ Authorization = "Bearer {orders}" }}

[[operations]]
include-path = "/api/v1/stats"
headers = {{ Authorization = "Bearer {admin}" }}

[[operations]]
include-path-regex = "^/api/v1/(businesses|audit)"
headers = {{ Authorization = "Bearer {admin}" }}

[[operations]]  # each item has a result of its own: a bad one is refused inside of a 200
include-path = "/api/v1/tasks/batch"
checks.negative_data_rejection.enabled = false

[phases.coverage]
unexpected-methods = ["OPTIONS", "PATCH"]
"""


async def test_the_served_api_is_the_documented_one(api: Api, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    (tmp_path / "schemathesis.toml").write_text(CONFIG.format(orders=api.keys["orders"], admin=ADMIN))
    async with served(api) as client:
        url = f"http://{client.address[0]}:{client.address[1]}/openapi.json"
        done = await trio.run_process(
            [
                program, "--config-file", tmp_path / "schemathesis.toml", "run", url, *(LONG if SEARCH_S else SHORT),
                f"--checks={','.join(CHECKS)}", "--mode=all", "--continue-on-failure", "--no-color", "--warnings=off",
                "--suppress-health-check=all", "--workers=1",
            ],
            capture_stdout=True, stderr=STDOUT, check=False, cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode()[-60_000:]
