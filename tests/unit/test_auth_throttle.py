"""How often an address or a key id may be wrong."""

from taskcenter.service.auth_throttle import SECRET_COST, TOKEN_COST, AuthThrottle, Buckets, network_of

MINUTE = 60_000


def answers(
    throttle: AuthThrottle, times: int, *, ip: str = "192.0.2.1", cost: float = SECRET_COST, now: int = 0
) -> int:
    """How many of `times` failures are answered 401 and not 429."""
    return sum(throttle.failed(ip, None, cost, now) is None for _ in range(times))


def test_twenty_wrong_keys_a_minute_then_429() -> None:
    throttle = AuthThrottle()
    assert answers(throttle, 50) == 20
    assert answers(throttle, 50, now=MINUTE // 2) == 10
    assert answers(throttle, 50, now=10 * MINUTE) == 20


def test_the_wait_is_what_it_takes() -> None:
    throttle = AuthThrottle()
    answers(throttle, 20)
    wait_s = throttle.failed("192.0.2.1", None, SECRET_COST, 0)
    assert wait_s is not None and 2.9 < wait_s < 3.1
    assert throttle.failed("192.0.2.1", None, SECRET_COST, int(wait_s * 1000) + 1) is None


def test_a_forged_token_costs_a_third() -> None:
    assert 59 <= answers(AuthThrottle(), 200, cost=TOKEN_COST) <= 60


def test_addresses_do_not_pay_for_each_other() -> None:
    throttle = AuthThrottle()
    answers(throttle, 50)
    assert answers(throttle, 5, ip="192.0.2.2") == 5


def test_guesses_at_one_key_from_many_addresses_are_counted_together() -> None:
    throttle = AuthThrottle()
    told = [throttle.failed(f"198.51.100.{n}", "key", SECRET_COST, 0) is None for n in range(100)]
    assert told.count(True) == 20 and all(told[:20])


def test_an_ipv6_customer_is_his_64_and_a_mapped_address_is_its_ipv4() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of(None) == network_of("") == network_of("<local>") == ""


def test_an_exhausted_address_shares_a_few_look_ups() -> None:
    throttle = AuthThrottle()
    assert all(throttle.may_look_up("192.0.2.1", 0) for _ in range(100)), "not wrong yet: no limit"
    answers(throttle, 20)
    assert sum(throttle.may_look_up("192.0.2.1", 0) for _ in range(100)) == 20
    assert sum(throttle.may_look_up("192.0.2.1", 1000) for _ in range(100)) == 10
    assert throttle.may_look_up("192.0.2.2", 1000)


def test_memory_is_bounded_and_forgets_the_longest_quiet() -> None:
    buckets = Buckets(limit=100)
    for number in range(1000):
        buckets.take(str(number), 20, number)
    assert len(buckets) == 100
    assert buckets.level("999", 1000) < 1 and buckets.level("0", 1000) == buckets.capacity


def test_time_that_goes_back_gives_no_tokens() -> None:
    buckets = Buckets()
    buckets.take("a", 20, 1000)
    assert buckets.level("a", 0) == 0
