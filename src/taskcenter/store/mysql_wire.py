"""One connection to a MySQL-protocol server: bytes out, one answer in, and never half of either.

Built on trio-mysql's connection for the greeting and the packet writing; commands and results are read here, because
the driver's way costs an `await` chain a row, repeats a result loop without ever yielding when a second result comes,
reconnects in place with stale bytes in its buffer, and leaves a connection that was cancelled in the middle "open".

Invariants:

* A wire is opened once, is used by one task at a time, and has at most one command on its way.
* `in_step` is true only while no command is on its way. Whatever ends a command other than a whole answer — a
  cancellation, a time-out, a cut connection, a byte that does not belong — destroys the wire at once: its socket is
  closed, not the stream around it, and reset rather than finished, so the server drops what it has not read.
* A server's error packet is a whole answer (`Refusal`), not an exception: nothing of its text gets into a traceback.

On failure the caller sees `StoreFault`, `trio.Cancelled` or `CommitUnknown`; what the server had open for this
connection it rolls back when it sees the reset, or after `wait_timeout` when the network keeps the reset from it.
"""

from __future__ import annotations

import ssl
import struct
from dataclasses import dataclass
from typing import Any, Final

import trio
from trio_mysql.connections import Connection
from trio_mysql.protocol import MysqlPacket

from taskcenter.store.connection import STATEMENT_TIMEOUT_S, QueryFault, StoreFault
from taskcenter.store.mysql_auth import Greeting, log_in
from taskcenter.store.mysql_errors import CONNECT_ERRORS, connect_error, refused
from taskcenter.store.mysql_refusal import Refusal
from taskcenter.store.mysql_rows import Answer, AnswerReader, ProtocolFault
from taskcenter.store.mysql_stream import PacketStream
from taskcenter.store.mysql_witness import SILENT_AFTER_S, Witness
from taskcenter.store.url import MysqlUrl

COM_QUERY: Final = b"\x03"
COM_PING: Final = b"\x0e"
IN_TRANSACTION, AUTOCOMMIT, MORE_RESULTS, NO_BACKSLASH_ESCAPES = 1, 2, 8, 512  # bits of an answer's status
HOLD_OFF_S: Final = 0.5  # a command younger than this is not cancelled, unless it is
SMALL_BYTES: Final = 1 << 16  # too large to be in the kernel's hands at once
SQL_MODE: Final = (
    "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,"
    "NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION"
)


@dataclass(frozen=True, slots=True)
class WireSettings:
    """How a connection behaves; times in s."""

    connect_timeout_s: float = 5.0  # name look-up, TCP, TLS, login and session settings together
    statement_timeout_s: float = STATEMENT_TIMEOUT_S
    lock_wait_timeout_s: int = 3
    wait_timeout_s: int = 10  # the server ends the session, and frees its locks, after this long without a word


