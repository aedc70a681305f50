"""Ops that change no number: copies, detaching, assertions, dropout at inference."""

from __future__ import annotations

from typing import Any

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import RefusedError, aten
from cgptc.ir.graph import Value


def write_all(emit: Emit, base: Value, new: Value) -> Value:
    """After a write to all of a tensor, it is what was written."""
    return new


@aten("clone", "lift_fresh_copy", "lift")
def clone(emit: Emit, self: Value) -> Value:
    return self


@aten("detach", "detach_", "alias", "lift_fresh", write=write_all)
def detach(emit: Emit, self: Value) -> Value:
    return self


@aten("contiguous", may_alias=True, write=write_all)
def contiguous(emit: Emit, self: Value) -> Value:
    return self


@aten("dropout", "feature_dropout", "alpha_dropout", write=lambda emit, base, new, p, train: new)
def dropout(emit: Emit, input: Value, p: float, train: bool) -> Value:
    if train and p > 0:
        raise RefusedError("drops elements at random; call the module's eval() before capture")
    return input


@aten("native_dropout")
def native_dropout(emit: Emit, input: Value, p: float, train: bool | None) -> tuple[Value, None]:
    return dropout(emit, input, p, bool(train)), None


def _no_result(emit: Emit, *args: Any, **kwargs: Any) -> None:
    """Checks sizes, types or data; the graph's types and bounds hold what it says of sizes and types."""


aten(
    "_assert_tensor_metadata",
    "_assert_scalar",
    "_assert_async",
    "_assert_async.msg",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
    "_print",
)(_no_result)


@aten("_functional_assert_scalar", "_functional_assert_async.msg", "_functional_sym_constrain_range")
def functional_assert(emit: Emit, *args: Any, **kwargs: Any) -> Any:
    return kwargs.get("dep_token")
