"""Products with stored non-zeros only. What is not stored is neither read nor multiplied, and costs nothing."""

from __future__ import annotations

import math

import numpy as np

from cgptc.backends.wafer.arithmetic import formats
from cgptc.backends.wafer.arithmetic.formats import Array, Format
from cgptc.backends.wafer.arithmetic.instructions import Call, Price, Shape, instruction, shape_rule
from cgptc.backends.wafer.faults import ProgramError

UNUSED = -1
"""The place of an entry that a PE does not need."""


def sparse_cycles(price: Price) -> int:
    """By rows ``64.7 R + e (33.0 + 1.27 M)``, by columns ``118 K + e (37.2 + 1.24 M)``, fitted to published runs; see ``docs/machine.md``.

    R are outputs, K inputs, M rows of x, e the entries stored: those of the PE that has most, as shapes are the same in all PEs.
    """
    (m, outputs), inputs, entries = price.shape, price.inputs[1][1], price.inputs[2][0]
    machine = price.machine
    if price.parameters["order"] == "rows":
        return math.ceil(machine.sparse_row_cycles * outputs + entries * (machine.sparse_entry_cycles + machine.sparse_mac_cycles * m))
    per_entry = machine.sparse_column_entry_cycles + machine.sparse_column_mac_cycles * m
    return math.ceil(machine.sparse_column_start_cycles * inputs + entries * per_entry)


@instruction(
    "sparse_gemm",
    inputs=4,
    parameters=("order",),
    cycles=sparse_cycles,
    csl="@map @fmac indexed",
    accumulates=True,
    integers=(3,),
    macs=lambda price: price.inputs[2][0] * price.shape[0],
)
def _sparse_gemm(call: Call) -> Array:
    """``total [m, n] + x [m, k] @ weight`` where ``weight[place % k, place // k]`` is ``values[e]``, entry by entry."""
    total, x, values, places = call.inputs
    if call.parameters["order"] not in ("rows", "columns"):
        raise ProgramError("operands", f"'sparse_gemm' goes by rows or columns, not by {call.parameters['order']!r}")
    result = np.array(total)
    inputs = x.shape[-1]
    for entry in range(values.shape[-1]):
        place = places[..., entry]
        used = place != UNUSED
        at = np.where(used, place, 0).astype(np.int64)[..., None, None]
        outputs = np.broadcast_to(at // inputs, (*result.shape[:-1], 1))
        old = np.take_along_axis(result, outputs, -1)
        taken = np.take_along_axis(x, np.broadcast_to(at % inputs, (*x.shape[:-1], 1)), -1)
        new = formats.multiply_add(call.target, old, taken, values[..., entry][..., None, None])
        np.put_along_axis(result, outputs, np.where(used[..., None, None], new, old), -1)
    return result


def block_cycles(price: Price) -> int:
    """A dense product of its own for every stored block, descriptors loaded anew for each."""
    m, (blocks, deep, wide) = price.shape[0], price.inputs[2]
    across = price.machine.mac_cycles(price.dtype, m * deep, wide, aligned=True)
    return blocks * min(across, price.machine.mac_cycles(price.dtype, deep * wide, m, aligned=True))


@instruction(
    "block_gemm",
    inputs=4,
    cycles=block_cycles,
    csl="@map @fmac blocks",
    accumulates=True,
    integers=(3,),
    macs=lambda price: math.prod(price.inputs[2]) * price.shape[0],
)
def _block_gemm(call: Call) -> Array:
    """``total [m, n] + x [m, k] @ weight`` of which ``values [blocks, deep, wide]`` are stored.

    Block ``place`` stands at row ``place % (k / deep)`` and column ``place // (k / deep)`` of blocks; the last ones may reach beyond n.
    """
    total, x, values, places = call.inputs
    blocks, deep, wide = values.shape[-3:]
    result = np.array(total)
    rows = math.ceil(x.shape[-1] / deep)
    for block in range(blocks):
        place = places[..., block]
        used = (place != UNUSED)[..., None, None]
        at = np.where(used[..., 0, 0], place, 0).astype(np.int64)[..., None, None]
        columns = at // rows * wide + np.arange(wide)
        inside = used & (columns < result.shape[-1])
        columns = np.broadcast_to(np.where(columns < result.shape[-1], columns, 0), (*result.shape[:-1], wide))
        old = np.take_along_axis(result, columns, -1)
        new = old
        for k in range(deep):
            row = at % rows * deep + k
            taken = np.take_along_axis(x, np.broadcast_to(np.where(row < x.shape[-1], row, 0), (*x.shape[:-1], 1)), -1)
            added = formats.multiply_add(call.target, new, taken, values[..., block, k, :][..., None, :])
            new = np.where(row < x.shape[-1], added, new)
        for column in range(wide):
            kept = np.broadcast_to(inside[..., column : column + 1], old[..., column : column + 1].shape)
            where = columns[..., column : column + 1]
            previous = np.take_along_axis(result, where, -1)
            np.put_along_axis(result, where, np.where(kept, new[..., column : column + 1], previous), -1)
    return result


@shape_rule("sparse_gemm")
def _sparse_rule(shape: Shape, inputs: tuple[Shape, ...]) -> str | None:
    total, x, values, places = inputs
    fits = len(shape) == 2 and total == shape and len(x) == 2 and x[0] == shape[0] and len(values) == 1 and places == values
    return None if fits else f"{values} entries at {places} with {x} do not add to {shape} from {total}"


@shape_rule("block_gemm")
def _block_rule(shape: Shape, inputs: tuple[Shape, ...]) -> str | None:
    total, x, values, places = inputs
    fits = len(shape) == 2 and total == shape and len(x) == 2 and x[0] == shape[0] and len(values) == 3 and places == values[:1]
    return None if fits else f"{values} blocks at {places} with {x} do not add to {shape} from {total}"


def absorb(target: Format, total: Array, x: Array, weight: Array) -> Array:
    """``total [m, n] + x [m, k] @ weight [k, n]``, k by k, as non-zeros arrive: what is 0 is neither multiplied nor added.

    Leading axes are PEs; operands are carriers of ``target``.
    """
    for k in range(x.shape[-1]):
        row = weight[..., k, None, :]
        added = formats.multiply_add(target, total, x[..., :, k, None], row)
        total = np.where(row != 0, added, total)
    return total
