"""Linear layers with weights of few bits."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.graph import Graph, Node
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.quantized import ACTIVATIONS, QuantizedLinear
from cgptc.ir.quantised_weights import QuantisationScales, Quantised
from cgptc.ir.weight_expressions import transposed
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.rewrite import erase_dead
from cgptc.passes.weight_names import HEADS, chosen, weight_of

SAFE_BITS = 7
"""With integers from -64 to 63, two products with bytes fit 16 bits: x86 processors without VNNI add them there, and clamp in silence."""


@dataclass(frozen=True)
class Quantize(Pass, name="quantize", optional=False, lossy=True):
    """Give `linear` a weight of ``bits`` bits, one scale for ``block`` neighbours of an output's row (0: the whole row).

    ``activations`` are those of `quantized_linear`; ``head`` is the bits of the layer that gives the logits (0: as the others); globs
    ``only`` choose layers by module or tensor name, globs ``keep`` exempt some.
    """

    bits: int = SAFE_BITS
    block: int = 0
    activations: str = "tensor"
    head: int = 0
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise UsageError("bad-option", f"'bits' of 'quantize' is {self.bits}", fix="choose 2 to 8")
        if self.head and not 2 <= self.head <= 8:
            raise UsageError("bad-option", f"'head' of 'quantize' is {self.head}", fix="choose 2 to 8, or 0 for the bits of the others")
        if self.block < 0:
            raise UsageError("bad-option", f"'block' of 'quantize' is {self.block}", fix="choose 0 or more, such as 32")
        if self.activations not in ACTIVATIONS:
            raise UsageError("bad-option", f"'activations' of 'quantize' is '{self.activations}'", fix=f"choose {', '.join(ACTIVATIONS)}")
        if self.activations == "tensor" and self.block:
            raise UsageError("bad-option", "activations per tensor take no blocks", fix="choose activations=blocks, or block=0")

    def run(self, graph: Graph, context: PassContext) -> bool:
        linears = [node for node in graph.nodes if isinstance(node.op, Linear) and weight_of(node, 1) is not None]
        if self.bits == 8 and self.activations == "tensor":
            what = "products of 8-bit weights and activations are exact on x86 processors with VNNI; without, onnxruntime clamps them"
            context.warnings.add("int8-range", what)
        left = " that is not quantised yet" if any(isinstance(node.op, QuantizedLinear) for node in graph.nodes) else ""
        picked = chosen(graph, linears, self.only, self.keep, f"linear layer{left}")
        heads = {value.producer for name, value in graph.outputs if name in HEADS} if self.head else set()
        for node in linears:
            context.count("nodes visited")
            bits = self.head if node in heads else self.bits
            if node in picked:
                self._quantise(graph, node, bits)
                context.done(subject(bits), node.location)
            else:
                context.missed(subject(bits), node.location, "kept as it is, by the choice of layers")
        return bool(picked)

    def _quantise(self, graph: Graph, node: Node, bits: int) -> None:
        x, _, *bias = node.operands
        weight = weight_of(node, 1)
        assert weight is not None
        rows = transposed(weight, (1, 0))
        build = Builder(graph, before=node, location=node.location, stage=node.stage)
        integers = build.weight(Quantised(rows, bits, self.block))
        scales = build.weight(QuantisationScales(rows, bits, self.block))
        result = build(QuantizedLinear(self.block, self.activations), x, integers, scales, *bias)
        result.name = node.result.name
        graph.replace_uses(node.result, result)
        erase_dead(graph, [node])


def subject(bits: int) -> str:
    """What reports call so many bits: int8 for 5 to 8."""
    return f"int{8 if bits > 4 else 4}"
