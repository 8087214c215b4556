"""API keys: their shape, their checksum, and what is kept of them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.service.api_keys import ApiKey, KeyHasher, base62, checksum, generate, parse

OLD, NEW = ("k1", bytes(range(32))), ("k2", bytes(range(32, 64)))


def seeded(seed: int = 1) -> ApiKey:
    return generate(random.Random(seed).randbytes)


def test_a_key_reads_back_as_itself() -> None:
    key = seeded()
    assert parse(key.text) == key
    assert key.text.startswith("tc_live_")
    assert len(key.text) == len("tc_live_") + 16 + 1 + 43 + 6


def test_two_keys_have_nothing_in_common() -> None:
    keys = [generate() for _ in range(50)]
    assert len({key.key_id for key in keys}) == len({key.secret for key in keys}) == 50


def test_the_secret_is_all_of_the_random_bytes() -> None:
    low, high = generate(lambda n: bytes(n)), generate(lambda n: b"\xff" * n)
    assert low.secret == "0" * 43
    assert high.secret == base62(2**256 - 1, 43)
    assert len({*high.secret}) > 10  # not cut off


def test_the_checksum_is_a_plain_crc_that_a_scanner_can_compute() -> None:
    key = generate(lambda n: bytes(n))
    assert key.text == "tc_live_aaaaaaaaaaaaaaaa_" + "0" * 43 + checksum(f"tc_live_{'a' * 16}_{'0' * 43}")
    assert checksum("123456789") == base62(0xCBF43926, 6)  # the check value of CRC-32


@given(st.integers(0, 72), st.sampled_from("abcXYZ019_-.é\n\0"))
def test_any_letter_changed_is_noticed_without_a_look_up(place: int, letter: str) -> None:
    text = seeded().text
    changed = text[:place] + letter + text[place + 1 :]
    assert parse(changed) is None or changed == text


@pytest.mark.parametrize(
    "text",
    ["", "tc_live_", "tc_test_" + seeded().text[8:], seeded().text[:-1], seeded().text + "0", seeded().text + "\n",
     seeded().text.upper(), " " + seeded().text, seeded().text.replace("_", "-"), "x" * 10_000],
)  # fmt: skip
def test_what_is_not_a_key_is_none(text: str) -> None:
    assert parse(text) is None


def test_the_kept_form_verifies_its_own_key_only() -> None:
    hasher = KeyHasher([OLD])
    key, other = seeded(1), seeded(2)
    kept = hasher.hash(key)
    assert hasher.verify(key, kept)
    assert not hasher.verify(ApiKey(key.key_id, other.secret), kept)
    assert not hasher.verify(ApiKey(other.key_id, key.secret), kept), "a hash copied to another row must not open it"
    assert key.secret.encode() not in kept and len(kept) == 35


def test_every_flipped_bit_of_the_kept_form_is_refused() -> None:
    hasher = KeyHasher([OLD])
    key = seeded()
    kept = hasher.hash(key)
    for place in range(len(kept) * 8):
        flipped = bytearray(kept)
        flipped[place // 8] ^= 1 << place % 8
        assert not hasher.verify(key, bytes(flipped)), place
    assert not hasher.verify(key, b"") and not hasher.verify(key, kept[:-1])


def test_keys_survive_the_rotation_of_the_encryption_key_and_ask_to_be_hashed_anew() -> None:
    key = seeded()
    kept = KeyHasher([OLD]).hash(key)
    both = KeyHasher([NEW, OLD])
    assert both.verify(key, kept) and both.needs_rehash(kept)
    anew = both.hash(key)
    assert both.verify(key, anew) and not both.needs_rehash(anew)
    assert KeyHasher([NEW]).verify(key, anew)
    assert not KeyHasher([NEW]).verify(key, kept), "the old key is gone, and the old hash with it"


def test_no_repr_shows_a_secret() -> None:
    key = seeded()
    assert key.secret not in repr(key) and key.key_id in repr(key)
    assert repr(KeyHasher([NEW, OLD])) == "<KeyHasher current=k2 keys=['k1', 'k2']>"


def test_a_key_says_which_environment_it_is_of() -> None:
    key = generate(random.Random(1).randbytes, "staging")
    assert key.text.startswith("tc_staging_") and parse(key.text) == key
    assert parse(key.text.replace("staging", "live")) is None, "the checksum covers it"
    for wrong in ("tc__", "tc_a_", "tc_LIVE_", "tc_toolongname_", "tc_l1ve_"):
        assert parse(key.text.replace("tc_staging_", wrong)) is None
