"""Standard Webhooks v1, held against the published vector and two independent libraries."""

from __future__ import annotations

import base64
import secrets
import time

import pytest
import standardwebhooks
import svix.webhooks
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.actors.signing import SigningSecret, generate_secret, sign

VECTOR_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def verify(secret: str, msg_id: str, timestamp_s: int, signature: str, body: bytes) -> None:
    """By both libraries; raises what they raise."""
    headers = {"webhook-id": msg_id, "webhook-timestamp": str(timestamp_s), "webhook-signature": signature}
    standardwebhooks.Webhook(secret).verify(body, headers, json_parse=False)
    svix.webhooks.Webhook(secret).verify(body, headers)


def test_published_vector() -> None:
    secret = SigningSecret.parse(VECTOR_SECRET)
    signature = sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.binary(min_size=24, max_size=64), st.text("abcXYZ019-_", min_size=1), st.text(max_size=200))
def test_both_public_libraries_accept_it(key: bytes, msg_id: str, text: str) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    now_s = int(time.time())
    verify(secret, msg_id, now_s, sign([SigningSecret.parse(secret)], msg_id, now_s, text.encode()), text.encode())


def test_any_change_is_noticed() -> None:
    now_s = int(time.time())
    signature = sign([SigningSecret.parse(VECTOR_SECRET)], "task-1", now_s, b"{}")
    verify(VECTOR_SECRET, "task-1", now_s, signature, b"{}")
    other = generate_secret(secrets.token_bytes)
    for changed in [
        (VECTOR_SECRET, "task-2", now_s, signature, b"{}"),
        (VECTOR_SECRET, "task-1", now_s - 1, signature, b"{}"),
        (VECTOR_SECRET, "task-1", now_s, signature, b"{} "),
        (other, "task-1", now_s, signature, b"{}"),
    ]:
        with pytest.raises(standardwebhooks.webhooks.WebhookVerificationError):
            verify(*changed)


def test_while_rotating_old_and_new_secret_both_verify_newest_first() -> None:
    old, new = generate_secret(secrets.token_bytes), generate_secret(secrets.token_bytes)
    now_s = int(time.time())
    signature = sign([SigningSecret.parse(new), SigningSecret.parse(old)], "task-1", now_s, b"body")
    verify(new, "task-1", now_s, signature, b"body")
    verify(old, "task-1", now_s, signature, b"body")
    assert signature.split(" ")[0] == sign([SigningSecret.parse(new)], "task-1", now_s, b"body")


def test_generated_secrets_are_of_the_promised_form() -> None:
    asked = []

    def random_bytes(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    secret = generate_secret(random_bytes)
    assert asked == [32]
    assert secret == "whsec_" + base64.b64encode(bytes(range(32))).decode()
    assert SigningSecret.parse(secret).key == bytes(range(32))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "starts with"),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "starts with"),
        ("WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "starts with"),
        ("whsec_", "24 to 64 bytes, not 0"),
        ("whsec_c2hvcnQ=", "24 to 64 bytes, not 5"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), "24 to 64 bytes, not 65"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "base64"),
        ("whsec_MfKQ9r8GKYqr wjUPD8ILPZIo2LaLaSw", "base64"),
        ("whsec_MfKQ9r8GKYqré", "base64"),
    ],
)
def test_a_bad_secret_is_refused_without_being_repeated(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        SigningSecret.parse(text)
    if len(text) > 6:
        assert text.removeprefix("whsec_") not in str(caught.value)


def test_no_representation_shows_the_secret() -> None:
    secret = SigningSecret.parse(VECTOR_SECRET)
    for shown in (repr(secret), str(secret), f"{secret}", repr([secret])):
        assert "MfKQ" not in shown
        assert repr(secret.key)[2:10] not in shown


def test_what_would_make_a_signature_ambiguous_or_empty_is_refused() -> None:
    secret = SigningSecret.parse(VECTOR_SECRET)
    with pytest.raises(ValueError, match="no dot"):
        sign([secret], "a.b", 1, b"")
    with pytest.raises(ValueError, match="no secret"):
        sign([], "a", 1, b"")
