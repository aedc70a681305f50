"""Which values between a model's inputs and outputs a program can give too, so that a fault can be looked for between them."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.backends.wafer.options import WaferOptions
from cgptc.backends.wafer.plan.lifting import lift
from cgptc.ir.graph import Graph, Value


def observable(graph: Graph, values: Sequence[Value], options: WaferOptions) -> list[Value]:
    """Of some values of a legal graph those that may be outputs beside its own, all together. Whether they fit a machine is not asked."""
    outputs = list(graph.outputs)
    wanted = [value for value in values if value.type.dtype.is_float]
    try:
        while wanted:
            graph.set_outputs([*outputs, *((f"value {number}", value) for number, value in enumerate(wanted))])
            tasks, refused = lift(graph, options.context)
            if tasks is not None:
                break
            blamed = {result for one in refused for result in one.node.results}
            left = [value for value in wanted if value not in blamed]
            # Where none of them is to blame, the graph is not legal.
            wanted = left if len(left) < len(wanted) else []
        return wanted
    finally:
        graph.set_outputs(outputs)
