"""Two linear layers with an activation between them, made one task: on several rows they may be worked on in tiles of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from cgptc.backends.wafer.kernels.gated import ACTIVATIONS
from cgptc.backends.wafer.plan.stages import layer_of
from cgptc.backends.wafer.plan.tasks import LinearWork, MapWork, MlpWork, Task


def joined_mlps(tasks: Sequence[Task], kept: Collection[str], apart: Collection[str]) -> tuple[Task, ...]:
    """The tasks with ``down(activation(up(x)))`` as one wherever items have rows and nothing else takes what is between.

    Values of ``kept`` stay, and so do layers of ``apart``, those with zeros, and those of different stages.
    """
    makers = {task.name: task for task in tasks}
    uses = Counter(name for task in tasks for name in task.inputs)

    def only(name: str) -> Task | None:
        """What makes a value that one task takes and nobody else."""
        return makers.get(name) if uses[name] == 1 and name not in kept else None

    gone: set[str] = set()
    found: list[Task] = []
    for task in tasks:
        between = only(task.inputs[0]) if _plain(task, apart) else None
        up = only(between.inputs[0]) if between is not None and _activates(between) else None
        if between is not None and up is not None and _plain(up, apart) and _together(up, task):
            gone |= {between.name, up.name}
            task = _joined(up, between, task)
        found.append(task)
    return tuple(task for task in found if task.name not in gone)


def _plain(task: Task, apart: Collection[str]) -> bool:
    return isinstance(task.work, LinearWork) and task.work.zeros is None and task.rows > 1 and task.name not in apart


def _activates(task: Task) -> bool:
    return isinstance(task.work, MapWork) and len(task.inputs) == 1 and task.work.op in ACTIVATIONS


def _together(up: Task, down: Task) -> bool:
    return (up.stage, up.rows, layer_of(up.path)) == (down.stage, down.rows, layer_of(down.path))


def _joined(up: Task, between: Task, down: Task) -> Task:
    assert isinstance(up.work, LinearWork)
    assert isinstance(between.work, MapWork)
    assert isinstance(down.work, LinearWork)
    work = MlpWork(up.work.k, up.work.n, down.work.n, between.work.op, up.work.bias, down.work.bias)
    weights = tuple((f"{part}.{role}", weight) for part, one in (("up", up), ("down", down)) for role, weight in one.weights)
    return Task(down.name, work, up.inputs, weights, _shared(up.path, down.path), down.stage, down.rows)


def _shared(one: str, other: str) -> str:
    """The leading components of two paths that are the same."""
    shared: list[str] = []
    for mine, theirs in zip(one.split("."), other.split("."), strict=False):
        if mine != theirs:
            break
        shared.append(mine)
    return ".".join(shared)
