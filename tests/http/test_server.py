"""The server's life: binding, faults that stay at their connection, draining, and no zombie."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest
import trio
from tests.http.test_server_kit import (
    HEALTH,
    PATIENT,
    QUICK,
    Served,
    make_app,
    open_descriptors,
    parse,
    read_answer,
    serving,
    until,
)

from taskcenter.config import split_address
from taskcenter.errors import ConfigError
from taskcenter.http.limits import ServerSettings
from taskcenter.http.server import serve_api

# --- binding -----------------------------------------------------------------------------------------------------


async def test_several_addresses_are_bound_and_told(loopback_clock: object) -> None:
    async with serving(settings=replace(QUICK, bind=("127.0.0.1:0", "[::1]:0"))) as served:
        assert [address.rpartition(":")[0] for address in served.addresses] == ["127.0.0.1", "[::1]"]
        for address in served.addresses:
            async with await trio.open_tcp_stream(*split_address(address)) as stream:
                await stream.send_all(HEALTH)
                assert (await read_answer(stream)).status == 200


@pytest.mark.parametrize("bind", ["no-port", "::1:80", "nowhere.invalid:80", "192.0.2.1:80"])
async def test_an_address_that_cannot_be_bound_is_named(bind: str) -> None:
    before = open_descriptors()
    with pytest.raises(ConfigError, match="TASKCENTER_BIND: ") as caught:
        await serve_api(make_app(), replace(QUICK, bind=("127.0.0.1:0", bind)), shutdown=trio.Event())
    assert bind in str(caught.value)
    assert "\n" not in str(caught.value)
    assert open_descriptors() == before


async def test_a_port_in_use_is_refused_unless_it_is_shared_on_purpose(loopback_clock: object) -> None:
    shared = replace(QUICK, reuse_port=True)
    async with serving(settings=shared) as first:
        taken = replace(QUICK, bind=first.addresses)
        with pytest.raises(ConfigError, match=rf"{first.addresses[0]}: Address already in use"):
            await serve_api(make_app(), taken, shutdown=trio.Event())
        async with serving(settings=replace(shared, bind=first.addresses)) as second:
            assert second.addresses == first.addresses
            assert await second.healthy()


@pytest.mark.parametrize("wrong", [{"tls_cert": "x"}, {"descriptor_share": 0.7}, {"max_connections": 0}, {"bind": ()}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"and|at most|room"):
        ServerSettings(**wrong)


# --- no zombie ---------------------------------------------------------------------------------------------------


async def test_there_is_no_lifespan_in_which_something_could_die_unseen(loopback_clock: object) -> None:
    """The app's own nursery and hooks are never started: a route that wants them fails, visibly, and alone."""
    app, started = make_app(), False
    app.logger.disabled = True

    @app.before_serving
    async def begin() -> None:
        nonlocal started
        started = True

    @app.get("/background")
    async def background() -> str:
        app.nursery.start_soon(trio.sleep_forever)
        return "started"

    async with serving(app) as served:
        answer = parse(await served.ask(b"GET /background HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"))
        assert answer.status == 500
        assert await served.healthy()
    assert not started


async def test_an_engine_that_dies_beside_the_server_ends_it_at_once(loopback_clock: object) -> None:
    die = trio.Event()

    async def engine() -> None:
        await die.wait()
        raise LookupError

    served: Served | None = None
    with trio.fail_after(5), pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        async with serving(settings=PATIENT) as served, await served.connect() as hostile:
            served.nursery.start_soon(engine)
            await hostile.send_all(b"GET /big HTTP/1.1\r\nHost: t\r\n\r\n")
            await until(lambda: served.statistics.requests_total == 1)
            die.set()
            await trio.sleep_forever()
    assert served is not None
    assert served.statistics.connections_open == 0
    with pytest.raises(OSError, match=r"refused|connect"):
        await trio.open_tcp_stream(*served.address)


async def test_a_listener_that_dies_ends_the_server(loopback_clock: object) -> None:
    """Not a server that listens no more and looks alive."""
    with trio.fail_after(5), pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with serving() as served:
            for number in range(3, 1024):
                _stop_listening(number, served.address)
            await trio.sleep_forever()


def _stop_listening(number: int, address: tuple[str, int]) -> None:
    """Shut the listener down behind the server's back, if descriptor `number` is one on `address`."""
    try:
        sock = socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return
    with sock:
        try:
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            return  # no socket at all
        if listens and sock.getsockname() == address:
            sock.shutdown(socket.SHUT_RDWR)
