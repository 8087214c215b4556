"""The pure parts under the MySQL connection: text, rows, error codes, the pool's outage, the gate."""

from random import Random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from taskcenter.errors import CommitUnknown
from taskcenter.store.admin import privileges
from taskcenter.store.connection import DuplicateKey, LockConflict, QueryFault, StoreFault, plain
from taskcenter.store.gate import Gate
from taskcenter.store.mysql_errors import (
    CONFLICTS,
    FAULTS,
    NOT_COMMITTED,
    commit_error,
    connect_error,
    statement_error,
)
from taskcenter.store.mysql_pool import RETRY_S, Outage
from taskcenter.store.mysql_refusal import parse_refusal
from taskcenter.store.mysql_rows import ProtocolFault, parse_ok, parse_row, reader_of
from taskcenter.store.mysql_text import render, render_insert
from taskcenter.store.sql_text import split_insert, split_placeholders


@pytest.mark.parametrize(
    "sql,pieces",
    [
        ("SELECT 1", ("SELECT 1",)),
        ("a = ? AND b = ?", ("a = ", " AND b = ", "")),
        ("a = '?' AND b = ?", ("a = '?' AND b = ", "")),
        ("a = 'it''s ?' AND b = ?", ("a = 'it''s ?' AND b = ", "")),
        ("a = '\\'?' AND b = ?", ("a = '\\'?' AND b = ", "")),
        ('a = "?" AND `?` = ?', ('a = "?" AND `?` = ', "")),
        ("/* ? */ a = ? -- ?\n AND b = ? # ?", ("/* ? */ a = ", " -- ?\n AND b = ", " # ?")),
        ("a LIKE '%s' AND b = ?", ("a LIKE '%s' AND b = ", "")),
    ],
)
def test_placeholders_are_found_outside_of_quotes_alone(sql: str, pieces: tuple[str, ...]) -> None:
    assert split_placeholders(sql) == tuple(piece.encode() for piece in pieces)


@pytest.mark.parametrize(
    "value,text",
    [
        (None, b"NULL"),
        (True, b"1"),
        (-7, b"-7"),
        (1.5, b"1.5e0"),
        (1e300, b"1e+300"),
        ("it's \\ \u00e9", "'it\\'s \\\\ \u00e9'".encode()),
        ("%s ?", b"'%s ?'"),
        (b"\0'\\\xff", b"_binary'\0\\'\\\\\xff'"),
    ],
)
def test_literals(value: object, text: bytes) -> None:
    assert render("SELECT ?", (value,)) == b"SELECT " + text  # type: ignore[arg-type]  # object stands for Param here


def test_inserts_are_split_by_size_and_keep_head_and_tail() -> None:
    sql = "INSERT INTO t (a, b) VALUES (?, LOWER(?)) ON DUPLICATE KEY UPDATE a = a"
    rows = [(i, "x" * 10) for i in range(10)]
    statements = list(render_insert(sql, rows, 140))
    assert len(statements) > 3
    assert all(len(statement) <= 140 for statement in statements)
    assert all(statement.startswith(b"INSERT INTO t (a, b) VALUES (") for statement in statements)
    assert all(statement.endswith(b") ON DUPLICATE KEY UPDATE a = a") for statement in statements)
    assert sum(statement.count(b"LOWER('xxxxxxxxxx')") for statement in statements) == 10
    assert len(list(render_insert(sql, rows, 10))) == 10  # a row that fits nowhere goes alone
    assert list(render_insert(sql, [], 100)) == []
    with pytest.raises(QueryFault):
        split_insert("INSERT INTO t (a) VALUES (?) ON DUPLICATE KEY UPDATE a = ?")


def test_plain_refuses_by_type_and_says_no_value() -> None:
    with pytest.raises(QueryFault, match="type dict") as caught:
        plain({"secret": "s"})  # type: ignore[arg-type]  # what must not pass
    assert "secret" not in str(caught.value)


