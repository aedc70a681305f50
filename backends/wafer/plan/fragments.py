"""What a task and its kernel are in a program: a fragment whose inputs have their makers' names, and weights as the kernel stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cgptc.backends.wafer.kernels.assembly import renamed
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.embedding import Embedding
from cgptc.backends.wafer.kernels.fragment import Fragment, Kernel
from cgptc.backends.wafer.kernels.rearrange import role_of
from cgptc.backends.wafer.kernels.sparse import SparseLinear
from cgptc.backends.wafer.plan.select import Ground
from cgptc.backends.wafer.plan.tables import angle_table
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.plan.works import (
    AnglesWork,
    AttendWork,
    ConstantWork,
    EntropyWork,
    GateWork,
    HeadNormWork,
    JoinWork,
    LinearWork,
    LookupWork,
    MapWork,
    MlpWork,
    NormWork,
    PoolWork,
    RotateWork,
    ShiftWork,
    SoftmaxWork,
    SquaresWork,
    TurnWork,
    Work,
)
from cgptc.backends.wafer.plan.zero_patterns import Packed
from cgptc.backends.wafer.steps import Step
from cgptc.ir.weight_expressions import taken
from cgptc.ir.weights import Weight

ROLES: dict[type[Work], tuple[str, ...]] = {
    LinearWork: ("x",),
    MlpWork: ("x",),
    NormWork: ("x",),
    MapWork: ("x", "z"),
    ConstantWork: ("x",),
    LookupWork: ("ids",),
    AttendWork: ("q", "k", "v", "mask"),
    AnglesWork: ("ids",),
    RotateWork: ("x", "angles"),
    TurnWork: ("x",),
    PoolWork: ("x", "mask"),
    SoftmaxWork: ("x",),
    ShiftWork: ("x",),
    GateWork: ("x", "z"),
    EntropyWork: ("x", "target"),
    SquaresWork: ("x", "z", "mask"),
    HeadNormWork: ("x",),
}
"""By which roles a kernel knows a task's inputs, in order; pieces come from ``x0``, ``x1``, …. Every output is ``y``."""


ENTRANCES = ("gate.", "up.")
"""How the weights of those layers of an MLP are named that its input goes through."""


INTO = ("weight", *(f"{layer}weight" for layer in ENTRANCES))
"""Weights whose rows are the features of a task's input."""


def buffer_of(name: str, feeds: Mapping[str, int]) -> str:
    """The buffer that holds a value: that of a host's input has its name."""
    return name if name in feeds else f"{name}.y"


def fragment_of(task: Task, kernel: Kernel, feeds: Mapping[str, int]) -> Fragment:
    """The kernel's fragment, its inputs named as their makers' outputs, its steps as part of the model."""
    fragment = kernel.fragment(task.name)
    roles = ROLES[type(task.work)] if not isinstance(task.work, JoinWork) else tuple(role_of(i) for i in range(len(task.inputs)))
    names = {}
    for role, name in zip(roles, task.inputs, strict=False):
        # Attention has the tokens' marks dealt out along a direction, all else has them everywhere.
        place = "" if role != "mask" else f"@{kernel.along}" if isinstance(kernel, CachedAttention) else "@all"
        names[f"{task.name}.{role}"] = buffer_of(f"{name}{place}", feeds)
    part = f"{task.path or task.name}: {fragment.kernel}"
    steps: tuple[Step, ...] = tuple(replace(step, part=part) for step in fragment.steps)
    return renamed(replace(fragment, steps=steps), names)


def ordered_weights(task: Task, ground: Ground, kernel: Kernel) -> dict[str, Weight]:
    """A task's weights by buffer, their rows and columns in the order in which features lie, and as the kernel stores them.

    None for a table that is another task's weight.
    """
    if isinstance(kernel, Embedding) and kernel.shared:
        return {}
    if isinstance(task.work, AnglesWork):
        attention = ground.attention(task, task.work.attend)
        cosines, sines = (weight for _, weight in task.weights)
        heads = attention.lines_used // attention.segment
        return {f"{task.name}.table": angle_table(cosines, sines, attention.head_dim, attention.piece, heads)}
    if isinstance(task.work, AttendWork):
        order = ground.attention(task, task.work).bias_order()
        return {f"{task.name}.{role}": taken(weight, 0, order) if task.work.biased > 1 else weight for role, weight in task.weights}
    into = ground.lies[task.inputs[0]].order if task.inputs and task.inputs[0] in ground.lies else None
    out = ground.lies[task.name].order
    found: dict[str, Weight] = {}
    for role, weight in task.weights:
        ordered = weight
        if isinstance(task.work, (LinearWork, MlpWork)) and role in INTO and into is not None:
            ordered = taken(ordered, 0, into)
        if out is not None and not role.startswith(ENTRANCES):
            ordered = taken(ordered, len(weight.shape) - 1, out)
        if isinstance(kernel, SparseLinear) and role == "weight":
            found[f"{task.name}.values"] = Packed(kernel, ordered, places=False)
            found[f"{task.name}.places"] = Packed(kernel, ordered, places=True)
        else:
            found[f"{task.name}.{role}"] = ordered
    return found
