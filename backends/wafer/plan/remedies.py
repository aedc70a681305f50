"""What would make a model fit that does not: each change alone, tried by sizing, and told only where it is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from cgptc.backends.wafer.machine import PRESETS, Machine, small_machine
from cgptc.backends.wafer.plan.tasks import Tasks, shortened


@dataclass(frozen=True)
class Wanted:
    """What was to be placed, and how."""

    tasks: Tasks
    machine: Machine
    strategy: str
    dtype: str


Fits = Callable[[Wanted], bool]


def remedies(wanted: Wanted, fits: Fits, streaming: str) -> list[str]:
    """The changes after which it fits, each as flags of the command line; none where no change alone is enough."""
    return [flag for flag, changed in _changes(wanted, fits, streaming) if fits(changed)]


def _changes(wanted: Wanted, fits: Fits, streaming: str) -> Iterator[tuple[str, Wanted]]:
    if wanted.dtype == "f32":
        yield "--dtype f16", replace(wanted, dtype="f16")
    context = _longest(wanted, fits)
    if context:
        yield f"--context {context}", replace(wanted, tasks=shortened(wanted.tasks, context))
    others = ("pipeline", "resident", streaming) if wanted.strategy in ("pipeline", "resident") else ()
    for name in others:
        if name != wanted.strategy:
            yield f"--execution-strategy {name}", replace(wanted, strategy=name)
    machine = wanted.machine
    if machine in PRESETS.values():
        larger = [one for one in PRESETS.values() if one.width * one.height > machine.width * machine.height]
        yield from ((f"--machine {one.name}", replace(wanted, machine=one)) for one in larger)
        return
    side = _smallest(wanted, fits, max(max(one.width, one.height) for one in PRESETS.values()))
    if side:
        known = machine == small_machine(machine.width, machine.height)
        flag = f"--machine small-{side}x{side}" if known else f"a --machine of {side} × {side} such PEs"
        yield flag, replace(wanted, machine=_square(machine, side))


def _longest(wanted: Wanted, fits: Fits) -> int:
    """The context halved until it fits; 0 where not even one token does."""
    context = wanted.tasks.context // 2
    if not context or not fits(replace(wanted, tasks=shortened(wanted.tasks, 1))):
        return 0
    while not fits(replace(wanted, tasks=shortened(wanted.tasks, context))):
        context //= 2
    return context


def _smallest(wanted: Wanted, fits: Fits, most: int) -> int:
    """The side of a square of such PEs on which it fits, to a quarter; 0 where ``most`` is not enough."""
    side = min(wanted.machine.width, wanted.machine.height)
    while side < most:
        side = min(most, side + max(1, side // 4))
        if fits(replace(wanted, machine=_square(wanted.machine, side))):
            return side
    return 0


def _square(machine: Machine, side: int) -> Machine:
    return replace(machine, name=f"small-{side}x{side}", width=side, height=side)
