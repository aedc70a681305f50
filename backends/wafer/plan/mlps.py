"""Two linear layers with an activation between them, or the gated product of two, made one task: on several rows they may be worked on in
tiles of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from cgptc.backends.wafer.kernels.gated import ACTIVATIONS
from cgptc.backends.wafer.plan.stages import layer_of
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.plan.works import GateWork, LinearWork, MapWork, MlpWork


def joined_mlps(tasks: Sequence[Task], kept: Collection[str], apart: Collection[str]) -> tuple[Task, ...]:
    """The tasks with ``down(activation(up(x)))``, and ``down(activation(gate(x)) · up(x))``, as one wherever items have rows and nothing
    else takes what is between.

    Values of ``kept`` stay, and so do layers of ``apart``, those with zeros, and those of different stages.
    """
    makers = {task.name: task for task in tasks}
    uses = Counter(name for task in tasks for name in task.inputs)

    def only(name: str) -> Task | None:
        """What makes a value that one task takes and nobody else."""
        return makers.get(name) if uses[name] == 1 and name not in kept else None

    def linears(between: Task) -> list[Task]:
        """The layers between whose task and its inputs nothing else stands: one, or that of the gate and that of the product."""
        found = [made for name in between.inputs if (made := only(name)) is not None and _plain(made, apart)]
        return found if len(found) == len(between.inputs) and len({one.inputs for one in found}) == 1 else []

    gone: set[str] = set()
    found: list[Task] = []
    for task in tasks:
        between = only(task.inputs[0]) if _plain(task, apart) else None
        first = linears(between) if between is not None and _activates(between) else []
        if between is not None and first and all(_together(one, task) for one in first):
            gone |= {between.name, *(one.name for one in first)}
            task = _joined(first, between, task)
        found.append(task)
    return tuple(task for task in found if task.name not in gone)


def _plain(task: Task, apart: Collection[str]) -> bool:
    return isinstance(task.work, LinearWork) and task.work.zeros is None and task.rows > 1 and task.name not in apart


def _activates(task: Task) -> bool:
    match task.work:
        case MapWork(op=op):
            return len(task.inputs) == 1 and op in ACTIVATIONS
        case GateWork():
            return True
        case _:
            return False


def _together(up: Task, down: Task) -> bool:
    return (up.stage, up.sequence, layer_of(up.path)) == (down.stage, down.sequence, layer_of(down.path))


def _joined(first: Sequence[Task], between: Task, down: Task) -> Task:
    """One task of the layers before what is between, that of a gate first, and the one behind it."""
    *gates, up = first
    gate = gates[0].work if gates else None
    assert isinstance(up.work, LinearWork)
    assert isinstance(down.work, LinearWork)
    assert isinstance(between.work, (MapWork, GateWork))
    activation = between.work.op if isinstance(between.work, MapWork) else between.work.activation
    gated, gate_bias = gate is not None, isinstance(gate, LinearWork) and gate.bias
    work = MlpWork(up.work.k, up.work.n, down.work.n, activation, up.work.bias, down.work.bias, gated, gate_bias)
    named = [*(("gate", one) for one in gates), ("up", up), ("down", down)]
    weights = tuple((f"{part}.{role}", weight) for part, one in named for role, weight in one.weights)
    return Task(down.name, work, up.inputs, weights, _shared(up.path, down.path), down.stage, down.rows, down.sequence)


def _shared(one: str, other: str) -> str:
    """The leading components of two paths that are the same."""
    shared: list[str] = []
    for mine, theirs in zip(one.split("."), other.split("."), strict=False):
        if mine != theirs:
            break
        shared.append(mine)
    return ".".join(shared)
