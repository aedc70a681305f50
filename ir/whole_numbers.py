"""Integers that a graph holds as constants of rank 0, such as offsets of positions."""

from __future__ import annotations

from cgptc.ir.graph import Value
from cgptc.ir.ops.constant import Constant
from cgptc.ir.weights import EMPTY_STORE, WeightStore


def whole_number(value: Value, store: WeightStore = EMPTY_STORE) -> int | None:
    """The integer that a constant holds; None for anything else, and for one whose content ``store`` lacks."""
    if not isinstance(value.op, Constant) or value.type.rank or not value.type.dtype.is_integer:
        return None
    try:
        return int(value.op.weight.read(store))
    except KeyError:
        return None
