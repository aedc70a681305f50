"""The wafer backend: a placed, routed and cycle-counted program for a modelled machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cgptc.backends.registry import Emitted, Refusal
from cgptc.backends.wafer.boundary import loading
from cgptc.backends.wafer.cost import WaferCostModel
from cgptc.backends.wafer.options import WaferOptions
from cgptc.backends.wafer.session import Fidelity, WaferSession
from cgptc.ir.graph import Graph, Value
from cgptc.ir.op import OPS, Op, is_composite

DEFAULT_PIPELINE = (
    "canonicalize,fuse-linear,fuse-activations,fuse-norms,fuse-embedding,fuse-softmax,fuse-attention,sink-reshapes,canonicalize,cse,"
    "fuse-rotary,normalize-masks,canonicalize,cse,dead-code,add-cache,canonicalize,cse,dead-code,legalise"
)
"""What runs where the user names no passes: whole kernels, masks understood, then the cache, whose tokens the regions keep."""


@dataclass(frozen=True)
class WaferBackend:
    """Writes ``program.json``, ``weights.safetensors`` and ``host.json``."""

    name: str = "wafer"
    options: type[WaferOptions] = WaferOptions

    def default_pipeline(self, options: WaferOptions, level: int = 2) -> str:
        """The same at every level: kernels take whole operations, so that none may stay in pieces."""
        return DEFAULT_PIPELINE

    def legal_ops(self, options: WaferOptions) -> frozenset[type[Op]]:
        import cgptc.backends.wafer.plan.rules  # noqa: F401  (declares the rules)
        from cgptc.backends.wafer.plan.lift import RULES

        # What a primitive operation depends on decides whether it has a place, so `check` tells, node by node.
        return frozenset(RULES) | frozenset(op for op in OPS.values() if not is_composite(op))

    def check(self, graph: Graph, options: WaferOptions) -> Sequence[Refusal]:
        from cgptc.backends.wafer.emission import refusals_of

        return refusals_of(graph)

    def plan(self, graph: Graph, options: WaferOptions) -> Mapping[str, object]:
        """Facts of the plan of a legal graph; the errors are `emission.plan_graph`'s."""
        from cgptc.backends.wafer.emission import dtype_of, plan_graph
        from cgptc.backends.wafer.summary import facts_of

        tasks, planned = plan_graph(graph, options)
        return facts_of(tasks, planned, dtype_of(tasks, options))

    def emit(self, graph: Graph, folder: Path, options: WaferOptions) -> Emitted:
        from cgptc.backends.wafer.emission import emit_program

        return emit_program(graph, folder, options)

    def observable(self, graph: Graph, values: Sequence[Value], options: WaferOptions) -> Sequence[Value]:
        from cgptc.backends.wafer.probing import observable

        return observable(graph, values, options)

    def load(self, folder: Path, options: WaferOptions, fidelity: Fidelity = "fast") -> WaferSession:
        """``fidelity`` chooses the engine: region by region, or PE by PE, which is the definition and slow."""
        with loading(str(folder)):
            return WaferSession.open(folder, fidelity)

    def cost_model(self, options: WaferOptions) -> WaferCostModel:
        return WaferCostModel()


BACKEND = WaferBackend()
