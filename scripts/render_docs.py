"""Write the pages of docs/ that are made from the code: states, settings, metrics. `--check` only compares.

A test runs the comparison, so the pages cannot fall behind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from taskcenter.config import PREFIX, Settings
from taskcenter.metrics import Metrics, ParentMetrics
from taskcenter.task import TERMINAL, TRANSITIONS, FinishReason, Status

DOCS = Path(__file__).resolve().parent.parent / "docs"


def states() -> str:
    """The state machine of `taskcenter.task`."""
    lines = [
        "# States of a task",
        "",
        "Made from `taskcenter.task.TRANSITIONS` by `make docs`.",
        "",
        "```mermaid",
        "stateDiagram-v2",
    ]
    lines += ["    [*] --> pending: create"]
    for (status, event), to in TRANSITIONS.items():
        lines.append(f"    {status} --> {to}: {event}")
    lines += ["```", "", "| from | event | to |", "| --- | --- | --- |"]
    lines += [f"| {status} | {event} | {to} |" for (status, event), to in TRANSITIONS.items()]
    lines += ["", "Terminal: " + ", ".join(f"`{status}`" for status in Status if status in TERMINAL) + "."]
    lines += ["Finish reasons: " + ", ".join(f"`{reason}`" for reason in FinishReason) + "."]
    return "\n".join(lines) + "\n"


def settings() -> str:
    """Every setting of `taskcenter.config.Settings`."""
    lines = [
        "# Settings",
        "",
        "Made from `taskcenter.config.Settings` by `make docs`.",
        "",
        "| variable | default | meaning | example |",
        "| --- | --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        example = str((field.examples or [""])[0]).replace("|", "\\|")
        lines.append(
            f"| `{PREFIX}{name.upper()}` | {_default(field.default)} | {field.description} |"
            f" {f'`{example}`' if example else ''} |"
        )
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if hasattr(value, "get_secret_value"):
        return f"`{value.get_secret_value()}`"
    return f"`{','.join(map(str, value)) if isinstance(value, tuple) else value}`"


def metrics() -> str:
    """Every family of `taskcenter.metrics.Metrics`."""
    lines = [
        "# Metrics",
        "",
        "Made from `taskcenter.metrics` by `make docs`; `process_*` comes with the client library. With",
        "`serve --processes N` any process answers `/metrics` for all: counters and histograms are sums that outlive a",
        "process, gauges are sums of those that live or, where a sum means nothing, the greatest; `process_*` bears",
        "the label `worker`.",
        "",
        "| metric | kind | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for family in (*vars(Metrics()).values(), *vars(ParentMetrics()).values()):
        if isinstance(family, MetricWrapperBase):
            name = family._name + ("_total" if family._type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in family._labelnames)
            lines.append(f"| `{name}` | {family._type} | {labels} | {family._documentation} |")
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {"states.md": states, "settings.md": settings, "metrics.md": metrics}


def main() -> int:
    stale = 0
    for name, render in PAGES.items():
        path = DOCS / name
        text = render()
        if path.exists() and path.read_text("utf-8") == text:
            continue
        stale += 1
        if "--check" in sys.argv:
            print(f"docs/{name} is behind the code: run make docs")
        else:
            path.write_text(text, "utf-8")
            print(f"docs/{name} written")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
