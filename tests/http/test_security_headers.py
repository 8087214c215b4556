"""What every answer says of itself: no sniffing, caching, frames or scripts, no banner; over TLS, no way back."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.api_kit import ADMIN, Api
from tests.http.test_server_kit import serving
from trio.testing import MockClock

ALWAYS = {
    "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}  # fmt: skip
BANNERS = ("server", "x-powered-by", "via", "x-aspnet-version", "access-control-allow-origin")
CALLS = [
    ("GET", "/tasks", {}, 200), ("GET", "/tasks", {"Authorization": "Bearer x"}, 401), ("GET", "/stats", {}, 403),
    ("GET", "/nothing", {}, 404), ("PATCH", "/tasks", {}, 405), ("POST", "/tasks", {}, 415), ("GET", "/docs", {}, 200),
    ("GET", "/openapi.json", {}, 200), ("GET", "/health", {}, 200), ("GET", "/metrics", {}, 200),
    ("OPTIONS", "/tasks", {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, 405),
    ("TRACE", "/tasks", {}, 405),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=str)
async def test_every_answer_has_them(
    call: tuple[str, str, dict[str, str], int], api: Api, autojump_clock: MockClock
) -> None:
    method, path, headers, status = call
    whole = path if path in ("/docs", "/openapi.json") else f"/api/v1{path}"
    sent = {"Authorization": f"Bearer {api.keys['orders']}", **headers}
    client: Any = api.app.test_client()  # whose `json` the type says is needed, and is not
    response = await client.open(whole, method=method, headers=sent, scheme="http")
    assert response.status_code == status
    for name, value in ALWAYS.items():
        assert response.headers[name] == value, name
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert not {name.lower() for name, _ in response.headers.items()} & {*BANNERS}
    assert "Strict-Transport-Security" not in response.headers
    secure = await client.open(whole, method=method, headers=sent, scheme="https")
    assert secure.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert ADMIN not in str(response.headers)


@pytest.mark.parametrize(
    "request_bytes", [b"CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_what_is_refused_before_the_app_has_no_banner_either(request_bytes: bytes) -> None:
    async with serving() as served:
        head = (await served.ask(request_bytes)).partition(b"\r\n\r\n")[0].lower()
        assert head.startswith(b"http/1.1 400")
        assert b"x-content-type-options: nosniff" in head and b"cache-control: no-store" in head
        assert not any(f"\n{banner}:".encode() in head for banner in BANNERS)
        assert b"hypercorn" not in head and b"python" not in head
