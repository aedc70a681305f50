"""Prices in cycles for passes that ask: linear work at the machine's rate, spread over a number of PEs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cgptc.backends.wafer.machine import WSE2, Machine
from cgptc.ir.cost import Price
from cgptc.ir.dims import Dim, evaluate
from cgptc.ir.dtypes import DType, f32
from cgptc.ir.graph import Node, Value
from cgptc.ir.ops.constant import Constant

AREA = 4096
"""PEs of a region where nobody says: prices are compared with one another, so that what matters is that it is the same for all."""


@dataclass(frozen=True)
class WaferCostModel:
    """Streaming multiply-accumulates in the format of sums, all PEs busy. It only balances stages: the planner prices kernels for real."""

    machine: Machine = WSE2
    unit: str = "cycles"

    def price(self, nodes: Sequence[Node], dims: Mapping[str, int], area: int | None = None) -> Price:
        """One item's work where ``seq`` is 1; weights are resident."""
        inside = {value for node in nodes for value in node.results}
        come: dict[Value, None] = {}
        cycles, resident = 0.0, 0
        for node in nodes:
            if isinstance(node.op, Constant):
                resident += _evaluated(node.result.type.bytes, dims)
                continue
            flops = _evaluated(node.op.cost(*node.operand_types).flops, dims)
            cycles += self._cycles(flops / 2, area)
            come.update((value, None) for value in node.inputs if value not in inside)
        gone = [value for node in nodes for value in node.results if value.is_output or any(user not in nodes for user in value.users)]
        return Price(
            cycles,
            resident_bytes=resident,
            peak_bytes=resident,
            bytes_in=sum(_evaluated(value.type.bytes, dims) for value in come if not isinstance(value.op, Constant)),
            bytes_out=sum(_evaluated(value.type.bytes, dims) for value in gone if not isinstance(value.op, Constant)),
        )

    def matmul(self, m: int, k: int, n: int, dtype: DType, sparsity: str = "dense") -> Price:
        """``[m, k] @ [k, n]``; a pattern of zeros is worth what a sparse kernel makes of it, and dense kernels make nothing."""
        weight = dtype.bytes(k * n)
        come, go = f32.bytes(m * k), f32.bytes(m * n)
        return Price(self._cycles(m * k * n, None), weight, weight + come + go, come, go)

    def pick(self, rows: int, width: int, count: int) -> Price | None:
        """None: the planner has sparse kernels, which it prices for each matrix."""
        return None

    def transfer(self, byte_count: int) -> Price:
        """A stream from one region to the next: wavelets of four bytes, side by side over the edge of a square region."""
        lanes = math.isqrt(AREA) * self.machine.link_words
        return Price(math.ceil(byte_count / (4 * lanes)) + self.machine.vector_start_cycles, peak_bytes=byte_count)

    def _cycles(self, macs: float, area: int | None) -> float:
        rate = dict(self.machine.mac_lanes).get("f32", 1.0) * (area or AREA)
        return math.ceil(macs / rate) + self.machine.vector_start_cycles


def _evaluated(dim: Dim, dims: Mapping[str, int]) -> int:
    return evaluate(dim, dims)
