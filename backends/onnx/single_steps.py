"""A call of several new tokens as several calls of one, for forms of attention that refuse the former."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cgptc.backends.onnx.interface_names import IDS, MASK, SEQ, present_of
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.op import Array

if TYPE_CHECKING:
    from cgptc.backends.onnx.session import Port


class Stepwise(Protocol):
    """A cached model, in one piece or in stages."""

    @property
    def inputs(self) -> Sequence[Port]: ...

    @property
    def outputs(self) -> Sequence[Port]: ...

    @property
    def pasts(self) -> Sequence[Port]: ...

    def run_once(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...


def run_in_single_steps(session: Stepwise, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What one call would give: outputs of each token side by side, presents of the last. `UsageError` for inputs of an unknown meaning."""
    known = {IDS, MASK, *(port.name for port in session.pasts)}
    for port in session.inputs:
        if port.name not in known:
            raise UsageError(
                "several-tokens", f"a batch with a past takes one token per call, and input '{port.name}' cannot be split", fix="split it"
            )
    seq = inputs[IDS].shape[1]
    past = inputs[MASK].shape[1] - seq
    cache = {port.name: inputs[port.name] for port in session.pasts}
    steps: list[dict[str, Array]] = []
    for index in range(seq):
        ids, mask = inputs[IDS][:, index : index + 1], inputs[MASK][:, : past + index + 1]
        steps.append(session.run_once({**cache, IDS: ids, MASK: mask}))
        cache = {name: steps[-1][present_of(name)] for name in cache}
    result: dict[str, Array] = {}
    for port in session.outputs:
        axis = port.shape.index(SEQ) if SEQ in port.shape else None
        last = steps[-1][port.name]
        result[port.name] = last if axis is None else np.concatenate([step[port.name] for step in steps], axis=axis)
    return result
