"""Chaos: three instances over a real server, everything that can be done to them, and the verdict of everybody's books.

Each instance reaches the server by way of a TCP fault proxy of its own. While tasks fall due at `--rate` a second and
clients ask a third as often, faults are drawn from a seeded source, one after the other with pauses, for `--seconds`:
instances are killed, frozen and restarted in order, their connections slowed, cut, cut inside a packet, half closed and
swallowed, COMMITs and their answers lost; the server is killed and frozen. Then all is made whole, every task is waited
for, and the receiver's record, what clients were told and the store are compared (`tests.reliability.judge`).

    python -m bench.chaos [--store mariadb,mysql] [--seconds 60] [--seed 1] [--rate 60]

The report and the instances' logs go to bench/out. The status is 1 if anything was lost, phantom, early, repeated
without a reason, or otherwise wrong.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import trio
from tests.flow.kit import Answer, Call
from tests.reliability.cluster import Cluster, Instance, cluster
from tests.reliability.judge import Verdict
from tests.reliability.recorder import now_ms
from tests.reliability.traffic import Traffic
from tests.servers import Fleet
from tests.servers.databases import Kind
from tests.store.fault_proxy import FaultProxy

OUT: Final = Path(__file__).parent / "out"
BUSINESSES: Final = 9
WARM_UP_S: Final = 3.0
PAUSE_S: Final = (1.0, 5.0)  # between two faults
SETTLE_S: Final = 180.0
HEAD: Final = (
    "| store | seed | faults | callbacks | requests | repeats, all flagged and explained | worst lateness, s |"
    " of it not for a policy, s | held back > 1 s by | takeovers | fenced writes | violations |\n"
    f"|{' --- |' * 12}"
)


@dataclass(slots=True)
class Scene:
    """A trial, and what was done to it."""

    trial: Cluster
    rng: Random
    began_ms: float = field(default_factory=now_ms)
    done: list[tuple[float, float, str]] = field(default_factory=list)  # from, until (ms), what

    def instance(self) -> tuple[Instance, FaultProxy]:
        number = self.rng.randrange(len(self.trial.instances))
        return self.trial.instances[number], self.trial.proxies[number]

    async def for_a_while(self, least_s: float, most_s: float) -> None:
        await trio.sleep(self.rng.uniform(least_s, most_s))


# --- what is done ---------------------------------------------------------------------------------------------------


async def kill_instance(scene: Scene) -> None:
    victim, _ = scene.instance()
    await scene.trial.kill(victim)
    await scene.for_a_while(0, 5)
    await scene.trial.start_again(victim)


async def freeze_instance(scene: Scene) -> None:
    victim, _ = scene.instance()
    async with scene.trial.frozen(victim):
        await scene.for_a_while(1, 20)


async def restart_instance(scene: Scene) -> None:
    victim, _ = scene.instance()
    status = await victim.terminate()
    if status:
        raise AssertionError(f"exit status {status} after SIGTERM: {victim.tail()}")
    await scene.for_a_while(0, 3)
    await scene.trial.start_again(victim)


async def kill_server(scene: Scene) -> None:
    await scene.trial.kill_server(scene.rng.uniform(0, 3))


async def freeze_server(scene: Scene) -> None:
    await scene.trial.freeze_server(scene.rng.uniform(1, 8))


async def slow_down(scene: Scene) -> None:
    _, proxy = scene.instance()
    proxy.latency_s, proxy.jitter_s = scene.rng.uniform(0.005, 0.1), 0.02
    await scene.for_a_while(3, 8)


async def slice_up(scene: Scene) -> None:
    _, proxy = scene.instance()
    proxy.slice_bytes = scene.rng.randint(20, 400)
    await scene.for_a_while(2, 5)


async def cut(scene: Scene) -> None:
    _, proxy = scene.instance()
    proxy.reset_all()


async def cut_inside_packets(scene: Scene) -> None:
    _, proxy = scene.instance()
    for _ in range(5):
        proxy.cut_after(scene.rng.randrange(1, 2000), scene.rng.choice(("up", "down")))
        await scene.for_a_while(0.1, 0.8)


async def refuse(scene: Scene) -> None:
    _, proxy = scene.instance()
    proxy.refuse()
    proxy.reset_all()
    await scene.for_a_while(1, 8)


async def half_close(scene: Scene) -> None:
    _, proxy = scene.instance()
    proxy.half_close()


async def swallow(scene: Scene) -> None:
    """Nothing passes and nothing closes; or only one way."""
    _, proxy = scene.instance()
    proxy.black_hole(*scene.rng.choice(((), ("up",), ("down",))))
    await scene.for_a_while(1, 18)


async def lose_commits(scene: Scene) -> None:
    _, proxy = scene.instance()
    proxy.commit_silent = scene.rng.random() < 0.5
    proxy.commit_faults_left = scene.rng.randint(1, 12)
    proxy.commit_fault = scene.rng.choice(("reply", "request"))
    await scene.for_a_while(2, 5)


FAULTS: Final[dict[str, Callable[[Scene], Awaitable[None]]]] = {
    "instance SIGKILL": kill_instance, "instance SIGSTOP": freeze_instance, "instance SIGTERM": restart_instance,
    "server SIGKILL": kill_server, "server SIGSTOP": freeze_server, "latency": slow_down, "slices": slice_up,
    "cut": cut, "cut inside packets": cut_inside_packets, "refused": refuse, "half closed": half_close,
    "black hole": swallow, "lost COMMITs": lose_commits,
}  # fmt: skip


def moody(rng: Random) -> Callable[[Call], Answer]:
    """Most callbacks succeed, a few fail, are put off, or take long.

    Failures take as long as the others: quicker ones would come in a row at the head of a backlog, and open breakers.
    """

    def decide(_: Call) -> Answer:
        draw = rng.random()
        if draw < 0.05:
            return Answer(500, delay_s=0.05)
        if draw < 0.07:
            return Answer(503, headers={"Retry-After": "1"}, delay_s=0.05)
        return Answer(delay_s=rng.uniform(0.5, 3) if draw < 0.12 else 0.05)

    return decide


# --- a run ----------------------------------------------------------------------------------------------------------


async def break_things(scene: Scene, seconds: float) -> None:
    """One fault after the other, each over, and its proxy whole, before the next; all kinds before any comes twice."""
    until = trio.current_time() + seconds
    kinds: list[str] = []
    while trio.current_time() < until:
        kinds = kinds or scene.rng.sample(sorted(FAULTS), len(FAULTS))
        kind, from_ms = kinds.pop(), now_ms()
        await FAULTS[kind](scene)
        for proxy in scene.trial.proxies:
            proxy.clear()
        scene.trial.disrupt(kind, from_ms)
        scene.done.append((from_ms, now_ms(), kind))
        await scene.for_a_while(*PAUSE_S)


async def run(kind: Kind, seconds: float, seed: int, rate: float) -> bool:
    rng = Random(seed)
    logs = OUT / f"chaos-{kind}-{seed}"  # of the instances; those of a former run go
    shutil.rmtree(logs, ignore_errors=True)
    with Fleet() as fleet:
        server = fleet.new(kind)
        server.start()
        async with cluster(server, logs, mood=moody(rng), proxied=True, seed=seed) as trial:
            callers = [await trial.caller(f"shop{number}") for number in range(BUSINESSES)]
            traffic, scene = Traffic(callers, Random(seed + 1)), Scene(trial, rng)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: traffic.run(callbacks=rate, requests=rate / 3, retry_intervals=[1, 2, 4]))
                await trio.sleep(WARM_UP_S)
                await break_things(scene, seconds)
                traffic.stop()
            found = await trial.judged(timeout_s=SETTLE_S)
            row = (
                f"| {kind} | {seed} | {len(scene.done)} | {found.sends:,} |"
                f" {sum(caller.answered for caller in callers):,} | {found.repeats} | {found.lateness(1) / 1000:.1f} |"
                f" {max(found.own_lateness_ms) / 1000:.1f} |"
                f" {', '.join(f'{name} {number}' for name, number in sorted(found.held_back_by.items()))} |"
                f" {await trial.counted('lease_takeovers_total'):.0f} |"
                f" {await trial.counted('fenced_writes_total'):.0f} | {len(found.violations)} |"
            )
            print(row, flush=True)
            write_report(scene, row, found, f"chaos-{kind}-{seed}.md")
            return not found.violations


def write_report(scene: Scene, row: str, found: Verdict, name: str) -> None:
    lines = ["# Chaos", "", HEAD, row, "", "| at, s | for, s | what |", "| --- | --- | --- |"]
    lines += [
        f"| {(from_ms - scene.began_ms) / 1000:.1f} | {(until_ms - from_ms) / 1000:.1f} | {what} |"
        for from_ms, until_ms, what in scene.done
    ]
    lines += ["", str(found).partition("\n")[0], "", *(f"- {violation}" for violation in found.violations)]
    lines += [
        "",
        "| the latest: due at, s | arrived at, s | business | attempt | term |",
        "| --- | --- | --- | --- | --- |",
    ]
    for send in sorted(scene.trial.ledger.sends, key=lambda send: send.due_at - send.arrived_at)[:10]:
        due_s, arrived_s = ((at - scene.began_ms) / 1000 for at in (send.due_at, send.arrived_at))
        lines.append(f"| {due_s:.1f} | {arrived_s:.1f} | {send.business} | {send.attempt} | {send.term} |")
    OUT.mkdir(exist_ok=True)
    (OUT / name).write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="mariadb,mysql")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=45)
    arguments = parser.parse_args()
    print(HEAD, flush=True)
    sound = [
        trio.run(run, each, arguments.seconds, arguments.seed, arguments.rate) for each in arguments.store.split(",")
    ]
    sys.exit(not all(sound))
