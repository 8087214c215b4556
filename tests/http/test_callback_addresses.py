"""SSRF, seen from the API: however an inner address is written, no task is made with it, at no field, in no call."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.http.api_kit import URL, Api, serve

SPELLINGS = {
    "loopback": [
        "127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f000001", "0X7F.1",
        "0x7f.0.0.1", "0177.0.0.1", "017700000001", "0x7f.0x0.0x0.0x1", "00000177.1", "127.000.000.001",
        "１２７.０.０.１", "①②⑦.⓪.⓪.①", "127。0。0。1", "127．0．0．1", "0ⅹ7f.1", "[::1]", "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::FFFF:7F00:0001]",
    ],
    "unspecified": ["0", "0.0.0.0", "0x0", "00", "0.1", "[::]", "[::0.0.0.0]"],
    "private": [
        "10.0.0.1", "10.1", "0xa.1", "167772161", "012.0.0.1", "172.16.0.1", "172.31.255.255", "0xac.16.1",
        "192.168.0.1", "192.168.1", "3232235521", "0300.0250.1", "100.64.0.1", "[fc00::1]", "[fd12:3456::1]",
        "[::ffff:10.0.0.1]", "[::ffff:c0a8:1]", "[fec0::1]",
    ],
    "link-local and metadata": [
        "169.254.169.254", "169.254.43518", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "0xa9.0xfe.0xa9.0xfe",
        "１６９.２５４.１６９.２５４", "169。254。169。254", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]",
        "[::ffff:a9fe:a9fe]",
    ],
    "tunnels": [
        "[64:ff9b::7f00:1]", "[64:ff9b::10.0.0.1]", "[64:ff9b::169.254.169.254]", "[2002:7f00:1::]", "[2002:a00:1::]",
        "[2002:a9fe:a9fe::]", "[2001:0:53aa:64c:0:0:f5ff:fffe]", "[64:ff9b:1::1]",
    ],
    "other": ["224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "[ff02::1]", "[2001:db8::1]"],
}  # fmt: skip
ALL = [host for hosts in SPELLINGS.values() for host in hosts]
TRICKS = [
    "http://user@127.0.0.1/", "http://example.com@127.0.0.1/", "http://example.com\\@127.0.0.1/",
    "http://127.0.0.1%2f@example.com/", "http://%31%32%37.0.0.1/", "http://[fe80::1%25eth0]/", "http://[127.0.0.1]/",
    "http://example.com:80:80/", "http://127.0.0.1\r\nHost: example.com/", "file:///etc/passwd", "gopher://127.0.0.1/",
    "//127.0.0.1/", "http:127.0.0.1", "http:///127.0.0.1/", "dict://127.0.0.1:11211/", "http://127.0.0.1#@example.com/",
]  # fmt: skip


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncGenerator[Api, None]:
    """The API as it is set up unless somebody allows more: public addresses only."""
    async with serve(f"sqlite:///{tmp_path / 'tasks.db'}", in_loop=True, api_rate=0) as served:
        yield served


def test_the_table_is_no_smaller_than_promised() -> None:
    assert len(set(ALL)) == len(ALL) >= 60


async def test_no_spelling_of_an_inner_address_makes_a_task(guarded: Api) -> None:
    for number, host in enumerate(ALL):
        url = f"http://{host}:8080/x?y=z" if number % 2 else f"https://{host}/"
        answer = await guarded.call("POST", "/tasks", {"business_id": f"n{number}", "callback_url": url})
        assert (answer.status, answer.fields) == (422, {"callback_url"}), url
        assert "is not an address that callbacks may go to" in answer.json["errors"][0]["message"], url
    for number, url in enumerate(TRICKS):
        answer = await guarded.call("POST", "/tasks", {"business_id": f"t{number}", "callback_url": url})
        assert (answer.status, answer.fields) == (422, {"callback_url"}), url
    assert (await guarded.call("GET", "/tasks")).json["items"] == []


@pytest.mark.parametrize("host", ["127.1", "0xa9fea9fe", "[::ffff:10.0.0.1]"])
async def test_no_other_field_or_call_lets_it_in(guarded: Api, host: str) -> None:
    url = f"http://{host}/"
    ending = await guarded.call("POST", "/tasks", {"business_id": "a", "callback_url": URL, "finish_url": url})
    assert (ending.status, ending.fields) == (422, {"finish_url"})
    task = await guarded.create("b", delay=3600)
    for field in ("callback_url", "finish_url"):
        changed = await guarded.call("PUT", f"/tasks/{task['id']}", {field: url})
        assert (changed.status, changed.fields) == (422, {field})
    batch = await guarded.call("POST", "/tasks/batch", {"tasks": [{"business_id": "c", "callback_url": url}]})
    assert [result["status"] for result in batch.json["results"]] == [422]
    assert [item["business_id"] for item in (await guarded.call("GET", "/tasks")).json["items"]] == ["b"]
