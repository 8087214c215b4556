"""Lines of several processes in one stream: whole, in order, and nobody waits for a reader."""

from __future__ import annotations

import json
import os
import re

import trio
import trio.lowlevel
from tests.runtime.pipes import full_of, read_all

from taskcenter.log import Lines
from taskcenter.runtime.log_stream import Output, worker_pipe


async def test_lines_of_two_workers_and_the_parent_arrive_whole_and_in_order() -> None:
    shown, end = os.pipe()
    output = Output(end)
    lines = [[f"{worker}-{number} {'x' * (number * 977 % 20_000)}" for number in range(300)] for worker in range(2)]

    async def work(descriptor: int, mine: list[str]) -> None:
        for line in mine:
            data = f"{line}\n".encode()
            while data:  # as a process does whose writes are split anywhere
                cut = 1 + len(line) * 7 % 4096
                data = data[await trio.to_thread.run_sync(os.write, descriptor, data[:cut]) :]
        os.close(descriptor)

    async with trio.open_nursery() as nursery:
        found: list[bytes] = []
        nursery.start_soon(read_all, shown, found)
        async with trio.open_nursery() as passing:
            passing.start_soon(output.pass_own)
            async with trio.open_nursery() as workers:
                for mine in lines:
                    read, write = worker_pipe(blocking=True)
                    workers.start_soon(work, write, mine)
                    workers.start_soon(output.pass_on, read)
                for number in range(50):
                    output.write(f"own-{number}\n")
                    await trio.lowlevel.checkpoint()
            output.close()
        os.close(end)
    told = b"".join(found).decode().splitlines()
    for worker in range(2):
        assert [line for line in told if line.startswith(f"{worker}-")] == lines[worker]
    assert [line for line in told if line.startswith("own-")] == [f"own-{number}" for number in range(50)]
    assert len(told) == 650


async def test_what_goes_to_stderr_is_marked_and_a_last_line_without_end_gets_one() -> None:
    shown, end = os.pipe()
    read, write = worker_pipe(blocking=True)
    os.write(write, b"Traceback:\n  File\nboom")
    os.close(write)
    await Output(end).pass_on(read, b"worker 1: ")
    os.close(end)
    found: list[bytes] = []
    await read_all(shown, found)
    assert b"".join(found) == b"worker 1: Traceback:\nworker 1:   File\nworker 1: boom\n"


def test_a_full_pipe_drops_whole_lines_and_tells_of_them() -> None:
    read, write = worker_pipe(blocking=False)
    lines = Lines(write, worker=1)
    taken, count = b"", 0
    try:
        for _ in range(3):
            for _ in range(1500):
                lines.write(json.dumps({"event": "line", "number": count, "text": "y" * 900}) + "\n")
                count += 1
            assert lines.lost
            taken += full_of(read)
        lines.write('{"event": "last"}\n')
        taken += full_of(read)
    finally:
        os.close(read)
        os.close(write)
    events = [json.loads(line) for line in taken.decode().splitlines()]
    kept = [event["number"] for event in events if event["event"] == "line"]
    told = [event["lines"] for event in events if event["event"] == "log lines lost"]
    assert kept == sorted(set(kept))
    assert len(kept) + sum(told) == count and lines.lost == 0
    assert events[-1] == {"event": "last"}


def test_a_line_that_fitted_in_part_is_ended_before_the_next() -> None:
    read, write = worker_pipe(blocking=False)
    lines = Lines(write, worker=0)
    try:
        long = "z" * 3_000_000
        lines.write(f"{long}\n")
        lines.write("dropped\n")
        taken = full_of(read) + b""
        while not re.search(rb"after\n$", taken):
            lines.write("after\n")
            taken += full_of(read)
    finally:
        os.close(read)
        os.close(write)
    first, *rest = taken.decode().splitlines()
    assert first == long
    assert "dropped" not in rest and rest[-1] == "after"


def test_without_a_reader_writing_goes_on() -> None:
    read, write = worker_pipe(blocking=False)
    os.close(read)
    lines = Lines(write, worker=0)
    for _ in range(3):
        lines.write("nobody reads this\n")
    lines.flush()
    os.close(write)
    assert lines.lost == 3


async def test_a_stdout_that_takes_nothing_costs_the_lines_alone() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    read, write = worker_pipe(blocking=True)
    os.write(write, b"one\ntwo\n")
    os.close(write)
    await Output(full).pass_on(read)
    os.close(full)
