"""Values that are cheap to make are still values."""

from __future__ import annotations

from dataclasses import fields, replace

from taskcenter.store.records import Created, QuotaFull
from taskcenter.task import TaskRef


def test_a_value_compares_hashes_and_replaces_by_its_fields() -> None:
    one, same = QuotaFull(10, 3), QuotaFull(10, active=3)
    assert one == same
    assert hash(one) == hash(same)
    assert len({one, same, replace(one, active=4)}) == 2
    assert repr(one) == "QuotaFull(limit=10, active=3)"
    match one:
        case QuotaFull(limit=limit, active=active):
            assert (limit, active) == (10, 3)


def test_a_value_has_no_room_for_more() -> None:
    ref = TaskRef("t", 1, 2, 3, 4)
    assert not hasattr(ref, "__dict__")
    assert [field.name for field in fields(Created)] == ["task"]
