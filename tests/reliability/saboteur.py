"""The service with a fault in it: run as `python -m tests.reliability.saboteur serve …`, where `taskcenter` would be.

Nothing in the service knows of it. In the directory that `SABOTEUR_DIR` names it looks for three files: `census`, upon
which it writes the names of all tasks that live into `tasks.json`; `break`, which holds such a name, upon which an
exception is raised in that task, wherever it waits, and `broken` is written; and `weigh`, upon which it writes how many
tasks and objects there are, and what most of these are, into `weight.json`.
"""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import trio

LOOK_S = 0.02
KINDS_TOLD = 60


class Sabotage(Exception):
    """Raised where nobody expects it."""


def _raise() -> NoReturn:
    raise Sabotage("raised by a test")


def all_tasks() -> list[trio.lowlevel.Task]:
    """Every task of the program."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found: list[trio.lowlevel.Task] = []
    waiting = [root]
    while waiting:
        task = waiting.pop()
        found.append(task)
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


def tasks() -> dict[str, trio.lowlevel.Task]:
    """All tasks of the program by name, in the order in which they were begun; a second one of a kind is `…#2`."""
    named: dict[str, trio.lowlevel.Task] = {}
    seen: Counter[str] = Counter()
    for task in sorted(all_tasks(), key=lambda task: task._counter):
        name = _name(task)
        if name.startswith("taskcenter."):
            seen[name] += 1
            named[name if seen[name] == 1 else f"{name}#{seen[name]}"] = task
    return named


def _name(task: trio.lowlevel.Task) -> str:
    coro: Any = task.coro
    frame = getattr(coro, "cr_frame", None)
    module = frame.f_globals["__name__"] if frame is not None else ""
    return f"{module}.{coro.__qualname__}"


def _break(name: str, directory: Path) -> None:
    task = tasks()[name]
    if task._abort_func is None:  # it is about to run
        trio.lowlevel.current_trio_token().run_sync_soon(_break, name, directory)
        return
    (directory / "broken").touch()
    task._attempt_abort(_raise)


def _census(directory: Path) -> None:
    _tell(directory / "tasks.json", {name: task._counter for name, task in tasks().items()})


def _weigh(directory: Path) -> None:
    gc.collect()
    kinds = Counter(type(one).__qualname__ for one in gc.get_objects())
    told = {"tasks": len(all_tasks()), "objects": kinds.total(), "kinds": dict(kinds.most_common(KINDS_TOLD))}
    _tell(directory / "weight.json", told)


def _tell(path: Path, what: object) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(what))
    unfinished.rename(path)


def _obey(directory: Path, token: trio.lowlevel.TrioToken) -> None:
    """Until this run is over: the program makes one to try its address, and then another."""
    orders: dict[str, Callable[[str], None]] = {
        "census": lambda _: _census(directory),
        "break": lambda name: _break(name, directory),
        "weigh": lambda _: _weigh(directory),
    }
    while True:
        time.sleep(LOOK_S)
        try:
            token.run_sync_soon(lambda: None)
        except trio.RunFinishedError:
            return
        for order, obey in orders.items():
            path = directory / order
            if path.exists():
                text = path.read_text()
                path.unlink()
                token.run_sync_soon(obey, text)


class _Listener(trio.abc.Instrument):
    def before_run(self) -> None:
        directory, token = Path(os.environ["SABOTEUR_DIR"]), trio.lowlevel.current_trio_token()
        threading.Thread(target=_obey, args=(directory, token), daemon=True).start()


def main() -> None:
    """`taskcenter`, with an ear for orders in its trio run."""
    run = trio.run

    def listened(*given: Any, **named: Any) -> Any:
        return run(*given, **named, instruments=[_Listener()])

    setattr(trio, "run", listened)  # noqa: B010  # a function of trio's is replaced
    from taskcenter.__main__ import main as taskcenter  # after the above

    taskcenter()


if __name__ == "__main__":
    main()
