"""Scenes in which an owner has lost its shards and does not know it yet: row 6, for the service and for its mutants."""

from __future__ import annotations

import ssl
from collections import Counter
from contextlib import aclosing
from functools import partial

import trio
from tests.flow.kit import ADMIN_TOKEN, Answer, Api, Call
from tests.reliability.cluster import Cluster, Instance, prompt
from tests.reliability.judge import Verdict
from tests.reliability.recorder import Caller, Recorder, now_ms, spread

BURIALS = 6
FROZEN_S = 16.0  # past the lease, its burial and the takeover
HANDSHAKE_S = 3.0
RETRY = {"retry_intervals": [1, 1]}


class Mood:
    """Tasks of business `slow`: the first call is answered 500 while its sender is frozen, the next hangs."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()

    def __call__(self, call: Call) -> Answer:
        if call.json["business_code"] != "slow":
            return Answer(delay_s=0.02)
        task_id = call.headers["x-taskcenter-task-id"]
        self._calls[task_id] += 1
        return {1: Answer(500, delay_s=2), 2: Answer(200, delay_s=15)}.get(self._calls[task_id], Answer(200))


async def identity(instance: Instance) -> str:
    """The one it has now: who was buried alive has taken a new one."""
    async with aclosing(Api(instance, ADMIN_TOKEN)) as api:
        return str((await api.ok("GET", "/stats"))["answered_by"])


async def owner_of(trial: Cluster, caller: Caller) -> tuple[Instance, Instance]:
    """The owner of the business's shard, and another instance."""
    query = f"SELECT shard FROM business_systems WHERE business_code = '{caller.code}'"
    shard = (await trial.history.fetch(query))[0][0]
    owner, _ = (await trial.history.owners())[shard]
    [mine] = [each for each in trial.instances if await identity(each) == owner]
    return mine, next(each for each in trial.instances if each is not mine)


async def balanced(trial: Cluster) -> None:
    """Return when all the shards are shared out evenly again."""
    with trio.fail_after(90):
        while True:
            counts = Counter([owner for owner, _ in (await trial.history.owners()).values()])
            if None not in counts and len(counts) == len(trial.instances) and max(counts.values()) <= 86:
                return
            await trio.sleep(0.1)


async def heart_has_beaten(trial: Cluster, name: str) -> None:
    """Return right after the instance's next heartbeat: it will not hear of its death before the one after that."""
    query = f"SELECT seq FROM instances WHERE id = '{name}'"
    before = await trial.history.fetch(query)
    with trio.fail_after(30):
        while await trial.history.fetch(query) == before:
            await trio.sleep(0.02)


async def buried_alive(trial: Cluster, caller: Caller, number: int) -> None:
    """An owner that has lost its shards without knowing it is asked to send at that very moment."""
    victim, other = await owner_of(trial, caller)
    name = await identity(victim)
    await heart_has_beaten(trial, name)
    began = now_ms()
    victim.freeze()
    try:
        trial.server.execute(f"UPDATE {trial.history.database}.instances SET dead = 1 WHERE id = %s", (name,))
        with trio.fail_after(30):
            while name in {owner for owner, _ in (await trial.history.owners()).values()}:
                await trio.sleep(0.02)
        arrived = trial.receiver.arrived
        await caller.through(other).create(f"new-{number}")
        await trial.receiver.wait_until(arrived + 1)  # the new term has been seen
    finally:
        async with trio.open_nursery() as nursery:
            for index in range(5):
                nursery.start_soon(caller.through(victim).create, f"old-{number}-{index}")
            await trio.sleep(0.1)  # they wait in its sockets
            victim.wake()
    trial.disrupt("buried alive", began)
    await balanced(trial)


async def frozen(trial: Cluster, fast: Caller, slow: Caller) -> None:
    """Frozen with callbacks on their way, with others claimed that wait for their time, until all is another's."""
    victim, _ = await owner_of(trial, fast)
    mine, _ = await owner_of(trial, slow)
    now = now_ms()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fast.create_many, list(spread("f", 300, now + 1500, 2000)))
        await slow.create_many([(f"s{number}", now + 1500) for number in range(5)], **RETRY)
        await trio.sleep((now + 2500 - now_ms()) / 1000)
        for each in {victim, mine}:
            nursery.start_soon(trial.freeze, each, FROZEN_S)
    await trio.sleep(2)


class Slow(Recorder):
    """Over TLS; the first who connects waits for its handshake."""

    def __init__(self, trial: Cluster) -> None:
        super().__init__(trial.ledger, prompt)
        certificates = trial.server.run.certificates
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.cert, certificates.key)
        self._first = True
        self.connected = trio.Event()

    async def _connection(self, stream: trio.abc.HalfCloseableStream) -> None:
        first, self._first = self._first, False
        self.connected.set()
        if first:
            await trio.sleep(HANDSHAKE_S)
        secured = trio.SSLStream(stream, self._context, server_side=True)
        await super()._connection(secured)  # type: ignore[arg-type]  # it receives and sends


async def frozen_before_the_first_byte(trial: Cluster) -> None:
    """Its task is claimed and its connection made, all but the handshake, when it is frozen until another has sent."""
    caller, slow = await trial.caller("secured"), Slow(trial)
    victim, _ = await owner_of(trial, caller)
    async with trio.open_nursery() as nursery:
        await nursery.start(slow.serve)
        url = slow.url.replace("http:", "https:")
        nursery.start_soon(partial(caller.create, "secured", callback_url=url, timeout=30, retry_intervals=[1, 1]))
        await slow.connected.wait()
        async with trial.frozen(victim):
            await slow.wait_until(1)
            await trio.sleep(0.5)
        await trio.sleep(HANDSHAKE_S)
        nursery.cancel_scope.cancel()


async def buried_again_and_again(trial: Cluster) -> None:
    caller = await trial.caller("fast")
    for number in range(BURIALS):
        await buried_alive(trial, caller, number)


async def frozen_at_work(trial: Cluster) -> None:
    await frozen(trial, await trial.caller("quick"), await trial.caller("slow"))


SCENES = {
    "buried alive": buried_again_and_again,
    "frozen at work": frozen_at_work,
    "frozen before the first byte": frozen_before_the_first_byte,
}
SHOWN_BY = {  # mutants
    "deadline ignored": "frozen before the first byte",
    "claim unfenced": "buried alive",
    "outcome of any claim": "frozen at work",
    "first byte unchecked": "frozen before the first byte",
    "stolen lease revived": "frozen before the first byte",
}


async def played(trial: Cluster, *scenes: str) -> Verdict:
    for scene in scenes:
        await SCENES[scene](trial)
    return await trial.judged()
