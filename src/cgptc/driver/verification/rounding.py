"""A model in a narrower element type, which an artifact was asked to compute in: what of it is rounded, and how far it is then held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cgptc.backends.registry import PlacedSession
from cgptc.ir.dtypes import DType, from_numpy
from cgptc.ir.graph import Graph
from cgptc.ir.op import Array
from cgptc.ir.ops.constant import Constant
from cgptc.ir.weight_ranges import saturated
from cgptc.ir.weights import WeightStore
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.runtime.compiled import Artifact, Target


@dataclass(frozen=True)
class RoundedStore:
    """A store whose tensors are rounded to ``dtype``, in their own types. What is in ``kept`` stays as it is."""

    base: WeightStore
    dtype: DType
    kept: frozenset[str] = frozenset()

    def read(self, name: str, start: int, stop: int) -> Array:
        array = self.base.read(name, start, stop)
        return array if name in self.kept else rounded(array, self.dtype)


def is_narrower(dtype: DType, own: DType) -> bool:
    """Whether numbers of a type may change in another: where that has fewer bits, or as many in another form (f16 for bf16)."""
    return own.is_float and own is not dtype and dtype.bits <= own.bits


def rounded(array: Array, dtype: DType) -> Array:
    """Numbers of another floating-point type rounded to a narrower ``dtype``, in their own type; other arrays as they are."""
    if not is_narrower(dtype, from_numpy(array.dtype)):
        return array
    own = from_numpy(array.dtype)
    with np.errstate(over="ignore"):
        return array.astype(dtype.numpy).astype(own.numpy)


def fused_graph(graph: Graph, target: Target) -> Graph:
    """A graph as a target takes it, with neither cache nor legal form: the statistics of whole norms and attentions suit any type."""
    made = graph.clone()
    passes = Pipeline.parse(target.backend.default_pipeline(target.options)).without(["add-cache", "legalise"])
    passes.run(made, PassContext(target.backend.name, target.backend.legal_ops(target.options), target.backend.cost_model(target.options)))
    return made


def converted_graph(graph: Graph, dtype: DType, kept: frozenset[str] = frozenset()) -> Graph:
    """A graph in a narrower type whose stored weights are rounded to it, but those in ``kept``; what a mask fills in beyond the range is
    its end. Raises `CompileError` for a stored weight that overflows.
    """
    made = graph.clone()
    for node in made.nodes:
        if isinstance(node.op, Constant):
            made.set_op(node, Constant(saturated(node.op.weight, dtype)))
    Pipeline.parse(f"convert{{dtype={dtype}}}").run(made, PassContext())
    made.store = RoundedStore(graph.store, dtype, kept)
    return made


def in_types_of(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs in the element types that a graph gives them."""
    return {value.name: inputs[value.name].astype(value.type.dtype.numpy, copy=False) for value in graph.inputs}


def narrower_dtype(artifact: Artifact, graph: Graph) -> DType | None:
    """The type in which an artifact computes, where that is narrower than a graph's own.

    It must have been asked for, and what is loaded must do so: neither alone widens a bound.
    """
    session = artifact.session
    if not isinstance(session, PlacedSession):
        return None
    asked = getattr(artifact.load_target().options, "dtype", None)
    own = [value.type.dtype for _, value in graph.outputs if value.type.dtype.is_float]
    return session.dtype if session.dtype.name == asked and any(is_narrower(session.dtype, each) for each in own) else None
