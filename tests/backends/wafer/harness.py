"""Runs a program on both engines and holds them to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cgptc.backends.wafer.interpret.account import Run
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.interpret.pe import PeEngine
from cgptc.backends.wafer.interpret.schedules import Schedule, backwards, round_robin, shuffled, starving
from cgptc.backends.wafer.kernels.fragment import Kernel
from cgptc.backends.wafer.program import Program
from cgptc.backends.wafer.serial import parse_program, program_text
from cgptc.backends.wafer.verify import peak_bytes, verify

FEW = (backwards, shuffled(1))


def twenty_schedules(program: Program) -> list[Schedule]:
    boxes = [region.rectangle for region in program.regions]
    corners = [(box.x + box.width - 1, box.y + box.height - 1) for box in boxes] + [(box.x, box.y) for box in boxes]
    return [round_robin, backwards, *(starving(corner) for corner in corners[:4]), *(shuffled(seed) for seed in range(18))][:20]


def run_both(
    program: Program,
    weights: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    scalars: Mapping[str, int] | None = None,
    *,
    entry: str = "run",
    schedules: Sequence[Schedule] = FEW,
) -> Run:
    """The fast engine's run; every schedule of the other gives its bits and its counts."""
    assert verify(program) == []
    program = parse_program(program_text(program))
    fast = FastEngine(program)
    fast.load(weights)
    expected = fast.run(entry, inputs, scalars or {})
    for schedule in schedules:
        engine = PeEngine(program)
        engine.load(weights)
        found = engine.run(entry, inputs, scalars or {}, schedule)
        assert found.outputs.keys() == expected.outputs.keys()
        for name, tensor in expected.outputs.items():
            assert tensor.dtype == found.outputs[name].dtype
            np.testing.assert_array_equal(tensor, found.outputs[name], err_msg=name)
            np.testing.assert_array_equal(np.signbit(tensor), np.signbit(found.outputs[name]), err_msg=name)
        same_counts(found, expected)
    for region in program.regions:
        if region.steps(entry):
            assert expected.account.peak_bytes[region.name] == peak_bytes(program, region)
    return expected


def same_counts(found: Run, expected: Run) -> None:
    mine, other = found.account, expected.account
    assert mine.cycles == other.cycles
    assert mine.macs == other.macs
    assert mine.busy == other.busy
    assert mine.peak_bytes == other.peak_bytes
    for name in ("east", "west", "south", "north"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(other, name), err_msg=name)


def check_cycles(kernel: Kernel, run: Run, scalars: Mapping[str, int] | None = None) -> None:
    """The closed form, the clock and the executed steps agree."""
    closed = kernel.cycles(run.account.machine, scalars or {})
    assert run.account.timeline.cycles == closed
    assert run.account.timeline.busy("region") == closed


def integers(random: np.random.Generator, *shape: int, dtype: object = np.float32) -> np.ndarray:
    """Small integers, on which linear steps are exact in any order."""
    return random.integers(-3, 4, shape).astype(dtype)
