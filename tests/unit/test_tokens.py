"""Our JWTs and an external issuer's: what is taken, and the long table of what is not."""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from taskcenter.errors import ConfigError, Unauthenticated
from taskcenter.service.external_tokens import ExternalIssuer
from taskcenter.service.principal import TOKEN_SCOPES, Scope
from taskcenter.service.tokens import GRACE_S, TokenRing, read_header
from taskcenter.store.vault import derive

NOW = 1_800_000_000_000
NOW_S = NOW // 1000
OLD, NEW = ("k1", bytes(range(32))), ("k2", bytes(range(32, 64)))
SIGNING_KEY = derive(NEW[1], "jwt")
GOOD: dict[str, Any] = {
    "iss": "taskcenter", "aud": "taskcenter", "sub": "orders", "client_id": "key-id", "scope": "tasks:read tasks:write",
    "iat": NOW_S, "nbf": NOW_S, "exp": NOW_S + 60, "jti": "one",
}  # fmt: skip


def ring(*keys: tuple[str, bytes], secrets: Sequence[str] = ()) -> TokenRing:
    return TokenRing.of(secrets, keys or (NEW, OLD), audience="taskcenter", random_bytes=random.Random(1).randbytes)


def verify(token: str, now: int = NOW, tokens: TokenRing | None = None) -> Any:
    return (tokens or ring()).verify(token, read_header(token), now)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw(header: object, claims: object, key: bytes = SIGNING_KEY) -> str:
    """A token signed by HS256 whatever its header says, and whatever its parts are."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    body = ".".join(b64(part) for part in parts)
    return f"{body}.{b64(hmac.new(key, body.encode(), hashlib.sha256).digest())}"


HEADER = {"alg": "HS256", "typ": "JWT", "kid": "k2"}


def good(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name not in names}


def test_a_token_says_what_it_was_issued_for() -> None:
    issued = ring().issue("orders", "key-id", frozenset({Scope.TASKS_READ}), NOW + 90_500, NOW)
    claims = verify(issued.token)
    assert (claims.business_code, claims.key_id, claims.scopes) == ("orders", "key-id", {Scope.TASKS_READ})
    assert claims.expires_at == issued.expires_at == NOW + 90_000
    assert claims.token_id and issued.token not in repr(issued)


def test_the_times_are_the_engines() -> None:
    token = ring().issue("orders", "key-id", TOKEN_SCOPES, NOW + 60_000, NOW).token
    assert verify(token, NOW + 59_999)
    for now, reason in ((NOW + 60_000, "token_expired"), (NOW - GRACE_S * 1000 - 1000, "token_not_yet_valid")):
        with pytest.raises(Unauthenticated) as caught:
            verify(token, now)
        assert caught.value.reason == reason
    assert verify(token, NOW - GRACE_S * 1000), "an instance may be a little ahead of another"


def test_tokens_survive_the_rotation_of_the_encryption_key() -> None:
    token = ring(OLD).issue("orders", "key-id", TOKEN_SCOPES, NOW + 60_000, NOW).token
    assert verify(token, tokens=ring(NEW, OLD))
    with pytest.raises(Unauthenticated, match="token_unknown_key"):
        verify(token, tokens=ring(NEW))


def test_a_secret_of_the_settings_takes_the_place_of_the_derived_ones() -> None:
    set_by_hand = ring(NEW, secrets=["sixteen letters!!"])
    token = set_by_hand.issue("orders", "key-id", TOKEN_SCOPES, NOW + 60_000, NOW).token
    assert verify(token, tokens=set_by_hand)
    for other in (ring(NEW), ring(NEW, secrets=["sixteen letters!?"])):
        with pytest.raises(Unauthenticated):
            verify(token, tokens=other)


def test_a_secret_of_the_settings_is_rotated_without_ending_a_token() -> None:
    first, second = "the-first-secret-1", "the-second-secret-2"
    token = ring(NEW, secrets=[first]).issue("orders", "key-id", TOKEN_SCOPES, NOW + 60_000, NOW).token
    both = ring(NEW, secrets=[second, first])
    assert verify(token, tokens=both)
    newer = both.issue("orders", "key-id", TOKEN_SCOPES, NOW + 60_000, NOW).token
    assert read_header(newer)["kid"] != read_header(token)["kid"]
    assert verify(newer, tokens=ring(NEW, secrets=[second])), "the newest signs"
    with pytest.raises(Unauthenticated, match="token_unknown_key"):
        verify(token, tokens=ring(NEW, secrets=[second]))
    assert first not in repr(both) and derive(first.encode(), "jwt").hex()[:12] not in repr(both)


_rsa = rsa.generate_private_key(65537, 2048)
_rsa_public = _rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

FORGED: dict[str, Callable[[], str]] = {
    "alg none": lambda: raw({**HEADER, "alg": "none"}, GOOD).rpartition(".")[0] + ".",
    "alg none, signed": lambda: raw({**HEADER, "alg": "none"}, GOOD),
    "alg None": lambda: raw({**HEADER, "alg": "None"}, GOOD),
    "alg empty": lambda: raw({**HEADER, "alg": ""}, GOOD),
    "alg a list": lambda: raw({**HEADER, "alg": ["HS256"]}, GOOD),
    "alg missing": lambda: raw({"typ": "JWT", "kid": "k2"}, GOOD),
    "alg HS384": lambda: jwt.encode(GOOD, SIGNING_KEY * 2, "HS384", headers={"kid": "k2"}),
    "alg HS512": lambda: jwt.encode(GOOD, SIGNING_KEY * 2, "HS512", headers={"kid": "k2"}),
    "alg hs256 in small letters": lambda: raw({**HEADER, "alg": "hs256"}, GOOD),
    "RS256 with our kid": lambda: jwt.encode(GOOD, _rsa, "RS256", headers={"kid": "k2"}),
    "a public key taken for the secret": lambda: raw(HEADER, GOOD, _rsa_public),
    "kid missing": lambda: raw({"alg": "HS256", "typ": "JWT"}, GOOD),
    "kid unknown": lambda: raw({**HEADER, "kid": "k9"}, GOOD),
    "kid a path": lambda: raw({**HEADER, "kid": "../../dev/null"}, GOOD, b""),
    "kid a number": lambda: raw({**HEADER, "kid": 2}, GOOD),
    "kid null": lambda: raw({**HEADER, "kid": None}, GOOD),
    "kid of the other key": lambda: raw({**HEADER, "kid": "k1"}, GOOD),
    "jku": lambda: raw({**HEADER, "jku": "https://evil.example/jwks"}, GOOD),
    "x5u": lambda: raw({**HEADER, "x5u": "https://evil.example/x"}, GOOD),
    "jwk": lambda: raw({**HEADER, "jwk": {"kty": "oct", "k": b64(b"evil" * 8)}}, GOOD),
    "crit": lambda: raw({**HEADER, "crit": ["exp"]}, GOOD),
    "b64 false": lambda: raw({**HEADER, "b64": False}, GOOD),
    "typ JWE": lambda: raw({**HEADER, "typ": "JWE"}, GOOD),
    "typ a list": lambda: raw({**HEADER, "typ": ["JWT"]}, GOOD),
    "header no object": lambda: raw([], GOOD),
    "header no JSON": lambda: raw(b"{", GOOD),
    "header deep": lambda: raw(b"[" * 1500, GOOD),
    "signature of nothing": lambda: raw(HEADER, GOOD).rpartition(".")[0] + ".",
    "signature of another key": lambda: raw(HEADER, GOOD, b"x" * 32),
    "signature of an empty key": lambda: raw(HEADER, GOOD, b""),
    "signature with a letter more": lambda: raw(HEADER, GOOD) + "A",
    "claims of another token": lambda: _swapped(),
    "claims no object": lambda: raw(HEADER, ["iss"]),
    "claims no JSON": lambda: raw(HEADER, b"not json"),
    "claims deep": lambda: raw(HEADER, b'{"a":' + b"[" * 1500),
    "no claims": lambda: raw(HEADER, {}),
    "iss another": lambda: raw(HEADER, good(iss="evil")),
    "iss a list": lambda: raw(HEADER, good(iss=["taskcenter"])),
    "iss missing": lambda: raw(HEADER, without("iss")),
    "aud another": lambda: raw(HEADER, good(aud="elsewhere")),
    "aud a list": lambda: raw(HEADER, good(aud=["taskcenter", "elsewhere"])),
    "aud missing": lambda: raw(HEADER, without("aud")),
    "sub missing": lambda: raw(HEADER, without("sub")),
    "sub a number": lambda: raw(HEADER, good(sub=1)),
    "sub empty": lambda: raw(HEADER, good(sub="")),
    "sub with half a surrogate pair": lambda: raw(HEADER, good(sub="\ud800")),
    "client_id missing": lambda: raw(HEADER, without("client_id")),
    "client_id an object": lambda: raw(HEADER, good(client_id={})),
    "jti missing": lambda: raw(HEADER, without("jti")),
    "exp missing": lambda: raw(HEADER, without("exp")),
    "exp past": lambda: raw(HEADER, good(exp=NOW_S)),
    "exp a text": lambda: raw(HEADER, good(exp=str(NOW_S + 60))),
    "exp true": lambda: raw(HEADER, good(exp=True)),
    "exp infinite": lambda: raw(HEADER, json.dumps(GOOD).replace(str(NOW_S + 60), "1e999").encode()),
    "exp not a number": lambda: raw(HEADER, json.dumps(GOOD).replace(str(NOW_S + 60), "NaN").encode()),
    "exp below zero": lambda: raw(HEADER, good(exp=-1)),
    "nbf missing": lambda: raw(HEADER, without("nbf")),
    "nbf future": lambda: raw(HEADER, good(nbf=NOW_S + 30)),
    "nbf null": lambda: raw(HEADER, good(nbf=None)),
    "iat missing": lambda: raw(HEADER, without("iat")),
    "iat future": lambda: raw(HEADER, good(iat=NOW_S + 30)),
    "scope missing": lambda: raw(HEADER, without("scope")),
    "scope empty": lambda: raw(HEADER, good(scope="")),
    "scope a list": lambda: raw(HEADER, good(scope=["tasks:read"])),
    "scope of an admin": lambda: raw(HEADER, good(scope="admin business:write")),
    "two parts": lambda: raw(HEADER, GOOD).rpartition(".")[0],
    "five parts": lambda: raw(HEADER, GOOD) + ".a.b",
    "not base64": lambda: "!!!.!!!.!!!",
    "nothing": lambda: "..",
    "too long": lambda: raw(HEADER, good(extra="x" * 5000)),
}


def _swapped() -> str:
    head, _, signature = raw(HEADER, GOOD).split(".")
    return f"{head}.{b64(json.dumps(good(sub='others')).encode())}.{signature}"


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_is_refused(name: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        _dispatch(FORGED[name]())
    assert caught.value.reason.startswith("token_")


def _dispatch(token: str) -> Any:
    """As the authenticator does: the header's algorithm chooses the ring."""
    header = read_header(token)
    if header["alg"] != "HS256":
        raise Unauthenticated("token_algorithm")
    return ring().verify(token, header, NOW)


