"""Which tasks share a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cgptc.backends.wafer.kernels.relays import relayed
from cgptc.backends.wafer.plan.tasks import Task

RESIDENT = "model"

DEPTH = 2
"""Items that wait in a stream's queue between neighbours."""


@dataclass(frozen=True)
class Group:
    """Tasks that run in turn in a region of their own.

    ``received`` are values of other groups, and how many items wait for it at most; ``back`` those among them that later groups make of
    what the first ``turn`` tasks have made. ``sent`` are values that go on to others.
    """

    name: str
    tasks: tuple[Task, ...]
    received: tuple[tuple[str, int], ...] = ()
    back: frozenset[str] = frozenset()
    sent: tuple[str, ...] = ()
    turn: int = 0


def one_group(tasks: Sequence[Task]) -> tuple[Group, ...]:
    """Everything in one region."""
    return (Group(RESIDENT, tuple(tasks)),)


def groups(tasks: Sequence[Task]) -> tuple[Group, ...]:
    """Stages as the graph has them, else a layer each, with what is before the first and behind the last apart.

    A layer is a run of tasks whose modules share the path up to its first number, such as ``transformer.h.3``. Between regions only the
    tasks' order matters: a value may be taken by any later one.
    """
    if all(task.stage is not None for task in tasks):
        numbers = sorted({task.stage for task in tasks if task.stage is not None})
        return _joined([Group(f"stage-{number}", tuple(task for task in tasks if task.stage == number)) for number in numbers])
    keys = _filled([layer_of(task.path) for task in tasks])
    found: list[tuple[str, list[Task]]] = []
    for key, task in zip(keys, tasks, strict=True):
        if not found or found[-1][0] != key:
            found.append((key, []))
        found[-1][1].append(task)
    named = []
    for index, (key, members) in enumerate(found):
        rest = "embedding" if index == 0 else "head" if index == len(found) - 1 else f"between-{index}"
        named.append(Group(key or rest, tuple(members)))
    return _joined(_named_apart(named))


def layer_of(path: str) -> str:
    """A module path up to its first number, such as ``transformer.h.3``; empty where it has none."""
    parts = path.split(".")
    number = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[: number + 1]) if number is not None else ""


def _filled(keys: Sequence[str]) -> list[str]:
    """Tasks without a layer between two of the same layer belong to it."""
    found = list(keys)
    for index, key in enumerate(keys):
        if key:
            continue
        before = next((found[i] for i in range(index - 1, -1, -1) if found[i]), "")
        after = next((keys[i] for i in range(index + 1, len(keys)) if keys[i]), "")
        if before and before == after:
            found[index] = before
    return found


def _named_apart(named: Sequence[Group]) -> list[Group]:
    """Runs of the same layer that something stands between become one region each, under names of their own."""
    counts: dict[str, int] = {}
    found = []
    for group in named:
        counts[group.name] = counts.get(group.name, 0) + 1
        found.append(group if counts[group.name] == 1 else Group(f"{group.name}/{counts[group.name]}", group.tasks))
    return found


def together(apart: Sequence[Group], tied: Mapping[str, str]) -> tuple[Group, ...] | None:
    """The groups with the last one's tasks in the one that looks up rows of its weight, so that one copy of it is enough.

    That group then waits for each item to come back before it begins the next. None where there is no such group, or where something
    depends on what the last one makes.
    """
    where = {task.name: number for number, group in enumerate(apart) for task in group.tasks}
    last = apart[-1]
    firsts = {where[lookup] for lookup, head in tied.items() if where[head] == len(apart) - 1}
    if len(apart) < 3 or last.sent or last.tasks[0].stage is not None or len(firsts) != 1 or len(apart) - 1 in firsts:
        return None
    (first,) = firsts
    one = apart[first]
    joined = Group(f"{one.name}+{last.name}", one.tasks + last.tasks, turn=len(one.tasks))
    return _joined([*apart[:first], joined, *apart[first + 1 : -1]])


def _joined(apart: Sequence[Group]) -> tuple[Group, ...]:
    """The groups with what goes from one to another."""
    made = {task.name: number for number, group in enumerate(apart) for task in group.tasks}
    taken = [dict.fromkeys(name for task in group.tasks for name in task.inputs) for group in apart]
    ways = relayed(taken, made, {number for number, group in enumerate(apart) if group.turn})
    found = []
    for number, group in enumerate(apart):
        come = [way for way in ways if way.consumer == number]
        received = tuple((way.value, way.depth(DEPTH)) for way in come)
        back = frozenset(way.value for way in come if way.back)
        sent = tuple(dict.fromkeys(way.value for way in ways if way.producer == number))
        found.append(replace(group, received=received, back=back, sent=sent))
    return tuple(found)
