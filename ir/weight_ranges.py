"""Whether the elements of a weight keep their magnitude in a narrower element type."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from cgptc.ir.dtypes import DType, bf16, f16
from cgptc.ir.op import Array
from cgptc.ir.weight_expressions import leaves
from cgptc.ir.weights import EMPTY_STORE, Dense, Stored, Weight, WeightStore, dense

RANGED = (f16,)
"""The types whose range is narrower than that of f32."""


def largest(dtype: DType) -> float:
    """The largest finite number of a floating-point type."""
    return float(ml_dtypes.finfo(dtype.numpy).max)


def overflow(weight: Weight, to: DType, store: WeightStore) -> str:
    """Says that a finite element becomes infinite in ``to``, naming the weight; empty where none does.

    Reads all of the weight, block by block. A store without weight bytes is not looked at.
    """
    if to not in RANGED or not weight.dtype.is_float or (weight.dtype.bits <= to.bits and weight.dtype is not bf16):
        return ""
    stored = [leaf.name for leaf in leaves(weight) if isinstance(leaf, Stored)]
    if stored and store is EMPTY_STORE:
        return ""
    most = 0.0
    for block in weight.blocks(store):
        wide = np.abs(np.asarray(block).astype(np.float32, copy=False))
        most = max(most, float(np.max(wide, initial=0.0, where=np.isfinite(wide))))
    with np.errstate(over="ignore"):
        fits = not np.isinf(np.float32(most).astype(to.numpy))
    name = f"weight '{stored[0]}'" if stored else "a constant"
    return "" if fits else f"{name} has an element of magnitude {most:g}, and {to} ends at {largest(to):g}"


def limits_moved(weight: Weight, to: DType) -> Weight:
    """A constant in which the ends of its own type stand for the lowest or the highest number there is, as in masks, with the ends of
    ``to`` in their place. Any other weight is itself.
    """
    if not isinstance(weight, Dense) or not weight.dtype.is_float:
        return weight
    array: Array = weight.array
    ends = np.abs(array.astype(np.float64)) == largest(weight.dtype)
    if not ends.any() or largest(weight.dtype) <= largest(to):
        return weight
    return dense(np.where(ends, np.copysign(largest(to), array.astype(np.float64)), array).astype(array.dtype))


def saturated(weight: Weight, to: DType) -> Weight:
    """A constant with finite elements beyond the range of ``to`` brought to its ends, as a mask's fill of -1e9 hides no less there. Any
    other weight is itself.
    """
    if not isinstance(weight, Dense) or not weight.dtype.is_float:
        return weight
    wide, most = weight.array.astype(np.float64), largest(to)
    beyond = np.isfinite(wide) & (np.abs(wide) > most)
    return dense(np.where(beyond, np.copysign(most, wide), wide).astype(weight.array.dtype)) if beyond.any() else weight
