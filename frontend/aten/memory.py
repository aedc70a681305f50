"""Tensors that share memory, while importing: what in-place ops write to and views read from.

Exported programs are not functional: ``mask[:, 0] = 1`` is a view and a write to it. A `Tensor` is one exported tensor; a view knows
how to read itself from its base, and how its base looks after a write to it. Values are immutable, so a write gives the base a new
value and bumps its version, and views are read again when they are next used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cgptc.frontend.aten.table import UnsupportedError
from cgptc.ir.graph import Value


@dataclass(eq=False)
class View:
    """How a tensor lies in its base: ``read(base value)``, ``write(base value, new value) -> base value`` (None: cannot be written)."""

    base: Tensor
    read: Callable[[Value], Value]
    write: Callable[[Value, Value], Value] | None
    certain: bool = True  # False: for some strides this is a copy


@dataclass(eq=False)
class Tensor:
    """One exported tensor. ``frozen`` names what must not be written to: a parameter, a buffer, an input."""

    value: Value
    view: View | None = None
    version: int = 0
    frozen: str = ""

    def _chain(self) -> list[Tensor]:
        """From the root to this tensor."""
        chain = [self]
        while chain[-1].view is not None:
            chain.append(chain[-1].view.base)
        return chain[::-1]

    def read(self) -> Value:
        """The current value."""
        root, *views = self._chain()
        if self.version != root.version:
            value = root.value
            for tensor in views:
                assert tensor.view is not None
                if tensor.version != root.version:
                    if not tensor.view.certain:
                        raise UnsupportedError("reads, after an in-place write, a tensor that may or may not share the written memory")
                    tensor.value = tensor.view.read(value)
                    tensor.version = root.version
                value = tensor.value
        return self.value

    def write(self, new: Value) -> None:
        """Give the tensor, and all that it is a view of, new content."""
        self.read()
        root, *views = self._chain()
        if root.frozen:
            raise UnsupportedError(f"writes in place to {root.frozen}")
        for tensor in views[:-1]:
            tensor.read()
        version = root.version + 1
        for tensor in reversed(views):
            assert tensor.view is not None
            if tensor.view.write is None or not tensor.view.certain:
                raise UnsupportedError("writes in place to a view that cannot be traced to its base")
            old = tensor.view.base.value
            tensor.value, tensor.version = new, version
            new = tensor.view.write(old, new)
        root.value, root.version = new, version
