"""What an artifact is held against: PyTorch in float64, and the noise of the model's own dtype around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cgptc.driver.verification.orders import shuffled
from cgptc.driver.verification.rounding import converted_graph, fused_graph, in_types_of, rounded
from cgptc.frontend.source import CapturedModel
from cgptc.ir.binding import bind_symbols
from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.dims import evaluate
from cgptc.ir.dtypes import DType, from_numpy
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.parser import parse_graph
from cgptc.runtime.compiled import GRAPH_FILE, Artifact, Target
from cgptc.runtime.inputs import complete_inputs
from cgptc.runtime.interface import IDS, Interface
from cgptc.testing.tolerances import UNIT_ROUNDOFF, NoiseFloor, noise_floor

if TYPE_CHECKING:
    import torch

    from cgptc.frontend.oracle import ModuleOutput

ORDER_COUNT = 5
MAXIMUM_WORK = 10**9
"""Multiply-accumulates of one run up to which the random orders take all tokens."""

SHORT = 8
"""Tokens that they take above that."""

FEW = 8
"""Numbers that an output has at least where `ORDER_COUNT` orders tell its noise; one of fewer takes as many times more."""

BROKEN = 8
"""How many times as far off as the interpreter's orders PyTorch's run in a narrower type may be to count as noise."""

LOUD = 1 / 8
"""Share of an output that its noise has where a note says so."""


@dataclass(frozen=True)
class Answer:
    """Float64 outputs by name, and the noise floor of each."""

    outputs: Mapping[str, Array]
    floors: Mapping[str, NoiseFloor]


@dataclass
class Reference:
    """A model in PyTorch, and its graph as captured: never the artifact's own graph.

    ``narrow`` is the graph in ``dtype``, the narrower type of what is held against it (`narrowed`), None where that computes in the
    model's own.
    """

    graph: Graph
    module: torch.nn.Module
    wide_module: torch.nn.Module
    narrow: Graph | None = None
    dtype: DType | None = None
    notes: dict[str, None] = field(default_factory=dict)

    @classmethod
    def of(cls, model: CapturedModel) -> Reference:
        """The reference of a model that has weights. `UsageError` for one without."""
        if model.reference is None:
            raise UsageError("shape-only", "there are no weights to compare with", fix="give a model file or folder")
        module = model.reference()
        from cgptc.frontend.oracle import wide_copy

        return cls(model.graph.clone(), module, wide_copy(module))

    def narrowed(self, dtype: DType, target: Target) -> Reference:
        """What a result of a target in a narrower type is held against: PyTorch in float64 with what is stored rounded to ``dtype``, and
        the noise that PyTorch and the interpreter make in ``dtype``. Raises `CompileError` for a weight that overflows in it.
        """
        from cgptc.frontend.oracle import narrow_copy, rounded_copy, unstored_names, wide_copy

        # The passes are this process's own and the graph is the model's: nothing of the artifact's is trusted.
        narrow = converted_graph(fused_graph(self.graph, target), dtype, unstored_names(self.module))
        graph = self.graph.clone()
        graph.store = narrow.store
        note = f"it computes in {dtype}: held against PyTorch with its weights rounded to {dtype}, within the noise of {dtype}"
        wide = wide_copy(rounded_copy(self.wide_module, dtype))
        return Reference(graph, narrow_copy(self.module, dtype), wide, narrow, dtype, {**self.notes, note: None})

    def prepared(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs for both sides: rounded where the results are those of a narrower type, so that both begin with the same numbers."""
        types = {value.name: value.type.dtype for value in self.narrow.inputs} if self.narrow is not None else {}
        return {name: rounded(array, types[name]) if name in types else array for name, array in inputs.items()}

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.graph.outputs)

    def answer(self, inputs: Mapping[str, Array], *, by_row: bool = False) -> Answer:
        """Outputs in float64, and the error of right results in the model's own dtype: PyTorch's, and five random orders of ours.

        ``by_row`` measures the error on each row of a batch, and takes the largest; all outputs must begin with the batch.
        """
        complete = complete_inputs(Interface.of(self.graph), inputs)
        wide = self.exact(complete)
        graph = self.narrow if self.narrow is not None else self.graph
        own = self._in_own_type(in_types_of(graph, complete))
        short = in_types_of(graph, self._shortened(complete))
        # The orders' noise is around the interpreter's own exact answer: a wrong import must not widen its own bound.
        exact = evaluate_graph(graph, short, wide=True)
        # A handful of numbers, such as a loss, may come out close in all of a few orders.
        few = not by_row and any(array.size < FEW for array in wide.values())
        orders = [evaluate_graph(graph, short, evaluate_op=shuffled(seed)) for seed in range(ORDER_COUNT * (FEW if few else 1))]
        floors: dict[str, NoiseFloor] = {}
        for name, expected in wide.items():
            ours = self._noise(exact[name], [each[name] for each in orders], by_row)
            theirs = self._noise(expected, [own[name]] if own is not None else [], by_row)
            if self.narrow is not None and theirs.rmse > BROKEN * ours.rmse:
                self.notes[f"PyTorch breaks down in {self.dtype}: the noise is that of the interpreter alone"] = None
                theirs = ours
            rounding = _rounding(expected, orders[0][name]) if few and expected.size < FEW else 0.0
            floors[name] = NoiseFloor(max(ours.rmse, theirs.rmse, rounding), max(ours.largest, theirs.largest, rounding))
            self._tell_of_noise(name, expected, floors[name])
        return Answer(wide, floors)

    def _noise(self, expected: Array, samples: Sequence[Array], by_row: bool) -> NoiseFloor:
        """The largest of the samples, nothing where there is none; those count that are finite where float64 is."""
        finite = [each for each in samples if (np.isfinite(each) >= np.isfinite(expected)).all()]
        if len(finite) < len(samples):
            self.notes["a run in the type itself overflows where float64 does not, and is not counted as noise"] = None
        rows = [np.s_[row] for row in range(len(expected))] if by_row else [np.s_[...]]
        found = [noise_floor(expected[row], [each[row]]) for row in rows for each in finite]
        return NoiseFloor(max((each.rmse for each in found), default=0.0), max((each.largest for each in found), default=0.0))

    def _tell_of_noise(self, name: str, expected: Array, floor: NoiseFloor) -> None:
        """A note where the noise is so much of an output that little can be told from it."""
        finite = expected[np.isfinite(expected)]
        if finite.size and floor.rmse > LOUD * float(np.sqrt(np.mean(finite**2))):
            self.notes[f"the noise of the type is more than {LOUD:.0%} of '{name}': being within it says little"] = None

    def _in_own_type(self, inputs: Mapping[str, Array]) -> dict[str, Array] | None:
        """PyTorch's outputs in the type in which results are held; None, and a note, where it cannot run the model in a narrower one."""
        from cgptc.frontend.oracle import evaluate_module

        try:
            return evaluate_module(self.module, inputs, output_names=self.output_names)
        except CompileError:
            if self.narrow is None:
                raise
            self.notes["PyTorch does not run the model in that type: the noise is that of the interpreter alone"] = None
            return None

    def exact(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """PyTorch's outputs in float64, by the graph's names."""
        from cgptc.frontend.oracle import evaluate_module

        return evaluate_module(self.wide_module, inputs, wide=True, output_names=self.output_names)

    def submodules(self, inputs: Mapping[str, Array]) -> list[ModuleOutput]:
        """What every submodule returned in float64, in the order in which they finished."""
        from cgptc.frontend.oracle import submodule_outputs

        return submodule_outputs(self.wide_module, inputs)

    def _shortened(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """The first few tokens, where the whole is too much work for an interpreter."""
        ids = inputs.get(IDS)
        if ids is None or ids.shape[1] <= SHORT or work(self.graph, inputs) <= MAXIMUM_WORK:
            return inputs
        self.notes[f"random orders of reduction were taken on the first {SHORT} tokens"] = None
        return {name: array[:, :SHORT] if array.ndim > 1 and array.shape[1] == ids.shape[1] else array for name, array in inputs.items()}


def _rounding(expected: Array, sample: Array) -> float:
    """What rounding the largest number to a sample's type may change: no result is nearer by more than luck."""
    own = from_numpy(sample.dtype)
    return UNIT_ROUNDOFF[own] * float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected))) if own.is_float else 0.0


def artifact_graph(artifact: Artifact, reference: Reference) -> Graph:
    """The artifact's graph with the reference's weights."""
    return parse_graph(artifact.folder.read(GRAPH_FILE).decode(), reference.graph.store, file=GRAPH_FILE)


def work(graph: Graph, inputs: Mapping[str, Array]) -> int:
    """Multiply-accumulates of one run."""
    sizes = bind_symbols(graph.inputs, {name: np.shape(array) for name, array in inputs.items()})
    return sum(evaluate(node.op.cost(*node.operand_types).flops, sizes) for node in graph.nodes) // 2
