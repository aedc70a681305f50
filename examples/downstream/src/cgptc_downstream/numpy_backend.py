"""A target in a hundred lines: a program is a list of numpy calls, in JSON, beside its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgptc.backends.registry import Emitted, Refusal
from cgptc.ir.cost import Price
from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.dtypes import DType, f32, f64
from cgptc.ir.graph import Graph, Node
from cgptc.ir.op import Array, Op
from cgptc.ir.ops import binary, elementwise, matmul
from cgptc.ir.ops.constant import Constant
from cgptc.ir.printer import node_text, value_names

FUNCTIONS: dict[type[Op], Callable[..., Array]] = {
    binary.Add: np.add,
    binary.Div: np.divide,
    binary.Maximum: np.maximum,
    binary.Minimum: np.minimum,
    binary.Mul: np.multiply,
    binary.Sub: np.subtract,
    elementwise.Abs: np.abs,
    elementwise.Exp: np.exp,
    elementwise.Neg: np.negative,
    elementwise.Sqrt: np.sqrt,
    elementwise.Tanh: np.tanh,
    matmul.MatMul: np.matmul,
}
"""What each operation is in numpy; all others are refused."""

BY_NAME = {cls.name: function for cls, function in FUNCTIONS.items()}


@dataclass(frozen=True)
class NumpyOptions:
    """This target has no options."""


class NumpySession:
    """A program in memory."""

    def __init__(self, program: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        self.program = program
        self.weights = weights
        self.input_names = tuple(program["inputs"])
        self.output_names = tuple(program["outputs"])

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        missing = [name for name in self.input_names if name not in inputs]
        if missing:
            raise UsageError("missing-input", f"input '{missing[0]}' is not given")
        values = {**self.weights, **{place: np.asarray(inputs[name]) for name, place in self.program["inputs"].items()}}
        with np.errstate(all="ignore"):
            for step in self.program["steps"]:
                values[step["to"]] = BY_NAME[step["call"]](*(values[place] for place in step["of"]))
        return {name: values[place] for name, place in self.program["outputs"].items()}


@dataclass(frozen=True)
class NumpyCosts:
    """A second for a billion operations."""

    unit: str = "seconds"

    def price(self, nodes: Sequence[Node], dims: Mapping[str, int], area: int | None = None) -> Price:
        return Price(1e-9 * len(nodes))

    def matmul(self, m: int, k: int, n: int, dtype: DType, sparsity: str = "dense") -> Price:
        return Price(2e-9 * m * k * n)

    def pick(self, rows: int, width: int, count: int) -> Price:
        return Price(1e-9 * rows * count)

    def transfer(self, byte_count: int) -> Price:
        return Price(1e-9 * byte_count)


@dataclass(frozen=True)
class NumpyBackend:
    """Writes ``program.json`` and ``weights.npz``."""

    name: str = "numpy"
    options: type[NumpyOptions] = NumpyOptions

    def default_pipeline(self, options: NumpyOptions) -> str:
        return "canonicalize,subtract-negatives,cse,dead-code"

    def legal_ops(self, options: NumpyOptions) -> frozenset[type[Op]]:
        return frozenset({*FUNCTIONS, Constant})

    def check(self, graph: Graph, options: NumpyOptions) -> Sequence[Refusal]:
        names = value_names(graph)
        found = []
        for node in graph.nodes:
            if type(node.op) not in self.legal_ops(options):
                found.append(Refusal(node.location, node_text(node, names), "has no numpy call"))
            elif any(value.type.dtype.is_float and value.type.dtype not in (f32, f64) for value in node.results):
                found.append(Refusal(node.location, node_text(node, names), "numpy rounds sums of narrow numbers at every step"))
        return found

    def emit(self, graph: Graph, folder: Path, options: NumpyOptions) -> Emitted:
        if refusals := self.check(graph, options):
            raise CompileError(
                "unsupported-op", "the graph has no numpy form", details=[line for each in refusals for line in each.lines()]
            )
        names = value_names(graph)
        steps, weights = [], {}
        for node in graph.nodes:
            if isinstance(node.op, Constant):
                weights[names[node.result]] = node.op.weight.read(graph.store)
            else:
                steps.append({"call": node.op.name, "of": [names[value] for value in node.inputs], "to": names[node.result]})
        program = {
            "inputs": {value.name: names[value] for value in graph.inputs},
            "outputs": {name: names[value] for name, value in graph.outputs},
            "steps": steps,
        }
        (folder / "program.json").write_text(json.dumps(program))
        np.savez(folder / "weights.npz", allow_pickle=False, **weights)
        return Emitted(("program.json", "weights.npz"), {"steps": len(steps)})

    def load(self, folder: Path, options: NumpyOptions) -> NumpySession:
        with np.load(folder / "weights.npz", allow_pickle=False) as weights:
            return NumpySession(json.loads((folder / "program.json").read_text()), dict(weights))

    def cost_model(self, options: NumpyOptions) -> NumpyCosts:
        return NumpyCosts()


BACKEND = NumpyBackend()