def test_rows_must_add_up() -> None:
    readers = [int, bytes.decode, bytes]
    assert parse_row(b"\x0242\xfb\xfc\x03\x00abc", [int, bytes.decode, bytes]) == (42, None, b"abc")
    long = b"\xfd\x00\x00\x01" + b"x" * 65536
    assert parse_row(long, [bytes]) == (b"x" * 65536,)
    for body in [b"\x0242\xfb", b"\x0242\xfb\x05abc", b"\x0242\xfb\x03abcd", b"\x0242\xfb\xff", b"\x0242\xfb\xfc\x01"]:
        with pytest.raises((ProtocolFault, LookupError)):
            parse_row(body, readers)  # type: ignore[arg-type]  # two kinds of reader
    for body in [b"\x00\x01", b"\x00\xfc\x01", b"\x00\x00\x00\x02\x00"]:
        with pytest.raises((ProtocolFault, LookupError)):
            parse_ok(body)
    with pytest.raises(ProtocolFault):
        reader_of(b"\x03def\x00")


def packet(errno: int, message: str, state: str = "HY000") -> bytes:
    return b"\xff" + errno.to_bytes(2, "little") + (f"#{state}" if state else "").encode() + message.encode()


@pytest.mark.parametrize(
    "message,key",
    [
        ("Duplicate entry 'a' for key 'uq_code'", "uq_code"),
        ("Duplicate entry 'a' for key 'item.uq_code'", "uq_code"),
        ("Duplicate entry 'x for key 'fake'' for key 'PRIMARY'", "PRIMARY"),
        ("something translated", "unnamed"),
    ],
)
def test_a_duplicate_names_its_key_and_no_value(message: str, key: str) -> None:
    error = statement_error(parse_refusal(packet(1062, message)), "INSERT")
    assert isinstance(error, DuplicateKey)
    assert error.key == key
    assert "fake" not in str(error)


def test_codes_become_the_error_the_table_says() -> None:
    for errno, (kind, _) in FAULTS.items():
        error = statement_error(parse_refusal(packet(errno, "secret words")), "UPDATE")
        assert isinstance(error, StoreFault)
        assert error.kind == kind
        assert "secret" not in str(error)
        assert not isinstance(error, LockConflict)
    for errno in CONFLICTS:
        assert isinstance(statement_error(parse_refusal(packet(errno, "secret")), "UPDATE"), LockConflict)
    for errno in (1064, 1054, 1406, 1264, 1366, 1452, 1146, 4025):
        error = statement_error(parse_refusal(packet(errno, "secret words", "42000")), "UPDATE t")
        assert isinstance(error, QueryFault)
        assert (error.errno, error.statement) == (errno, "UPDATE t")
        assert "secret" not in str(error)
    wanted = {2003, 2006, 2013, 1040, 1053, 1317, 1927, 1290, 1792, 1836, 3024, 1969, 4031, 1114, 1021, 1153}
    assert wanted <= FAULTS.keys()


def test_an_error_packet_before_the_handshake_has_no_state() -> None:
    assert (refusal := parse_refusal(packet(1040, "Too many connections", ""))).errno == 1040
    assert refusal.sqlstate == ""


def test_an_error_at_commit_is_unknown_unless_it_rules_the_commit_out() -> None:
    for errno in (1180, 1317, 1053, 1927, 1969, 1114, 1030, 1598, 3101):
        assert isinstance(commit_error(parse_refusal(packet(errno, ""))), CommitUnknown)
    for errno in NOT_COMMITTED:
        error = commit_error(parse_refusal(packet(errno, "")))
        assert isinstance(error, StoreFault)
    assert isinstance(commit_error(parse_refusal(packet(1213, ""))), LockConflict)


def test_what_breaks_a_connect_gets_words_without_addresses() -> None:
    refused = connect_error(ConnectionRefusedError(111, "Connection refused"))
    assert (refused.kind, str(refused)) == ("refused", "the database cannot be reached (Connection refused)")
    assert connect_error(trio.TooSlowError()).kind == "timeout"
    assert connect_error(IndexError("10.0.0.1")).kind == "lost"
    assert "10.0.0.1" not in str(connect_error(IndexError("10.0.0.1")))


def test_an_outage_lets_one_look_again_at_a_time() -> None:
    outage = Outage(Random(1))
    assert outage.enter(0.0, 0.0) is False
    assert outage.enter(0.0, 0.0) is False  # while all is well, everybody may connect
    outage.failed(10.0, "refused")
    with pytest.raises(StoreFault) as caught:
        outage.enter(10.0 + RETRY_S[0] - 0.001, 10.1)
    assert caught.value.kind == "refused"
    later = 10.0 + RETRY_S[1]
    with pytest.raises(StoreFault):
        outage.enter(later, 9.9)  # was in line when the word came
    assert outage.enter(later, later) is True
    with pytest.raises(StoreFault):
        outage.enter(later + 100, later + 100)  # somebody is looking
    outage.leave(probe=True)  # cancelled: the next may look at once
    assert outage.enter(later, later) is True
    outage.failed(later, "timeout")
    outage.leave(probe=True)
    with pytest.raises(StoreFault) as caught:
        outage.enter(later, later)
    assert caught.value.kind == "timeout"
    assert outage.enter(later + RETRY_S[1], later + RETRY_S[1]) is True
    outage.succeeded()
    outage.leave(probe=True)
    assert outage.enter(later + RETRY_S[1], later) is False


