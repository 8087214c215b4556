"""What the commands print for people: whole, one line each, and nothing that moves a terminal's cursor."""

from __future__ import annotations

import pytest

from taskcenter.cli.show import cell, show


def test_nothing_is_cut_and_what_is_empty_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    show({"api_key": "k" * 300, "name": "", "tags": [], "headers": {}, "error": None, "runs": 0, "ok": False}, False)
    assert capsys.readouterr().out == f"api_key  {'k' * 300}\nruns     0\nok       false\n"


def test_a_table_has_its_heading_and_a_dash_for_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"id": "a", "status": "pending"}, {"id": "bcdef", "status": None}], False, ("id", "status"))
    assert capsys.readouterr().out == "id     status\na      pending\nbcdef  -\n"
    show([], False, ("id", "status"))
    assert capsys.readouterr().out == "id  status\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a b ä 业", "a b ä 业"), ("a\x1b[31m", '"a\\u001b[31m"'), ("a\nb", '"a\\nb"'),
        ("[red]x[/red]", "[red]x[/red]"),
        ({"a": "ü\x07"}, '{"a": "ü\\u0007"}'), (1.5, "1.5"), (True, "true"),
    ],
)  # fmt: skip
def test_cells(value: object, shown: str) -> None:
    assert cell(value) == shown
