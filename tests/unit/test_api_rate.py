"""The API's request rate of a business against an exact model."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.errors import TooMany
from taskcenter.service.api_rate import ApiRate

requests = st.lists(st.tuples(st.integers(0, 3_000), st.sampled_from("ab")), min_size=1, max_size=200)


@given(rate=st.sampled_from([1, 2, 4, 100, 250]), burst=st.integers(1, 20), plan=requests)
def test_every_answer_is_the_exact_buckets(rate: int, burst: int, plan: list[tuple[int, str]]) -> None:
    limit = ApiRate(rate, burst)
    levels = {code: Fraction(burst) for code in "ab"}
    now = 0
    for pause_ms, code in plan:
        now += pause_ms
        levels = {name: min(Fraction(burst), level + Fraction(rate * pause_ms, 1000)) for name, level in levels.items()}
        found = limit.take_of(code, now)
        slack = Fraction(1, 10**6)  # the buckets count in floats: within a hair of a whole token either answer is fair
        assert found.passed or levels[code] < 1 + slack
        assert not found.passed or levels[code] >= 1 - slack
        levels[code] -= found.passed
        assert float(levels[code]) - 1e-6 <= found.remaining + 1 and found.remaining <= float(levels[code]) + 1e-6
        assert found.retry_after_s == pytest.approx(max(0.0, 1 - float(levels[code])) / rate, abs=1e-6)
        assert found.limit == burst
        assert 0 <= found.reset_s * rate - float(burst - levels[code]) + 1e-6 <= rate + 1e-3


def test_the_wait_it_names_is_enough_and_not_more() -> None:
    limit = ApiRate(2, 3)
    assert [limit.take_of("a", 0).passed for _ in range(4)] == [True, True, True, False]
    refused = limit.take_of("a", 0)
    assert refused.retry_after_s == 0.5
    with pytest.raises(TooMany) as caught:
        refused.require()
    assert (caught.value.code, caught.value.retry_after_s) == ("rate_limited", 0.5)
    assert not limit.take_of("a", 499).passed
    assert limit.take_of("a", 500).passed
    assert limit.take_of("b", 0).headers == {
        "RateLimit-Limit": "3",
        "RateLimit-Remaining": "2",
        "RateLimit-Reset": "1",
    }


def test_what_is_kept_is_bounded() -> None:
    limit = ApiRate(1, 1, most=5)
    for number in range(100):
        limit.take_of(str(number), 0)
    assert "businesses=5" in repr(limit)
