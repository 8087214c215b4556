"""The ready queue against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taskcenter.actors.ready import ReadyQueue
from taskcenter.task import TaskRef


def ref(name: str, due_at: int, version: int = 1, host: str = "a", deadline_at: int | None = None) -> TaskRef:
    return TaskRef(name, 7, 3, due_at, version, host, deadline_at)


def test_heads_are_the_earliest_of_each_host() -> None:
    queue = ReadyQueue(10)
    for item in (ref("1", 30), ref("2", 10), ref("3", 20, host="b"), ref("4", 5, host="b")):
        queue.push(item)
    assert [head.task_id for head in queue.heads()] == ["4", "2"]


def test_a_newer_version_replaces_and_an_older_is_ignored() -> None:
    queue = ReadyQueue(10)
    queue.push(ref("1", 30, version=2))
    queue.push(ref("1", 10, version=1))
    assert queue.heads()[0].due_at == 30
    queue.push(ref("1", 50, version=3))
    assert [head.due_at for head in queue.heads()] == [50]


def test_without_room_it_refuses_and_remembers_that_it_did() -> None:
    queue = ReadyQueue(1)
    assert queue.push(ref("1", 1))
    assert not queue.overflowed
    assert not queue.push(ref("2", 2))
    assert queue.overflowed
    assert queue.push(ref("1", 1, version=2)), "a newer version needs no room"


def test_expired_are_taken_out_in_order_of_their_deadline() -> None:
    queue = ReadyQueue(10)
    queue.push(ref("1", 1, deadline_at=200))
    queue.push(ref("2", 2, deadline_at=100))
    queue.push(ref("3", 3))
    assert queue.next_deadline() == 100
    assert [item.task_id for item in queue.take_expired(201)] == ["2", "1"]
    assert [head.task_id for head in queue.heads()] == ["3"]


items = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 20), st.integers(1, 5), st.sampled_from("xyz")), max_size=60
)


@given(items)
def test_it_hands_out_every_newest_version_once_in_due_order_by_host(plan: list[tuple[str, int, int, str]]) -> None:
    queue, newest = ReadyQueue(100), dict[str, TaskRef]()
    for name, due_at, version, host in plan:
        item = ref(name, due_at, version, host)
        queue.push(item)
        if name not in newest or newest[name].version < version:
            newest[name] = item
    taken: list[TaskRef] = []
    while heads := queue.heads():
        assert [head.due_at for head in heads] == sorted(head.due_at for head in heads)
        for other in newest.values():
            if other not in taken and other.host == heads[0].host:
                assert heads[0].due_at <= other.due_at
        queue.pop(heads[0])
        taken.append(heads[0])
    assert sorted(taken, key=lambda item: item.task_id) == sorted(newest.values(), key=lambda item: item.task_id)
