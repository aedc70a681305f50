"""What a pass may ask a target: the price of work. Backends implement it; passes compare prices, never convert them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cgptc.ir.dtypes import DType
from cgptc.ir.graph import Node


@dataclass(frozen=True)
class Price:
    """Time in the model's ``unit``; bytes that stay, that are needed at the peak, that come in and go out."""

    time: float
    resident_bytes: int = 0
    peak_bytes: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class CostModel(Protocol):
    """A target's prices. ``unit`` is "seconds" or "cycles"."""

    unit: str

    def price(self, nodes: Sequence[Node], dims: Mapping[str, int], area: int | None = None) -> Price:
        """The price of running ``nodes`` once with symbols of these sizes, on ``area`` PEs where the target has such."""
        ...

    def matmul(self, m: int, k: int, n: int, dtype: DType, sparsity: str = "dense") -> Price:
        """The price of one ``[m, k] @ [k, n]`` with a sparse right side."""
        ...

    def pick(self, rows: int, width: int, count: int) -> Price | None:
        """The price of a gather of ``count`` features, in any order, from each of ``rows`` rows of ``width``. None where features are not
        to be picked for the sake of zeros, as where kernels pass over these.
        """
        ...

    def transfer(self, byte_count: int) -> Price:
        """The price of moving a value from one stage to another: time that it takes each of the two, bytes that each holds for it."""
        ...
