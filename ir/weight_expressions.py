"""Lazy expressions over weights.

Each is a frozen value that knows its type and content key without reading, and gives its rows on demand. Peak memory is stated with each;
"the result" is what was asked for, and everything else is bounded by one row block (`BLOCK_BYTES`). Build them with the lower-case
functions at the end: they simplify, so that repeated rewriting does not nest deeper and deeper.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from cgptc.ir.diagnostics import require
from cgptc.ir.dtypes import DType, f64
from cgptc.ir.op import Array, widen
from cgptc.ir.types import TensorType
from cgptc.ir.weights import Weight, WeightStore, content_key

MAX_DEPTH = 64
"""Levels that expressions may nest."""

EXPRESSIONS: dict[str, type[Expression]] = {}
"""Every expression by its name in the text form."""


@dataclass(frozen=True)
class Expression(Weight):
    """Base of all expressions: fields that hold weights are operands, the others are attributes."""

    name: ClassVar[str]
    stays_rounded: ClassVar[bool] = False
    """Whether its numbers are defined by rounding: evaluated as stored even in float64, and converted afterwards."""

    def __init_subclass__(cls, name: str | None = None) -> None:
        super().__init_subclass__()
        if name is None:  # an intermediate class
            return
        if name in EXPRESSIONS and EXPRESSIONS[name].__qualname__ != cls.__qualname__:
            raise TypeError(f"weight expression '{name}' is already defined by {EXPRESSIONS[name].__qualname__}")
        cls.name = name
        EXPRESSIONS[name] = cls

    def __post_init__(self) -> None:
        require(self.depth <= MAX_DEPTH, f"'{self.name}' nests more than {MAX_DEPTH} levels of weight expressions")
        require(all(size >= 0 for size in self._type.static_shape), f"'{self.name}' would have the shape {list(self._type.shape)}")

    @abstractmethod
    def infer(self) -> TensorType:
        """The type; raises `OpTypeError` for operands or attributes that do not fit."""

    @property
    def type(self) -> TensorType:
        return self._type

    @property
    def key(self) -> str:
        return self._key

    @cached_property
    def _type(self) -> TensorType:
        return self.infer()

    @cached_property
    def _key(self) -> str:
        attributes = [str(getattr(self, field.name)) for field in dataclasses.fields(self) if not _weights(getattr(self, field.name))]
        return content_key(self.name, *(operand.key for operand in self.operands), *attributes)

    @property
    def operands(self) -> tuple[Weight, ...]:
        """The weights that it is made of, in order."""
        return tuple(weight for field in dataclasses.fields(self) for weight in _weights(getattr(self, field.name)))

    @cached_property
    def depth(self) -> int:
        """Levels of expressions, this one included."""
        return 1 + max((depth(operand) for operand in self.operands), default=0)

    @cached_property
    def scattered(self) -> bool:
        """Whether a few rows cost a pass over a whole operand."""
        return any(is_scattered(operand) for operand in self.operands)

    def blocks(self, store: WeightStore) -> Iterator[Array]:
        """The whole tensor, a few rows at a time; evaluated once and then cut where rows are scattered (peak: the result)."""
        if not self.scattered:
            yield from super().blocks(store)
            return
        whole = self.read(store)
        for start, stop in self.block_bounds:
            yield whole[start:stop] if self.shape else whole


def _weights(value: object) -> tuple[Weight, ...]:
    if isinstance(value, Weight):
        return (value,)
    return tuple(item for item in value if isinstance(item, Weight)) if isinstance(value, tuple) else ()


def depth(weight: Weight) -> int:
    """Levels of expressions; 0 for a leaf."""
    return weight.depth if isinstance(weight, Expression) else 0


def is_scattered(weight: Weight) -> bool:
    """Whether a few rows of ``weight`` cost a pass over a whole operand."""
    return isinstance(weight, Expression) and weight.scattered


def leaves(weight: Weight) -> tuple[Weight, ...]:
    """The stored and dense weights that ``weight`` is made of, each once, in order."""
    found: dict[Weight, None] = {}
    pending = [weight]
    while pending:
        current = pending.pop()
        if isinstance(current, Expression):
            pending.extend(reversed(current.operands))
        else:
            found[current] = None
    return tuple(found)


def widened(weight: Weight) -> Weight:
    """The same expression evaluated in float64: floating leaves are converted, nothing is rounded on the way.

    Weights that are not floating point stay as they are.
    """
    if isinstance(weight, Converted) and weight.to.is_float:
        inner = widened(weight.base)
        return inner if inner.dtype is f64 else Converted(inner, f64)
    if not isinstance(weight, Expression) or weight.stays_rounded:
        return Converted(weight, f64) if weight.dtype.is_float and weight.dtype is not f64 else weight
    changes: dict[str, Weight | tuple[Weight, ...]] = {}
    for field in dataclasses.fields(weight):
        value = getattr(weight, field.name)
        if isinstance(value, Weight):
            changes[field.name] = widened(value)
        elif _weights(value):
            changes[field.name] = tuple(map(widened, value))
    return dataclasses.replace(weight, **changes)


def _row_elements(shape: Sequence[int]) -> int:
    count = 1
    for size in shape[1:]:
        count *= size
    return count


def _check_axis(name: str, axis: int, rank: int) -> None:
    require(0 <= axis < rank, f"'axis' of '{name}' must be between 0 and {rank - 1}, got {axis}")


@dataclass(frozen=True)
class Transposed(Expression, name="transposed"):
    """``numpy.transpose(base, permutation)``. Any rows read the base once, block by block; peak: the result and a block of the base."""

    base: Weight
    permutation: tuple[int, ...]

    def infer(self) -> TensorType:
        shape = self.base.shape
        require(
            sorted(self.permutation) == list(range(len(shape))),
            f"'permutation' must order the {len(shape)} axes of the base, got {list(self.permutation)}",
        )
        return self.base.type.with_shape(tuple(shape[axis] for axis in self.permutation))

    @cached_property
    def scattered(self) -> bool:
        return (bool(self.permutation) and self.permutation[0] != 0) or is_scattered(self.base)

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        if not self.permutation or self.permutation[0] == 0:
            return np.asarray(self.base.rows(store, start, stop).transpose(self.permutation), order="C")
        result = np.empty((stop - start, *self.shape[1:]), self.dtype.numpy)
        by_base = result.transpose(np.argsort(self.permutation))  # a view with the base's axes
        done = 0
        for block in self.base.blocks(store):
            by_base[done : done + len(block)] = block[(slice(None),) * self.permutation[0] + (slice(start, stop),)]
            done += len(block)
        return result


@dataclass(frozen=True)
class Reshaped(Expression, name="reshaped"):
    """``numpy.reshape(base, new_shape)``. Peak: the base's rows that cover the result."""

    base: Weight
    new_shape: tuple[int, ...]

    def infer(self) -> TensorType:
        type_ = TensorType(self.base.dtype, self.new_shape)
        require(all(size >= 0 for size in self.new_shape), f"'new_shape' must not be negative, got {list(self.new_shape)}")
        require(type_.size == self.base.type.size, f"cannot reshape {self.base.type} to {list(self.new_shape)}")
        return type_

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        shape = (stop - start, *self.new_shape[1:]) if self.new_shape else ()
        base_row = _row_elements(self.base.shape)
        if not self.new_shape or not base_row or not _row_elements(self.new_shape):
            return self.base.read(store).reshape(-1)[: int(np.prod(shape, dtype=np.int64))].reshape(shape)
        first, last = start * _row_elements(self.new_shape), stop * _row_elements(self.new_shape)
        base_start = first // base_row
        flat = self.base.rows(store, base_start, -(-last // base_row)).reshape(-1)
        return flat[first - base_start * base_row : last - base_start * base_row].reshape(shape)


@dataclass(frozen=True)
class Concatenated(Expression, name="concatenated"):
    """``numpy.concatenate(parts, axis)``. Peak: the result and one part's share of it."""

    parts: tuple[Weight, ...]
    axis: int

    def infer(self) -> TensorType:
        require(bool(self.parts), "'concatenated' needs at least one part")
        first = self.parts[0]
        _check_axis("concatenated", self.axis, len(first.shape))
        for part in self.parts:
            fits = len(part.shape) == len(first.shape) and part.dtype is first.dtype
            fits = fits and all(a == b or i == self.axis for i, (a, b) in enumerate(zip(part.shape, first.shape, strict=True)))
            require(fits, f"cannot concatenate {part.type} to {first.type} along axis {self.axis}")
        length = sum(part.shape[self.axis] for part in self.parts)
        return first.type.with_shape((*first.shape[: self.axis], length, *first.shape[self.axis + 1 :]))

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        result = np.empty((stop - start, *self.shape[1:]), self.dtype.numpy)
        offset = 0
        for part in self.parts:
            length = part.shape[self.axis]
            if self.axis == 0:
                low, high = max(start, offset), min(stop, offset + length)
                if low < high:
                    result[low - start : high - start] = part.rows(store, low - offset, high - offset)
            else:
                result[(slice(None),) * self.axis + (slice(offset, offset + length),)] = part.rows(store, start, stop)
            offset += length
        return result


@dataclass(frozen=True)
class Sliced(Expression, name="sliced"):
    """``base[start:stop:step]`` along one axis, within bounds, ``step`` at least 1. Peak: the result and the rows it is cut from."""

    base: Weight
    axis: int
    start: int
    stop: int
    step: int = 1

    def infer(self) -> TensorType:
        shape = self.base.shape
        _check_axis("sliced", self.axis, len(shape))
        size = shape[self.axis]
        require(self.step >= 1, f"'step' must be at least 1, got {self.step}")
        require(0 <= self.start <= self.stop <= size, f"[{self.start}:{self.stop}] is outside of an axis of {size}")
        return self.base.type.with_shape((*shape[: self.axis], len(self._indices), *shape[self.axis + 1 :]))

    @property
    def _indices(self) -> range:
        return range(self.start, self.stop, self.step)

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        if self.axis == 0:
            return _pick_rows(self.base, store, self._indices[start:stop])
        return self.base.rows(store, start, stop)[(slice(None),) * self.axis + (slice(self.start, self.stop, self.step),)]


@dataclass(frozen=True)
class Taken(Expression, name="taken"):
    """``numpy.take(base, indices, axis)``, indices in range and not negative. Peak: the result and the rows it is cut from."""

    base: Weight
    axis: int
    indices: tuple[int, ...]

    def infer(self) -> TensorType:
        shape = self.base.shape
        _check_axis("taken", self.axis, len(shape))
        size = shape[self.axis]
        outside = next((index for index in self.indices if not 0 <= index < size), None)
        require(outside is None, f"index {outside} is outside of an axis of {size}")
        return self.base.type.with_shape((*shape[: self.axis], len(self.indices), *shape[self.axis + 1 :]))

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        if self.axis == 0:
            return _pick_rows(self.base, store, self.indices[start:stop])
        return np.take(self.base.rows(store, start, stop), self.indices, axis=self.axis)


def _pick_rows(base: Weight, store: WeightStore, indices: Sequence[int]) -> Array:
    """Rows of ``base`` in any order: runs of neighbours are read together; a scattered base is read once, over the span."""
    if is_scattered(base) and len(indices):
        low, high = min(indices), max(indices)
        return np.take(base.rows(store, low, high + 1), np.asarray(indices) - low, axis=0)
    result = np.empty((len(indices), *base.shape[1:]), base.dtype.numpy)
    done = 0
    while done < len(indices):
        length = 1
        while done + length < len(indices) and indices[done + length] == indices[done] + length:
            length += 1
        result[done : done + length] = base.rows(store, indices[done], indices[done] + length)
        done += length
    return result


@dataclass(frozen=True)
class Scaled(Expression, name="scaled"):
    """``base`` times ``factor`` (rank 1) along one axis, computed in at least float32 and rounded once. Peak: twice the result, wide."""

    base: Weight
    factor: Weight
    axis: int

    def infer(self) -> TensorType:
        _check_axis("scaled", self.axis, len(self.base.shape))
        require(self.base.dtype.is_float, f"'scaled' takes floating-point weights, got {self.base.type}")
        expected = TensorType(self.base.dtype, (self.base.shape[self.axis],))
        require(self.factor.type == expected, f"'factor' must be {expected}, got {self.factor.type}")
        return self.base.type

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        factor = self.factor.rows(store, start, stop) if self.axis == 0 else self.factor.read(store)
        factor = widen(factor).reshape((-1, *(1,) * (len(self.base.shape) - self.axis - 1)))
        with np.errstate(all="ignore"):
            product: Array = widen(self.base.rows(store, start, stop)) * factor
            return product.astype(self.dtype.numpy)


@dataclass(frozen=True)
class Added(Expression, name="added"):
    """``left + right`` of one type, computed in at least float32 and rounded once. Peak: twice the result, wide."""

    left: Weight
    right: Weight

    def infer(self) -> TensorType:
        require(self.left.dtype.is_float, f"'added' takes floating-point weights, got {self.left.type}")
        require(self.left.type == self.right.type, f"cannot add {self.right.type} to {self.left.type}")
        return self.left.type

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        with np.errstate(all="ignore"):
            total = widen(self.left.rows(store, start, stop)) + widen(self.right.rows(store, start, stop))
            return np.asarray(total).astype(self.dtype.numpy)


@dataclass(frozen=True)
class Converted(Expression, name="converted"):
    """``base`` in another element type, rounded to nearest even; never float to integer. Peak: the result and the base's rows."""

    base: Weight
    to: DType

    def infer(self) -> TensorType:
        require(self.to.is_float or not self.base.dtype.is_float, f"{self.base.type} is not converted to {self.to}")
        return self.base.type.with_dtype(self.to)

    @cached_property
    def depth(self) -> int:
        # A converted leaf is as good as a leaf: `widened` must not deepen an expression.
        return 1 + depth(self.base) if isinstance(self.base, Expression) else 0

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        with np.errstate(all="ignore"):
            return self.base.rows(store, start, stop).astype(self.to.numpy)


# Constructors that simplify


def transposed(base: Weight, permutation: Sequence[int]) -> Weight:
    """`Transposed`, or ``base`` where the permutation keeps the order; transposes of transposes are composed."""
    order = tuple(permutation)
    if order == tuple(range(len(base.shape))):
        return base
    if isinstance(base, Transposed):
        require(sorted(order) == list(range(len(base.shape))), f"'permutation' must order {len(base.shape)} axes, got {list(order)}")
        return transposed(base.base, [base.permutation[axis] for axis in order])
    return Transposed(base, order)


def reshaped(base: Weight, shape: Sequence[int]) -> Weight:
    """`Reshaped`, or ``base`` where it has the shape already; reshapes of reshapes are merged."""
    if isinstance(base, Reshaped):
        Reshaped(base, tuple(shape))  # the sizes must fit as they stand
        base = base.base
    return base if base.shape == tuple(shape) else Reshaped(base, tuple(shape))


def concatenated(parts: Sequence[Weight], axis: int) -> Weight:
    """`Concatenated`, or the only part; parts that are concatenated along the same axis are spliced in."""
    flat: list[Weight] = []
    for part in parts:
        flat += part.parts if isinstance(part, Concatenated) and part.axis == axis else (part,)
    whole = Concatenated(tuple(flat), axis)
    return whole.parts[0] if len(whole.parts) == 1 else whole


def sliced(base: Weight, axis: int, start: int, stop: int, step: int = 1) -> Weight:
    """`Sliced`, or ``base`` where all is kept; slices of slices along one axis are composed."""
    cut = Sliced(base, axis, start, stop, step)
    if cut.shape == base.shape:
        return base
    if isinstance(base, Sliced) and base.axis == axis:
        indices = range(base.start, base.stop, base.step)[start:stop:step]
        first = min(indices.start, base.stop)
        return Sliced(base.base, axis, first, max(first, min(indices.stop, base.stop)), indices.step)
    return cut


def taken(base: Weight, axis: int, indices: Sequence[int]) -> Weight:
    """`Taken`, or a slice where the indices follow each other; takes of takes along one axis are composed."""
    kept = tuple(indices)
    pick = Taken(base, axis, kept)
    if isinstance(base, Taken) and base.axis == axis:
        return taken(base.base, axis, [base.indices[index] for index in kept])
    if kept and kept == tuple(range(kept[0], kept[0] + len(kept))):
        return sliced(base, axis, kept[0], kept[0] + len(kept))
    return pick


def scaled(base: Weight, factor: Weight, axis: int) -> Weight:
    """`Scaled`."""
    return Scaled(base, factor, axis)


def added(left: Weight, right: Weight) -> Weight:
    """`Added`."""
    return Added(left, right)


def converted(base: Weight, to: DType) -> Weight:
    """`Converted`, or ``base`` where it has the type already."""
    return base if base.dtype is to else Converted(base, to)
