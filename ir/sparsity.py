"""What is known of the zeros in a weight without reading it: each expression's rule.

What has no rule is `UNKNOWN`: zeros may be there, and are found by looking.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from cgptc.ir.masked_weights import Masked
from cgptc.ir.op import Array
from cgptc.ir.quantised_weights import QuantisationScales, Quantised
from cgptc.ir.weight_expressions import Added, Concatenated, Converted, Reshaped, Scaled, Sliced, Taken, Transposed
from cgptc.ir.weights import EMPTY_STORE, Dense, Stored, Weight, WeightStore, dense


@dataclass(frozen=True)
class Sparsity:
    """``kind`` is "dense", "rows" or "columns" (whole ones are zero; ``mask`` is a vector), "n:m", "block" or "unstructured" (``mask`` is
    of the weight's shape, ``detail`` such as "2:4@0" or "16x16"), or "unknown". ``mask`` is true where elements are kept.
    """

    kind: str
    mask: Weight | None = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.detail}" if self.detail else self.kind


DENSE, UNKNOWN = Sparsity("dense"), Sparsity("unknown")
LINES = ("rows", "columns")


def sparsity_of(weight: Weight) -> Sparsity:
    """The pattern of a weight's zeros."""
    match weight:
        case Masked():
            return _masked(weight)
        case Transposed():
            return _transposed(sparsity_of(weight.base), weight)
        case Reshaped() | Added():
            operands = weight.operands
            return DENSE if all(sparsity_of(operand) == DENSE for operand in operands) else UNKNOWN
        case Concatenated():
            return _concatenated(weight)
        case Sliced() | Taken():
            return _cut(sparsity_of(weight.base), weight)
        case Scaled() | Converted() | Quantised():
            return sparsity_of(weight.base)
        case QuantisationScales():
            return DENSE
        case Stored():
            return DENSE
        case _:
            return UNKNOWN


def living_lines(weight: Weight, axis: int, store: WeightStore) -> Array | None:
    """True for the rows (``axis`` 0) or columns (1) of a matrix that are not zero throughout, as far as masks of whole lines say; None
    where they say nothing, or are not at hand. No other weight is read.
    """
    match weight:
        case Masked(mask=mask):
            found = [living_lines(weight.base, axis, store)]
            if weight.axis == axis and (store is not EMPTY_STORE or isinstance(mask, Dense)):
                found.append(mask.read(store))
            lines = [each for each in found if each is not None]
            return np.logical_and.reduce(lines) if lines else None
        case Transposed(permutation=(1, 0)):
            return living_lines(weight.base, 1 - axis, store)
        case Scaled() | Converted() | Quantised():
            return living_lines(weight.base, axis, store)
        case Sliced() | Taken():
            base = living_lines(weight.base, axis, store)
            return base if base is None or weight.axis != axis else dataclasses.replace(weight, base=dense(base), axis=0).read(store)
        case Concatenated():
            parts = [(living_lines(part, axis, store), part.shape[axis]) for part in weight.parts]
            if all(part is None for part, _ in parts):
                return None
            filled = [part if part is not None else np.ones(size, np.bool_) for part, size in parts]
            return np.concatenate(filled) if weight.axis == axis else np.logical_or.reduce(filled)
        case _:
            return None


def _masked(weight: Masked) -> Sparsity:
    if weight.axis is not None:  # other zeros may lie between the lines
        return Sparsity(LINES[weight.axis], weight.mask) if len(weight.shape) == 2 else UNKNOWN
    base = sparsity_of(weight.base)
    if base.kind in (*LINES, "n:m", "block", "unknown"):  # more zeros leave these what they are
        return base
    if base.mask is not None:
        return Sparsity("unstructured", Masked(base.mask, weight.mask))
    if weight.pattern.startswith("block:"):
        return Sparsity("block", weight.mask, weight.pattern.removeprefix("block:"))
    if ":" in weight.pattern:
        return Sparsity("n:m", weight.mask, weight.pattern)
    return Sparsity("unstructured", weight.mask)


def _transposed(base: Sparsity, weight: Transposed) -> Sparsity:
    if base in (DENSE, UNKNOWN) or weight.permutation != (1, 0) or base.mask is None:
        return base if base == DENSE else UNKNOWN
    if base.kind in LINES:
        return Sparsity(LINES[1 - LINES.index(base.kind)], base.mask)
    detail = base.detail
    if base.kind == "n:m":
        ratio, _, axis = base.detail.partition("@")
        detail = f"{ratio}@{1 - int(axis or 0)}"
    elif base.kind == "block":
        height, _, width = base.detail.partition("x")
        detail = f"{width}x{height}"
    return Sparsity(base.kind, Transposed(base.mask, (1, 0)), detail)


def _cut(base: Sparsity, weight: Sliced | Taken) -> Sparsity:
    if base.kind in LINES and base.mask is not None:
        axis = LINES.index(base.kind)
        return base if weight.axis != axis else Sparsity(base.kind, dataclasses.replace(weight, base=base.mask, axis=0))
    if base in (DENSE, UNKNOWN) or base.mask is None:
        return base
    # Groups and blocks are cut anywhere: what is left of them has no name.
    return Sparsity("unstructured", dataclasses.replace(weight, base=base.mask))


def _concatenated(weight: Concatenated) -> Sparsity:
    found = [sparsity_of(part) for part in weight.parts]
    if all(each == DENSE for each in found):
        return DENSE
    (kind, *others) = {each.kind for each in found if each != DENSE}
    if others or len(weight.shape) != 2 or kind == "unknown":
        return UNKNOWN
    if kind in LINES:
        axis = LINES.index(kind)
        if weight.axis != axis:
            return found[0] if all(each == found[0] for each in found) else UNKNOWN
        masks = [
            each.mask if each.mask is not None else dense(np.ones(part.shape[axis], np.bool_))
            for each, part in zip(found, weight.parts, strict=True)
        ]
        return Sparsity(kind, Concatenated(tuple(masks), 0))
    full = [each.mask for each in found if each.mask is not None]
    return Sparsity("unstructured", Concatenated(tuple(full), weight.axis)) if len(full) == len(found) else UNKNOWN
