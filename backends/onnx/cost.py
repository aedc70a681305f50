"""Prices in seconds on a CPU: a roofline of arithmetic and memory traffic, plus what each node costs to start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cgptc.ir.cost import Price
from cgptc.ir.dims import Dim, evaluate
from cgptc.ir.dtypes import DType, f32, i4, i8
from cgptc.ir.graph import Node, Value
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.quantized import QuantizedLinear
from cgptc.ir.types import TensorType

NODE_SECONDS = 2e-6
"""Time to start one kernel: what a graph of trivial nodes takes per node on onnxruntime 1.31."""
PIECE_SECONDS, TURN_SECONDS = 25e-9, 1.3e-9
"""Time for each piece that a Gather copies, and for each element of a Transpose (`benchmarks/feature_gathers.py`)."""
TURNED_SHARE = 1 / 8
"""Of a row at least so many elements must be taken for turns of its axes to pay: below, turning what is not taken costs more."""
HAND_OVER_SECONDS = 5e-5
"""Time that one thread takes to wake another with a value."""


@dataclass(frozen=True)
class OnnxCostModel:
    """``flops_per_second`` by element type, ``bytes_per_second`` of memory.

    The defaults were measured on a 2-core AMD Zen 5 virtual machine with AVX-512: 291 GFLOP/s for an f32 product in onnxruntime's own
    kernels, 1.1 Top/s for dynamically quantised int8, 450 Gop/s for 4-bit blocks, 38 GB/s read from memory. f64 was not measured: it is
    taken at half of f32, by its width.
    """

    unit: str = "seconds"
    bytes_per_second: float = 38e9
    flops_per_second: Mapping[str, float] = field(default_factory=lambda: {"f32": 291e9, "f64": 146e9, "i8": 1.1e12, "i4": 450e9})

    def price(self, nodes: Sequence[Node], dims: Mapping[str, int], area: int | None = None) -> Price:
        """One run of the nodes. Traffic between them stays in caches where it can, so only the largest working set counts as peak,
        beside the constants among them, which are resident.
        """
        inside = {value for node in nodes for value in node.results}
        constants = {value for value in inside if isinstance(value.op, Constant)}
        seconds = 0.0
        resident = peak = 0
        sources: dict[Value, None] = {}
        leaving: dict[Value, None] = {}
        for node in nodes:
            if isinstance(node.op, Constant):
                resident += _size(node.op.weight.type, dims)
                continue
            cost = node.op.cost(*node.operand_types)
            dtype = node.inputs[1].type.dtype if isinstance(node.op, QuantizedLinear) else node.results[0].type.dtype
            seconds += NODE_SECONDS + self._roofline(_number(cost.flops, dims), _number(cost.bytes, dims), dtype)
            peak = max(peak, sum(_size(value.type, dims) for value in {*node.inputs, *node.results} - constants))
            sources.update(dict.fromkeys(value for value in node.inputs if value not in inside))
            for value in node.results:
                if any(use.user is None or any(r not in inside for r in use.user.results) for use in value.uses):
                    leaving[value] = None
        return Price(
            seconds,
            resident_bytes=resident,
            peak_bytes=resident + peak,
            bytes_in=sum(_size(value.type, dims) for value in sources),
            bytes_out=sum(_size(value.type, dims) for value in leaving),
        )

    def matmul(self, m: int, k: int, n: int, dtype: DType, sparsity: str = "dense") -> Price:
        """``[m, k] @ [k, n]``. A pattern of zeros inside the right side is worth nothing here; removed rows and columns change k and n."""
        weight = dtype.bytes(k * n)
        outside = f32 if dtype in (i8, i4) else dtype  # narrow weights meet f32 activations
        come, go = outside.bytes(m * k), outside.bytes(m * n)
        seconds = NODE_SECONDS + self._roofline(2 * m * k * n, weight + come + go, dtype)
        return Price(seconds, resident_bytes=weight, peak_bytes=weight + come + go, bytes_in=come, bytes_out=go)

    def pick(self, rows: int, width: int, count: int) -> Price:
        """A Gather along the last axis, between two Transposes where its lowering turns the axes."""
        if count < TURNED_SHARE * width:
            return Price(NODE_SECONDS + rows * count * PIECE_SECONDS)
        return Price(3 * NODE_SECONDS + count * PIECE_SECONDS + rows * (width + count) * TURN_SECONDS)

    def transfer(self, byte_count: int) -> Price:
        """A value handed from one stage's session to another's in this process: one copy, held on either side."""
        return Price(HAND_OVER_SECONDS + 2 * byte_count / self.bytes_per_second, peak_bytes=byte_count)

    def _roofline(self, flops: int, moved: int, dtype: DType) -> float:
        speed = self.flops_per_second.get(dtype.name, self.flops_per_second["f32"])
        return max(flops / speed, moved / self.bytes_per_second)


def _number(dim: Dim, dims: Mapping[str, int]) -> int:
    return evaluate(dim, dims)


def _size(type_: TensorType, dims: Mapping[str, int]) -> int:
    return evaluate(type_.bytes, dims)