def test_the_forger_of_these_tests_can_make_a_good_one() -> None:
    assert _dispatch(raw(HEADER, GOOD)).business_code == "orders"


def test_rights_no_token_may_have_are_left_out() -> None:
    assert verify(raw(HEADER, good(scope="tasks:read business:write admin"))).scopes == {Scope.TASKS_READ}


# --- an issuer outside ------------------------------------------------------------------------------------------------

_ec = ec.generate_private_key(ec.SECP256R1())
_ed = ed25519.Ed25519PrivateKey.generate()
_small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - shown to be refused
EXTERNAL = {"iss": "https://id.example", "aud": ["taskcenter", "other"], "shop": "orders", "exp": NOW_S + 60,
            "scope": "tasks:read openid"}  # fmt: skip


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    kind: Any = {rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm, ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm}
    algorithm = next((made for base, made in kind.items() if isinstance(key, base)), jwt.algorithms.OKPAlgorithm)
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


def issuer(folder: Path, *keys: dict[str, Any]) -> ExternalIssuer:
    path = folder / "jwks.json"
    path.write_text(json.dumps({"keys": list(keys)}))
    return ExternalIssuer(path, issuer="https://id.example", audience="taskcenter", business_claim="shop")


@pytest.mark.parametrize(
    ("key", "algorithm"), [(_rsa, "RS256"), (_ec, "ES256"), (_ed, "EdDSA")], ids=["rsa", "ec", "ed"]
)
def test_an_external_token_is_taken(tmp_path: Path, key: Any, algorithm: str) -> None:
    token = jwt.encode(EXTERNAL, key, algorithm, headers={"kid": "a"})
    claims = issuer(tmp_path, jwk(key, "a")).verify(token, read_header(token), NOW)
    assert (claims.business_code, claims.key_id, set(claims.scopes)) == ("orders", None, {Scope.TASKS_READ})


