"""Which tasks share a region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cgptc.backends.wafer.plan.tasks import Task

RESIDENT = "model"


@dataclass(frozen=True)
class Group:
    """Tasks that run in turn in a region of their own."""

    name: str
    tasks: tuple[Task, ...]


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
        return tuple(Group(f"stage-{number}", tuple(task for task in tasks if task.stage == number)) for number in numbers)
    keys = _filled([_layer(task.path) for task in tasks])
    found: list[tuple[str, list[Task]]] = []
    for key, task in zip(keys, tasks, strict=True):
        if not found or found[-1][0] != key:
            found.append((key, []))
        found[-1][1].append(task)
    named = []
    for index, (key, members) in enumerate(found):
        rest = "embedding" if index == 0 else "head" if index == len(found) - 1 else f"between-{index}"
        named.append(Group(key or rest, tuple(members)))
    return _merged(named)


def _layer(path: str) -> str:
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


def _merged(named: Sequence[Group]) -> tuple[Group, ...]:
    """Runs of the same layer that something stands between become one region each, under names of their own."""
    counts: dict[str, int] = {}
    found = []
    for group in named:
        counts[group.name] = counts.get(group.name, 0) + 1
        found.append(group if counts[group.name] == 1 else Group(f"{group.name}/{counts[group.name]}", group.tasks))
    return tuple(found)