class Wire(Connection):  # type: ignore[misc]  # trio-mysql ships no types, so its classes are Any
    """See the module. `open` once, then `command`; `kill` at any time, from anywhere."""

    salt: bytes
    server_version: str
    server_capabilities: int
    _auth_plugin_name: str

    def __init__(
        self,
        url: MysqlUrl,
        settings: WireSettings,
        context: ssl.SSLContext | None,
        lookups: trio.CapacityLimiter,
        witness: Witness | None = None,
    ) -> None:
        """`lookups` bounds the threads that resolve the database's name; nobody else's look-ups share it. Without a
        `witness` each statement is waited for to the end of its time-out.
        """
        super().__init__(host=url.host, port=url.port, user=url.user, database=url.database, charset="utf8mb4")
        self._url = url
        self._settings = settings
        self._context = context
        self._lookups = lookups
        self._witness = witness
        self._packets = PacketStream()
        self._opened = False
        self.greeted = False  # whether the server has said anything to us
        self.in_step = True
        self.sent = False  # whether any of the latest command may have reached the server
        self.found_silent = False  # the server owes an answer here, and had no word for the witness either
        self.status = 0  # of the latest answer
        self.max_allowed_packet = 1 << 20
        self.opened_at = self.used_at = trio.current_time()
        self.retire_at = float("inf")  # set by the pool

    @property
    def alive(self) -> bool:
        return self._packets.alive

    @property
    def secure(self) -> bool:
        """Whether everything is encrypted from now on."""
        return self._packets.secure

    @property
    def at_rest(self) -> bool:
        """No command on its way, no transaction open, autocommit on: fit for the next user."""
        return self.in_step and self.alive and self.status & (IN_TRANSACTION | AUTOCOMMIT) == AUTOCOMMIT

    @property
    def is_mariadb(self) -> bool:
        return "MariaDB" in self.server_version

    @property
    def server(self) -> str:
        """Kind and version, as "mariadb 10.11.6" or "mysql 9.7.4"."""
        version = self.server_version.removeprefix("5.5.5-").partition("-")[0]
        return f"{'mariadb' if self.is_mariadb else 'mysql'} {version}"

    async def open(self) -> None:
        """Connect, encrypt, log in, set the session. Raises StoreFault; a wire that failed is gone for good."""
        if self._opened:
            raise QueryFault("a wire is opened once; make a new one")
        self._opened = True
        fault: StoreFault | None = None
        try:
            with trio.fail_after(self._settings.connect_timeout_s):
                await self._packets.dial(self._url.host, self._url.port, self._lookups)
                await self._get_server_information()
                self.greeted = True
                greeting = Greeting(self._auth_plugin_name, self.salt, self.server_capabilities)
                await log_in(self._packets, greeting, self._url, self._context)
                await self._set_session()
        except (*CONNECT_ERRORS, ProtocolFault, struct.error, StoreFault) as error:
            self.kill()
            fault = connect_error(error)
        except BaseException:
            self.kill()
            raise
        if fault is not None:  # raised out here, so that the server's words are not chained to it
            raise fault

    async def _set_session(self) -> None:
        """The session every statement relies on. Raises StoreFault when the server will not have it."""
        s = self._settings
        limit_s = round(s.statement_timeout_s * 0.9, 3)  # so the server ends a statement before we give it up
        limit = f"max_statement_time={limit_s}" if self.is_mariadb else f"max_execution_time={int(limit_s * 1000)}"
        await self._ask_own("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        await self._ask_own(
            f"SET NAMES utf8mb4, SESSION sql_mode='{SQL_MODE}', SESSION time_zone='+00:00', SESSION autocommit=1,"
            f" SESSION innodb_lock_wait_timeout={s.lock_wait_timeout_s}, SESSION wait_timeout={s.wait_timeout_s},"
            f" SESSION {limit}"
        )
        rows = (await self._ask_own("SELECT @@max_allowed_packet")).rows
        if not rows or self.status & NO_BACKSLASH_ESCAPES or not self.at_rest:
            raise StoreFault("server", "the database does not keep the session's settings")
        self.max_allowed_packet = int(rows[0][0])

    async def _ask_own(self, sql: str) -> Answer:
        """A statement of our own while connecting; to be refused is the server's fault."""
        answer = await self.command(COM_QUERY + sql.encode())
        if isinstance(answer, Refusal):
            raise refused(answer.errno)
        return answer

    async def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        """For the driver's parser of the greeting: raises the driver's error for an error packet."""
        packet = packet_type(await self._packets.read_packet(), self.encoding)
        packet.check_error()
        return packet

    def surplus(self) -> bool:
        """Whether something came unasked, which is how a server ends a connection."""
        return self._packets.surplus()

    def kill(self) -> None:
        """Close now, in whatever state it is. May be repeated."""
        self.in_step = False
        self._packets.close()

    def farewell(self) -> None:
        """Close an idle connection politely, without waiting for anything."""
        self._packets.farewell()
        self.in_step = False

    def _force_close(self) -> None:
        self.kill()

    def __del__(self) -> None:
        """Nothing: the driver's own would use attributes that are not there; the descriptor closes itself."""

    def __repr__(self) -> str:
        state = "closed" if not self.alive else "in step" if self.in_step else "command under way"
        return f"<Wire {'tls' if self.secure else 'plain'}, {state}, status {self.status:#x}>"

    async def command(self, payload: bytes, *, settle: bool = False) -> Answer | Refusal:
        """Send one command and read its whole answer.

        A cancellation is seen before anything is sent, then held off for up to `HOLD_OFF_S`: the answer is most likely
        on its way, and a cancellation need not cost a connection. `settle` is for COMMIT and ROLLBACK: they are sent
        even when cancelled. Raises StoreFault("lost" | "timeout"), and the wire is gone.
        """
        if not self.alive:
            raise StoreFault("lost", "the connection to the database is gone")
        if not self.in_step:
            raise QueryFault("a connection is used by two tasks at once")
        if not settle:
            await trio.lowlevel.checkpoint_if_cancelled()
        self.in_step = self.sent = False
        if self._packets.surplus():
            self.kill()
            raise StoreFault("lost", "the database has ended the connection")
        return await self._exchange(payload)

    async def _exchange(self, payload: bytes) -> Answer | Refusal:
        """The command and its answer, within the statement time-out."""
        lost: str | None = None
        reader = AnswerReader()
        answering = False
        limit_s = self._settings.statement_timeout_s
        small = len(payload) <= SMALL_BYTES
        first_s = min(HOLD_OFF_S, limit_s) if small else limit_s
        began = trio.current_time()
        try:
            with trio.CancelScope(shield=small, deadline=began + first_s):
                self.sent = True
                await self._packets.send_command(payload)
                answering = True
                return await self._answer(reader)
            if answering and self._witness is not None and limit_s > SILENT_AFTER_S:  # what came so far is kept
                with trio.move_on_at(began + SILENT_AFTER_S):
                    return await self._answer(reader)
                answering = await self._witness.speaks()
                self.found_silent = not answering
            if answering:
                with trio.move_on_at(began + limit_s):
                    return await self._answer(reader)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            lost = f"broke ({type(error).__name__})"
        except (ProtocolFault, LookupError, ValueError):
            lost = "got out of step"
        finally:
            if not self.in_step:
                self.kill()
        if lost is not None:
            raise StoreFault("lost", f"the connection to the database {lost}")
        raise StoreFault("timeout", "the database did not answer in time")

    async def _answer(self, reader: AnswerReader) -> Answer | Refusal:
        """Read to the end of the answer."""
        packets = self._packets
        answer: Answer | Refusal | None = None
        while answer is None:
            while (body := packets.take()) is None:
                await packets.fill()
            answer = reader.feed(body)
        if isinstance(answer, Answer):
            if answer.status & MORE_RESULTS:
                raise ProtocolFault("a second result")
            self.status = answer.status
        self.in_step = True
        self.used_at = trio.current_time()
        return answer
