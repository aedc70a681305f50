"""What a user gives to run, completed and checked against the model's interface."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches

import numpy as np

from cgptc.ir.diagnostics import UsageError
from cgptc.ir.dims import Dim, Expr, evaluate, solve, symbols
from cgptc.ir.op import Array
from cgptc.runtime.interface import IDS, MASK, PAST, Interface, Port

MOST_ELEMENTS = 1 << 28
"""No mask or past that is made here is larger: what an interface says of it may be made up."""


def complete_inputs(interface: Interface, given: Mapping[str, Array]) -> dict[str, Array]:
    """Every input by name. An absent mask is all ones, an absent past is empty; nothing else has a default.

    `UsageError` names what is unknown, missing, of another type or shape, beyond a size's bounds, or padded elsewhere than on the left.
    """
    names = [port.name for port in interface.inputs]
    for name in given:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            fix = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(names)}"
            raise UsageError("unknown-input", f"the model has no input '{name}'", fix=fix)
    arrays = {port.name: _typed(port, given[port.name]) for port in interface.inputs if port.name in given}
    sizes = _sizes(interface, arrays)
    pasts = {past for past, _ in interface.pasts}
    if pasts and not pasts & set(arrays):
        sizes.setdefault(PAST, 0)
    for port in interface.inputs:
        if port.name in arrays:
            continue
        if port.name != MASK and not (port.name in pasts and sizes.get(PAST) == 0):
            raise UsageError("missing-input", f"the input '{port.name}' is not given and has no natural default", fix=f"give a {port.type}")
        arrays[port.name] = _default(port, sizes)
    _check_bounds(interface, sizes)
    if interface.cached and MASK in arrays:
        require_left_padding(arrays[MASK])
    return {name: arrays[name] for name in names}


def require_left_padding(mask: Array) -> None:
    """`UsageError` unless each row of a mask is padding first and tokens after: a cache has no other form."""
    kept = mask.astype(bool)
    torn = (kept[:, :-1] & ~kept[:, 1:]).any(axis=1)
    if torn.any():
        what = f"row {int(np.argmax(torn))} of '{MASK}' has padding inside or after its tokens"
        raise UsageError("padding", what, fix="pad on the left, or compile with --cache none")


def require_known_ids(ids: Array, vocabulary: object) -> None:
    """`UsageError` unless each id is one of the model's: a negative one would be taken for one of the last."""
    wrong = ids[(ids < 0) | (ids >= vocabulary)] if isinstance(vocabulary, int) else ids[ids < 0]
    if wrong.size:
        known = f"0 to {vocabulary - 1}" if isinstance(vocabulary, int) else "not negative"
        raise UsageError("bad-token", f"'{IDS}' has the id {wrong[0]}", fix=f"ids are {known}")


def _typed(port: Port, array: Array) -> Array:
    """The array in the port's element type, where no value changes by it, and of its rank."""
    array = np.asarray(array)
    wanted = port.type.dtype.numpy
    if array.ndim != port.type.rank:
        raise UsageError("wrong-shape", f"'{port.name}' must be {port.type}, got {array.ndim} axes {list(array.shape)}")
    if array.dtype == wanted:
        return array
    if array.dtype.kind in "iub" and wanted.kind in "iub":
        converted = array.astype(wanted)
        if (converted == array).all():
            return converted
    raise UsageError("wrong-type", f"'{port.name}' must be {port.type.dtype}, got {array.dtype}", fix=f"convert it to {wanted}")


def _sizes(interface: Interface, arrays: Mapping[str, Array]) -> dict[str, int]:
    """The size of each symbol that the given arrays decide."""
    sizes: dict[str, int] = {}
    axes: list[tuple[Port, int, Dim, int]] = [
        (port, axis, dim, arrays[port.name].shape[axis])
        for port in interface.inputs
        if port.name in arrays
        for axis, dim in enumerate(port.type.shape)
    ]
    while axes:
        left: list[tuple[Port, int, Dim, int]] = []
        for port, axis, dim, size in axes:
            if isinstance(dim, Expr) and len(set(symbols([dim])) - set(sizes)) > 1:
                left.append((port, axis, dim, size))  # another axis may decide one of its symbols first
                continue
            found = solve(dim, size, sizes)
            if found is None or any(value < 0 for value in found.values()):
                known = {name: value for name, value in sizes.items() if name in symbols([dim])}
                because = f" ({', '.join(f'{name} is {value}' for name, value in known.items())})" if known else ""
                raise UsageError("wrong-shape", f"axis {axis} of '{port.name}' must be {dim}, got {size}{because}")
            sizes |= found
        if len(left) == len(axes):
            break
        axes = left
    return sizes


def _default(port: Port, sizes: Mapping[str, int]) -> Array:
    try:
        shape = tuple(evaluate(dim, sizes) for dim in port.type.shape)
    except KeyError as error:
        what = f"the input '{port.name}' is not given, and nothing given decides its size '{error.args[0]}'"
        raise UsageError("missing-input", what, fix=f"give a {port.type}") from None
    except ZeroDivisionError:
        shape = (-1,)
    if any(size < 0 for size in shape) or math.prod(max(size, 1) for size in shape) > MOST_ELEMENTS:
        what = f"the input '{port.name}' is not given, and no array of these sizes is a {port.type}"
        raise UsageError("missing-input", what, fix="give it, or other sizes")
    return np.ones(shape, port.type.dtype.numpy) if port.name == MASK else np.zeros(shape, port.type.dtype.numpy)


def _check_bounds(interface: Interface, sizes: Mapping[str, int]) -> None:
    for name, symbol in interface.symbols.items():
        if name in sizes and not symbol.low <= sizes[name] <= symbol.high:
            what = f"'{name}' is {sizes[name]}, and the model was compiled for {symbol.low} to {symbol.high}"
            wider = f"{min(symbol.low, sizes[name])}..{max(symbol.high, sizes[name])}"
            raise UsageError("out-of-bounds", what, fix=f"give what fits, or compile with --dynamic {name}={wider}")
