"""Products with an activation, made one kernel: it keeps the activation in the wide format, and so rounds once less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from cgptc.backends.wafer.kernels.gated import ACTIVATIONS
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.plan.works import GateWork, MapWork


def gated(tasks: Sequence[Task], kept: Collection[str]) -> list[Task]:
    """The tasks with ``activation(x) · z`` as one task wherever nothing else takes the activation; values of ``kept`` stay."""
    makers = {task.name: task for task in tasks}
    uses = Counter(name for task in tasks for name in task.inputs)
    gone: set[str] = set()
    found: list[Task] = []
    for task in tasks:
        if isinstance(task.work, MapWork) and task.work.op == "mul":
            for place, name in enumerate(task.inputs):
                maker = makers.get(name)
                if maker is None or name in kept or uses[name] != 1 or not _activates(maker):
                    continue
                assert isinstance(maker.work, MapWork)
                other = task.inputs[1 - place]
                task = replace(task, work=GateWork(maker.work.op, task.work.width), inputs=(maker.inputs[0], other))
                gone.add(name)
                break
        found.append(task)
    return [task for task in found if task.name not in gone]


def _activates(task: Task) -> bool:
    return isinstance(task.work, MapWork) and len(task.inputs) == 1 and task.work.op in ACTIVATIONS
