"""Whatever stands where a credential or a header should: an answer or an error of ours, never another exception."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.test_tokens import EXTERNAL, GOOD, HEADER, NOW, b64, raw, ring

from taskcenter.actors.message import masked
from taskcenter.errors import InvalidInput, Unauthenticated
from taskcenter.service import api_keys
from taskcenter.service.authenticator import Presented, credential_of
from taskcenter.service.business_input import BusinessInput, BusinessUpdate
from taskcenter.service.callback_credential_input import read_auth, read_tls
from taskcenter.service.credential_input import RotateInput, TokenInput
from taskcenter.service.fields import InsideFault
from taskcenter.service.header_input import read_headers
from taskcenter.service.tokens import Claims, check_times, read_header, read_scopes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
HEADER_TEXT = st.text(st.characters(max_codepoint=0x2100), max_size=60)


def judged(token: str) -> Claims | str:
    """As the authenticator does; the reason when it is refused."""
    try:
        header = read_header(token)
        return ring().verify(token, header, NOW) if header["alg"] == "HS256" else "token_algorithm"
    except Unauthenticated as error:
        return error.reason


@settings(max_examples=100)
@given(st.text(max_size=200) | st.builds(".".join, st.lists(st.binary(max_size=40).map(b64), min_size=1, max_size=5)))
def test_no_text_is_a_token(text: str) -> None:
    assert isinstance(judged(text), str)


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from([*HEADER, "jku", "crit", "x"]), JSON),
    st.dictionaries(st.sampled_from([*GOOD, "x"]), JSON),
)
def test_any_header_and_claims_signed_by_us_are_claims_or_a_refusal(
    header: dict[str, Any], claims: dict[str, Any]
) -> None:
    assert isinstance(judged(raw({**HEADER, **header}, {**GOOD, **claims})), Claims | str)
    assert isinstance(judged(raw(HEADER, {**EXTERNAL, **claims})), Claims | str)


@given(st.integers(0, 10**6))
def test_any_flipped_character_of_a_token_is_a_refusal(seed: int) -> None:
    rng = random.Random(seed)
    token = raw(HEADER, GOOD)
    place = rng.randrange(len(token))
    letter = rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=%\x00 ")
    changed = token[:place] + letter + token[place + 1 :]
    last = place == len(token) - 1  # the lowest bits of the last letter mean nothing, in base64 as such
    assert changed == token or last or isinstance(judged(changed), str)


@given(JSON, JSON)
def test_times_and_scopes_of_any_kind(one: Any, other: Any) -> None:
    for judge in (lambda: check_times({"exp": one, "nbf": other}, NOW, required=("exp",)), lambda: read_scopes(one)):
        try:
            judge()
        except Unauthenticated as error:
            assert error.reason.startswith("token_")


@settings(max_examples=100)
@given(st.text(max_size=120))
def test_no_text_is_a_key_but_a_key(text: str) -> None:
    for candidate in (text, f"tc_live_{text}", f"tc_live_aaaaaaaaaaaaaaaa_{text}"):
        key = api_keys.parse(candidate)
        assert key is None or key.text == candidate


@settings(max_examples=100)
@given(st.lists(HEADER_TEXT, max_size=3), st.lists(HEADER_TEXT, max_size=3))
def test_any_headers_are_one_credential_or_a_refusal(authorization: list[str], keys: list[str]) -> None:
    for values in (authorization, [f"Bearer {value}" for value in authorization]):
        try:
            text = credential_of(Presented(tuple(values), tuple(keys)))
        except Unauthenticated:
            continue
        assert text.isascii() and text.isprintable() and " " not in text and 0 < len(text) <= 4096


@settings(max_examples=100)
@given(st.dictionaries(HEADER_TEXT, HEADER_TEXT | JSON, max_size=4) | JSON)
def test_any_headers_for_a_receiver_are_taken_whole_or_refused(value: Any) -> None:
    try:
        headers = read_headers(value)
    except ValueError:
        return
    for name, content in masked(list(headers.items())).items():
        assert not set(name + content) & set("\r\n\0") and name.isascii()


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "type",
                "token",
                "token_url",
                "client_id",
                "client_secret",
                "scope",
                "hosts",
                "certificate",
                "private_key",
                "x",
            ]
        ),
        JSON | st.sampled_from(["bearer", "oauth2", ["a.example"]]),
    )
    | JSON
)
def test_any_callback_credential_is_read_or_refused(value: Any) -> None:
    for read in (read_auth, read_tls):
        try:
            assert read(value) is None or isinstance(value, dict)
        except InsideFault as fault:
            assert "\n" not in str(fault)
        except ValueError as error:
            assert "must be an object" in str(error)


def test_the_tokens_that_these_tests_change_are_good_ones() -> None:
    assert isinstance(judged(raw(HEADER, GOOD)), Claims)
    assert json.loads(json.dumps(GOOD)) == GOOD


INPUTS = (BusinessInput, BusinessUpdate, RotateInput, TokenInput)
NAMES = sorted({name for model in INPUTS for name in model.model_fields})


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), JSON, max_size=4) | JSON)
def test_any_body_about_a_business_is_read_or_refused(body: Any) -> None:
    for model in INPUTS:
        try:
            model.read(body)
        except InvalidInput as error:
            assert error.faults and all(len(fault.field) < 200 for fault in error.faults)
