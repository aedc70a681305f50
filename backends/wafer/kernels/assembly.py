"""One region that runs fragments in turn: the smallest program around kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from cgptc.backends.wafer.affine import Extent
from cgptc.backends.wafer.allocation import allocate
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.fragment import Fragment, Slot
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import (
    Binding,
    Buffer,
    Code,
    Collective,
    Entry,
    Local,
    Loop,
    Program,
    Rectangle,
    Region,
    Scalar,
    Send,
    Step,
    View,
)


def renamed(fragment: Fragment, names: Mapping[str, str]) -> Fragment:
    """The fragment with buffers renamed, so that one fragment's output is another's input."""

    def slots(given: tuple[Slot, ...]) -> tuple[Slot, ...]:
        return tuple(replace(slot, buffer=names.get(slot.buffer, slot.buffer)) for slot in given)

    return replace(
        fragment,
        inputs=slots(fragment.inputs),
        outputs=slots(fragment.outputs),
        weights=slots(fragment.weights),
        states=slots(fragment.states),
        buffers=tuple(replace(one, name=names.get(one.name, one.name)) for one in fragment.buffers),
        steps=tuple(_renamed_step(step, names) for step in fragment.steps),
    )


def _renamed_step(step: Step, names: Mapping[str, str]) -> Step:
    def view(one: View) -> View:
        return replace(one, buffer=names.get(one.buffer, one.buffer))

    match step:
        case Local():
            return replace(step, out=view(step.out), inputs=tuple(view(one) if isinstance(one, View) else one for one in step.inputs))
        case Collective():
            return replace(step, source=view(step.source), target=view(step.target))
        case Loop():
            return replace(step, steps=tuple(_renamed_step(inner, names) for inner in step.steps))
        case Send():
            return replace(step, source=view(step.source))
        case _:
            return replace(step, target=view(step.target))


def single_region(
    machine: Machine,
    fragments: Sequence[Fragment],
    *,
    scalars: Sequence[Scalar] = (),
    items: Extent = 1,
    entry: str = "run",
    at: tuple[int, int] = (0, 0),
    outputs: Sequence[str] = (),
) -> Program:
    """A program of one region. Fragments that name the same buffer share it.

    Inputs that no earlier fragment gives become the program's inputs, outputs that no later one takes (and those of ``outputs``) its
    outputs; tensors are named like their buffers. Raises ProgramError where layouts of shared buffers differ.
    """
    buffers: dict[str, Buffer] = {}
    given: dict[str, Slot] = {}
    inputs: dict[str, Slot] = {}
    kept: dict[str, tuple[Literal["weight", "state"], Slot]] = {}
    taken: set[str] = set()
    for fragment in fragments:
        for one in fragment.buffers:
            if buffers.setdefault(one.name, one) != one:
                raise ProgramError("assembly", f"two fragments declare '{one.name}' differently")
        for slot in fragment.inputs:
            taken.add(slot.buffer)
            known = given.get(slot.buffer) or inputs.setdefault(slot.buffer, slot)
            if known.layout != slot.layout:
                raise ProgramError("assembly", f"'{slot.buffer}' is given as {known.layout} and taken as {slot.layout}")
        kept.update({slot.buffer: ("weight", slot) for slot in fragment.weights})
        kept.update({slot.buffer: ("state", slot) for slot in fragment.states})
        given.update({slot.buffer: slot for slot in fragment.outputs})
    results = {name: slot for name, slot in given.items() if name not in taken or name in outputs}
    bindings = [
        *(Binding(name, role, "region", name, slot.layout) for name, (role, slot) in kept.items()),
        *(Binding(name, "input", "region", name, slot.layout, (entry,)) for name, slot in inputs.items()),
        *(Binding(name, "output", "region", name, slot.layout, (entry,)) for name, slot in results.items()),
    ]
    bound = {binding.buffer for binding in bindings}
    code = (Code(entry, tuple(step for fragment in fragments for step in fragment.steps)),)
    final = allocate([replace(one, resident=one.name in bound) for one in buffers.values()], code, machine)
    layout = next(iter(fragments[0].inputs + fragments[0].outputs)).layout
    region = Region("region", Rectangle(*at, layout.width, layout.height), final, code)
    return Program(machine, (region,), (), (Entry(entry, tuple(scalars), items),), tuple(bindings))
