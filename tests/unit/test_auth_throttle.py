"""How often an address or a key id may be wrong."""

from taskcenter.service.auth_throttle import SECRET_COST, TOKEN_COST, AuthThrottle, Buckets, network_of

MINUTE = 60_000


def answers(
    throttle: AuthThrottle, times: int, *, ip: str = "192.0.2.1", cost: float = SECRET_COST, now: int = 0
) -> int:
    """How many of `times` failures are answered 401 and not 429."""
    return sum(throttle.failed(ip, None, cost, now) is None for _ in range(times))


def test_sixty_wrong_keys_a_minute_then_429() -> None:
    throttle = AuthThrottle()
    assert answers(throttle, 100) == 60
    assert answers(throttle, 100, now=MINUTE // 2) == 30
    assert answers(throttle, 100, now=10 * MINUTE) == 60


def test_the_wait_is_what_it_takes() -> None:
    throttle = AuthThrottle()
    answers(throttle, 60)
    wait_s = throttle.failed("192.0.2.1", None, SECRET_COST, 0)
    assert wait_s is not None and 0.9 < wait_s < 1.1
    assert throttle.failed("192.0.2.1", None, SECRET_COST, int(wait_s * 1000) + 1) is None


def test_a_forged_token_costs_a_third() -> None:
    assert 179 <= answers(AuthThrottle(), 300, cost=TOKEN_COST) <= 180


def test_addresses_do_not_pay_for_each_other() -> None:
    throttle = AuthThrottle()
    answers(throttle, 100)
    assert answers(throttle, 5, ip="192.0.2.2") == 5


def test_guesses_at_one_key_from_many_addresses_are_counted_together() -> None:
    throttle = AuthThrottle()
    told = [throttle.failed(f"198.51.100.{n}", "key", SECRET_COST, 0) is None for n in range(100)]
    assert told.count(True) == 60 and all(told[:60])


def test_an_ipv6_customer_is_his_64_and_a_mapped_address_is_its_ipv4() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of(None) == network_of("") == network_of("<local>") == ""


def test_an_exhausted_address_shares_a_few_look_ups() -> None:
    throttle = AuthThrottle()
    assert all(throttle.may_look_up("192.0.2.1", 0) for _ in range(100)), "not wrong yet: no limit"
    answers(throttle, 60)
    assert sum(throttle.may_look_up("192.0.2.1", 0) for _ in range(100)) == 20
    assert sum(throttle.may_look_up("192.0.2.1", 900) for _ in range(100)) == 9
    assert throttle.may_look_up("192.0.2.2", 900)


def test_memory_is_bounded_and_forgets_the_longest_quiet() -> None:
    buckets = Buckets(limit=100)
    for number in range(1000):
        buckets.take(str(number), buckets.capacity, number)
    assert len(buckets) == 100
    assert buckets.level("999", 1000) < 1 and buckets.level("0", 1000) == buckets.capacity


def test_time_that_goes_back_gives_no_tokens() -> None:
    buckets = Buckets()
    buckets.take("a", buckets.capacity, 1000)
    assert buckets.level("a", 0) == 0