@pytest.mark.parametrize(
    "claims",
    [{"iss": "https://evil.example"}, {"iss": ["https://id.example"]}, {"aud": "other"}, {"aud": []}, {"shop": None},
     {"shop": ["orders"]}, {"exp": NOW_S}, {"exp": None}, {"nbf": NOW_S + 60}, {"scope": "openid"}],
    ids=str,
)  # fmt: skip
def test_an_external_token_with_a_wrong_claim_is_refused(tmp_path: Path, claims: dict[str, Any]) -> None:
    changed = {name: value for name, value in {**EXTERNAL, **claims}.items() if value is not None}
    token = raw_ed(changed)
    with pytest.raises(Unauthenticated):
        issuer(tmp_path, jwk(_ed, "a")).verify(token, read_header(token), NOW)


def raw_ed(claims: object) -> str:
    body = f"{b64(json.dumps({'alg': 'EdDSA', 'kid': 'a'}).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{body}.{b64(_ed.sign(body.encode()))}"


def test_a_key_may_be_used_with_its_own_algorithm_only(tmp_path: Path) -> None:
    external = issuer(tmp_path, jwk(_rsa, "a"), jwk(_ec, "b"))
    for token in (
        jwt.encode(EXTERNAL, _ec, "ES256", headers={"kid": "a"}),
        jwt.encode(EXTERNAL, _rsa, "PS256", headers={"kid": "a"}),
        jwt.encode(EXTERNAL, _rsa, "RS256", headers={"kid": "b"}),
        jwt.encode(EXTERNAL, _rsa, "RS256", headers={"kid": "c"}),
        raw({"alg": "HS256", "kid": "a"}, EXTERNAL, _rsa_public),
    ):
        with pytest.raises(Unauthenticated):
            external.verify(token, read_header(token), NOW)


