"""How answers are printed: JSON for scripts, lines and tables for people.

Nothing is cut: a secret that is shown once must be there to be copied. What is not printable (a receiver's words may be
anything) is shown as JSON shows it, so no answer can move the cursor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer

GAP = "  "


def show(value: Any, as_json: bool, columns: Sequence[str] = ()) -> None:
    """JSON; else a table of `columns` for a list, or a line for each thing that is there."""
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
    elif isinstance(value, list):
        table(value, columns)
    else:
        fields({name: item for name, item in value.items() if name != "executions"})


def fields(values: Mapping[str, Any]) -> None:
    """A name and its value a line; what is empty is left out."""
    shown = {name: cell(value) for name, value in values.items() if value not in (None, [], {}, "")}
    width = max(map(len, shown), default=0)
    for name, text in shown.items():
        typer.echo(f"{name:<{width}}{GAP}{text}")


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A heading and a line for each row."""
    cells = [columns, *([cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        typer.echo(GAP.join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip())


def cell(value: Any) -> str:
    """One value on one line."""
    if value is None:
        return "-"
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value, ensure_ascii=False)
