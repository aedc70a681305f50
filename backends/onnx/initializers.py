"""The model's initializers: small constants held in the model, weights by reference until they are written.

One content key gives one initializer, so tied weights are stored once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx_ir

from cgptc.backends.onnx.element_types import TO_ONNX
from cgptc.backends.onnx.naming import Namer
from cgptc.backends.onnx.shapes import onnx_shape
from cgptc.ir.dtypes import from_numpy
from cgptc.ir.op import Array
from cgptc.ir.weights import Dense, Stored, Weight


@dataclass
class Initializers:
    """Initializers in order of first use. ``weights`` has those whose bytes are still to be read."""

    namer: Namer
    used_keys: frozenset[str] = frozenset()
    """Content keys of all weights that the graph uses as they are."""
    weights: dict[onnx_ir.Value, Weight] = field(default_factory=dict)
    constants: list[onnx_ir.Value] = field(default_factory=list)
    _by_key: dict[str, onnx_ir.Value] = field(default_factory=dict)
    _by_content: dict[tuple[str, tuple[int, ...], bytes], onnx_ir.Value] = field(default_factory=dict)

    @property
    def values(self) -> list[onnx_ir.Value]:
        """All of them: weights first."""
        return [*self.weights, *self.constants]

    def keep(self, used: Collection[onnx_ir.Value]) -> None:
        """Drop those that nothing uses."""
        self.weights = {value: weight for value, weight in self.weights.items() if value in used}
        self.constants = [value for value in self.constants if value in used]

    def small(self, array: Array) -> onnx_ir.Value:
        """A constant held in the model itself."""
        dtype = from_numpy(array.dtype)
        content = (dtype.name, array.shape, array.tobytes())
        if content not in self._by_content:
            name = self.namer.unique(f"constant/{dtype}/{_readable(array)}")
            tensor = onnx_ir.Tensor(np.array(array), dtype=TO_ONNX[dtype], name=name)
            self._by_content[content] = onnx_ir.Value(
                name=name, type=onnx_ir.TensorType(TO_ONNX[dtype]), shape=onnx_ir.Shape(array.shape), const_value=tensor
            )
            self.constants.append(self._by_content[content])
        return self._by_content[content]

    def default_input(self, name: str, array: Array) -> onnx_ir.Value:
        """An initializer that the model also has as an input, so that a caller may give another value."""
        dtype = TO_ONNX[from_numpy(array.dtype)]
        value = onnx_ir.Value(
            name=name,
            type=onnx_ir.TensorType(dtype),
            shape=onnx_ir.Shape(array.shape),
            const_value=onnx_ir.Tensor(array, dtype=dtype, name=name),
        )
        self.constants.append(value)
        return value

    def is_used(self, weight: Weight) -> bool:
        """Whether the graph also uses this weight as it is."""
        return weight.key in self.used_keys

    def weight(self, weight: Weight) -> onnx_ir.Value:
        """A weight; nothing is read."""
        if isinstance(weight, Dense):
            return self.small(weight.array)
        if weight.key not in self._by_key:
            value = onnx_ir.Value(
                name=self.namer.unique(_weight_name(weight)),
                type=onnx_ir.TensorType(TO_ONNX[weight.dtype]),
                shape=onnx_shape(weight.type.shape),
            )
            self._by_key[weight.key] = value
            self.weights[value] = weight
        return self._by_key[weight.key]


def _readable(array: Array) -> str:
    if array.size > 4:
        return "x".join(map(str, array.shape))
    numbers = ",".join(str(item) for item in array.reshape(-1).tolist())
    return f"[{numbers}]" if array.ndim else numbers


def _weight_name(weight: Weight) -> str:
    """The stored tensor's name; an expression adds what it does: ``h.0.attn.weight.transposed``."""
    suffix = ""
    while not isinstance(weight, Stored):
        suffix = f".{type(weight).__name__.lower()}{suffix}"
        parts: list[Weight] = []
        for attribute in dataclasses.fields(weight):
            content = getattr(weight, attribute.name)
            parts += [part for part in (content if isinstance(content, tuple) else (content,)) if isinstance(part, Weight)]
        if not parts:
            return f"constant/weight{suffix}"
        weight = parts[0]
    return f"{weight.name}{suffix}"