async def test_the_gate_is_first_come_first_served(autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate(1)
    order: list[str] = []

    async def want(name: str, timeout_s: float, *, urgent: bool = False) -> None:
        order.append(f"{name} {await gate.enter(timeout_s, urgent=urgent)}")

    assert await gate.enter(0)
    async with trio.open_nursery() as nursery:
        for name, timeout_s, urgent in [("a", 9, False), ("b", 1, False), ("c", 9, False), ("urgent", 9, True)]:
            nursery.start_soon(lambda n=name, t=timeout_s, u=urgent: want(n, t, urgent=u))  # type: ignore[misc]  # bound now
            await wait_all_tasks_blocked()
        assert (gate.in_use, gate.waiting) == (1, 4)
        await trio.sleep(2)  # b gives up
        for _ in range(3):
            gate.leave()
            await wait_all_tasks_blocked()
            assert gate.in_use == 1
    gate.leave()
    assert order == ["b False", "urgent True", "a True", "c True"]
    assert (gate.in_use, gate.waiting) == (0, 0)
    assert repr(gate) == "<Gate 0/1 in use, 0 waiting>"


@pytest.mark.parametrize("given_first", [False, True])
async def test_a_cancelled_wait_takes_no_place_with_it(given_first: bool) -> None:
    gate = Gate(1)
    await gate.enter(0)
    got: list[str] = []

    async def want(name: str) -> None:
        if await gate.enter(60):
            got.append(name)

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as doomed:
            async with trio.open_nursery() as inner:
                inner.start_soon(want, "doomed")
                await wait_all_tasks_blocked()
                nursery.start_soon(want, "next")
                await wait_all_tasks_blocked()
                for step in (gate.leave, doomed.cancel) if given_first else (doomed.cancel, gate.leave):
                    step()
        assert got == (["doomed"] if given_first else ["next"])  # who was given the place has it, cancelled or not
        gate.leave()
        await wait_all_tasks_blocked()
        assert got[-1] == "next"
        assert gate.in_use == len(got) - 1
        for _ in range(gate.in_use):
            gate.leave()
    assert (gate.in_use, gate.waiting) == (0, 0)


GRANTED = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
EVERYTHING = GRANTED | {"CREATE", "ALTER", "DROP", "INDEX"}


@pytest.mark.parametrize(
    "grants,expected",
    [
        (["GRANT USAGE ON *.* TO `t`@`%`"], {"USAGE"}),
        (["GRANT ALL PRIVILEGES ON *.* TO `t`@`%` WITH GRANT OPTION"], EVERYTHING),
        (["GRANT SELECT, INSERT, UPDATE, DELETE ON `task_center`.* TO `t`@`%`"], GRANTED),
        (["GRANT SELECT, INSERT, UPDATE, DELETE ON `task\\_center`.* TO `t`@`%`"], GRANTED),
        (["GRANT ALL PRIVILEGES ON `task\\_%`.* TO `t`@`localhost`"], EVERYTHING),
        (["GRANT ALL PRIVILEGES ON `task_%`.* TO `t`@`localhost`"], EVERYTHING),
        (["GRANT ALL PRIVILEGES ON `task\\%`.* TO `t`@`%`", "GRANT USAGE ON *.* TO `t`@`%`"], {"USAGE"}),
        (["GRANT ALL PRIVILEGES ON `task`.* TO `t`@`%`", "GRANT SELECT ON `other`.* TO `t`@`%`"], set()),
        (["GRANT SELECT ON task_center.* TO t", "GRANT INSERT ON *.* TO t"], {"SELECT", "INSERT"}),
    ],
)
def test_grants_may_name_the_database_by_a_pattern(grants: list[str], expected: set[str]) -> None:
    assert privileges(grants, "task_center") == expected