@pytest.mark.parametrize(
    "document",
    [
        "", "[]", "{}", '{"keys": []}', '{"keys": {}}', '{"keys": [1]}', "[" * 5000,
        json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]}),
        json.dumps({"keys": [jwk(_small, "a")]}),
        json.dumps({"keys": [{**jwk(_rsa, "a"), "alg": "PS256"}]}),
        json.dumps({"keys": [{**jwk(_ed, "a"), "d": "secret"}]}),
        json.dumps({"keys": [{name: value for name, value in jwk(_ed, "a").items() if name != "kid"}]}),
        json.dumps({"keys": [jwk(_ed, "a"), jwk(_ec, "a")]}),
        json.dumps({"keys": [{**jwk(_ed, "a"), "use": "enc"}]}),
        json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "a"}]}),
    ],
    ids=range(15),
)  # fmt: skip
def test_a_file_that_is_no_set_of_public_keys_ends_the_start_in_one_line(tmp_path: Path, document: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(document)
    with pytest.raises(ConfigError, match=r"^TASKCENTER_JWT_JWKS: .*; e\.g\. ") as caught:
        ExternalIssuer(path, issuer="x", audience="taskcenter", business_claim="shop")
    assert "\n" not in str(caught.value) and "c2VjcmV0" not in str(caught.value)


def test_the_keys_are_read_again_when_the_file_changes_and_stay_when_it_breaks(tmp_path: Path) -> None:
    external = issuer(tmp_path, jwk(_ec, "b"))
    assert external.refresh() is False
    issuer(tmp_path, jwk(_ed, "a"))
    token = raw_ed(EXTERNAL)
    with pytest.raises(Unauthenticated):
        external.verify(token, read_header(token), NOW)
    assert external.refresh() is True
    assert external.verify(token, read_header(token), NOW).business_code == "orders"
    for broken in ("", "{}", '{"keys": {}}', '{"keys": [1]}'):
        (tmp_path / "jwks.json").write_text(broken)
        with pytest.raises(ConfigError):
            external.refresh()
        assert external.verify(token, read_header(token), NOW).business_code == "orders"
    (tmp_path / "jwks.json").unlink()
    with pytest.raises(ConfigError):
        external.refresh()
    assert external.verify(token, read_header(token), NOW).business_code == "orders"
    (tmp_path / "jwks.json").write_text('{"keys": []}')
    assert external.refresh() is True
    with pytest.raises(Unauthenticated, match="token_unknown_key"):
        external.verify(token, read_header(token), NOW)
