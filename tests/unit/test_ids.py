"""Identifiers: a ULID's spelling, and that those of one process only grow."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from taskcenter.ids import ALPHABET, IdSource, encode, first_id_at, is_id


@given(st.integers(0, 2**130 - 1))
def test_an_identifier_is_its_number_in_base_32(value: int) -> None:
    text = encode(value)
    assert is_id(text)
    assert sum(ALPHABET.index(letter) << 5 * place for place, letter in enumerate(reversed(text))) == value


def test_identifiers_grow_within_a_ms_and_beyond() -> None:
    ids = IdSource(random.Random(7))
    made = [ids.next(now) for now in (5, 5, 5, 6, 6, 4, 1_800_000_000_000, 1_800_000_000_000)]
    assert made == sorted(set(made))
    assert first_id_at(6) <= made[3] < first_id_at(7)
    assert made[5] > made[4], "a clock that steps back gives no smaller one"
