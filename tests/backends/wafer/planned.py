"""Plans graphs and runs them from their files' content, on either engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cgptc.backends.wafer.emission import host_of
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.machine import Machine, doubled_sram, small_machine
from cgptc.backends.wafer.plan.lifting import lift
from cgptc.backends.wafer.plan.planner import Aim, Plan, plan
from cgptc.backends.wafer.serial import parse_program, program_text
from cgptc.backends.wafer.session import WaferSession
from cgptc.ir.binding import bind_symbols
from cgptc.ir.dtypes import DTYPES
from cgptc.ir.graph import Graph
from cgptc.ir.op import Array
from cgptc.ir.weight_expressions import converted, widened
from cgptc.ir.weights import Weight

ROOMY = small_machine(40, 40, sram_bytes=1 << 18)
"""Room for any test's model on any grid."""


@dataclass(frozen=True)
class Planned:
    """A plan of a graph, and the weights as its file would hold them."""

    graph: Graph
    plan: Plan
    session: WaferSession


def planned(
    graph: Graph,
    grid: tuple[int, int] | None = (4, 4),
    strategy: str = "resident",
    dtype: str = "f64",
    machine: Machine = ROOMY,
    objective: str = "throughput",
    fidelity: Literal["fast", "pe"] = "fast",
    chunk: int | None = 1,
) -> Planned:
    """``grid`` is columns and rows of every region, ``chunk`` the tokens that are read at once, None for the planner's choice. In f64 the
    machine has twice its SRAM.
    """
    tasks, refused = lift(graph)
    assert not refused, [(str(one.node), one.reason) for one in refused]
    assert tasks is not None
    tasks = replace(tasks, dtype=dtype)
    chosen = Grid(grid[1], grid[0]) if grid else None
    aim = Aim(doubled_sram(machine) if dtype == "f64" else machine, strategy, objective, chosen, chunk)
    made = plan(tasks, aim, dtype)

    def typed(weight: Weight) -> Weight:
        return weight if not weight.dtype.is_float else widened(weight) if dtype == "f64" else converted(weight, DTYPES[dtype])

    weights = {name: typed(weight).read(graph.store) for name, weight in made.weights.items()}
    program = parse_program(program_text(made.program))
    return Planned(graph, made, WaferSession(program, host_of(tasks, dtype, made.chunk), weights, fidelity))


def token_inputs(graph: Graph, rows: int, time: int, seed: int = 0, vocabulary: int = 23) -> dict[str, Array]:
    """Ids, a mask of ones, and empty pasts."""
    random = np.random.default_rng(seed)
    inputs: dict[str, Array] = {
        "input_ids": random.integers(0, vocabulary, (rows, time)),
        "attention_mask": np.ones((rows, time), np.int64),
    }
    for value in graph.inputs:
        if value.name.startswith("past_key_values."):
            _, heads, _, features = value.type.shape
            assert isinstance(heads, int)
            assert isinstance(features, int)
            inputs[value.name] = np.zeros((rows, heads, 0, features), value.type.dtype.numpy)
    bind_symbols(graph.inputs, {name: array.shape for name, array in inputs.items()})
    return inputs


def continued(inputs: Mapping[str, Array], outputs: Mapping[str, Array], ids: Array) -> dict[str, Array]:
    """The inputs of a call that goes on from another's outputs."""
    found: dict[str, Array] = {"input_ids": ids}
    found["attention_mask"] = np.concatenate([inputs["attention_mask"], np.ones(ids.shape, np.int64)], axis=1)
    for name in inputs:
        if name.startswith("past_key_values."):
            found[name] = outputs[name.replace("past_key_values", "present")]
    return found
