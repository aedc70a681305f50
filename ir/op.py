"""What an operation is: one frozen dataclass that declares everything there is to know about it.

The fields are the attributes, the parameters of ``infer`` are the operands, and beside it stand ``evaluate`` (numpy, the
definition), ``cost``, ``axis_roles`` and, for composite operations, ``decompose``. No second list of arities,
shapes or semantics exists anywhere; printing, parsing, CSE and the verifier read the declaration.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from cgptc.ir.dims import Dim, Expr, evaluate, substitute, symbols
from cgptc.ir.dtypes import DType, f64
from cgptc.ir.types import TensorType

if TYPE_CHECKING:
    from cgptc.ir.builder import Builder
    from cgptc.ir.graph import Value

Array: TypeAlias = npt.NDArray[Any]
Inferred: TypeAlias = TensorType | tuple[TensorType, ...]
Evaluated: TypeAlias = Array | tuple[Array, ...]
Decomposed: TypeAlias = "Value | tuple[Value, ...] | None"


@dataclass(frozen=True)
class Cost:
    """Work of one node: floating-point operations (a multiply-accumulate is two) and bytes read and written."""

    flops: Dim = 0
    bytes: Dim = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


class Role(enum.Enum):
    """How results depend on an axis."""

    PARALLEL = "parallel"  # result element i needs operand elements i only, and is the same function of them for every i
    REDUCTION = "reduction"  # folded away, in any order: in operands, not in results
    MIXED = "mixed"  # result element i may need any element along the axis, or depend on i itself: softmax, norms, cumsum


@dataclass(frozen=True)
class Axis:
    """One axis of an operation's iteration space.

    ``operands[i]`` is its position in operand i (of all that the operation declares, absent ones included) and ``results[j]`` in
    result j; None where that tensor lacks it. An operand that lacks a parallel axis is broadcast along it; a result that lacks it does
    not depend on the operands that have it. An operand axis of size 1 that is stretched counts as lacking it.
    """

    role: Role
    operands: tuple[int | None, ...]
    results: tuple[int | None, ...]


@dataclass(frozen=True)
class Parameter:
    """An operand as ``infer`` declares it."""

    name: str
    optional: bool = False
    variadic: bool = False


OPS: dict[str, type[Op]] = {}
"""Every operation by its name in the text form."""


@dataclass(frozen=True)
class Op:
    """Base of all operations. Instances are values: equal attributes, equal op."""

    name: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    commutative: ClassVar[bool] = False

    infer: ClassVar[Callable[..., Inferred]]
    """``(*operand types) -> result type or types``. Raises `OpTypeError` for types it does not accept."""

    evaluate: ClassVar[Callable[..., Evaluated]]
    """``(*operand arrays) -> result array or arrays``: the definition. Optional operands that are absent are None."""

    def __init_subclass__(cls, name: str | None = None, commutative: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is None:  # an intermediate class, such as the base of all element-wise operations
            return
        if name in OPS and OPS[name].__qualname__ != cls.__qualname__:
            first = OPS[name]
            raise TypeError(f"operation '{name}' is already defined by {first.__module__}.{first.__qualname__}")
        cls.name = name
        cls.commutative = commutative
        cls.parameters = _parameters(cls)
        OPS[name] = cls

    def _pass_over(self, *types: TensorType | None) -> Cost:
        return Cost(flops=0, bytes=moved_bytes(*types, *result_types(self.infer(*types))))

    def _nothing_known(self, *types: TensorType | None) -> tuple[Axis, ...]:
        return ()

    def _primitive(self, build: Builder, *operands: Value | None) -> None:
        return None

    # Callables of any parameters, as `infer` and `evaluate`, so that each operation names its own operands.

    cost: ClassVar[Callable[..., Cost]] = _pass_over
    """``(*operand types) -> Cost``: the work; by default one pass over operands and results, and no arithmetic."""

    axis_roles: ClassVar[Callable[..., tuple[Axis, ...]]] = _nothing_known
    """``(*operand types) -> axes``: the iteration space. An operand axis that no entry mentions is mixed: nothing may be assumed of it."""

    decompose: ClassVar[Callable[..., Decomposed]] = _primitive
    """``(build, *operands) -> result value or values``: the same from simpler operations; None for a primitive."""

    def substitute(self, values: Mapping[str, Dim]) -> Op:
        """The op with symbols in its attributes replaced by name."""
        return self._map(lambda value: substitute(value, values) if isinstance(value, Expr) else value)

    def bind(self, sizes: Mapping[str, int]) -> Op:
        """The op with every symbolic attribute made an integer; KeyError names a symbol without a size."""
        return self._map(lambda value: evaluate(value, sizes) if isinstance(value, Expr) else value)

    def widened(self) -> Op:
        """The op with every floating-point dtype among its attributes made f64, to evaluate a graph in float64."""
        return self._map(lambda value: f64 if isinstance(value, DType) and value.is_float else value)

    def attribute_symbols(self) -> set[str]:
        """Names of the symbols that its attributes mention."""
        found: set[str] = set()

        def look(value: Any) -> Any:
            if isinstance(value, Expr):
                found.update(symbols([value]))
            return value

        self._map(look)
        return found

    def _map(self, change: Callable[[Any], Any]) -> Op:
        changed: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            old = getattr(self, field.name)
            new = tuple(change(item) for item in old) if isinstance(old, tuple) else change(old)
            if new != old:
                changed[field.name] = new
        return dataclasses.replace(self, **changed) if changed else self


def _parameters(cls: type[Op]) -> tuple[Parameter, ...]:
    parameters = list(inspect.signature(cls.infer).parameters.values())[1:]
    return tuple(
        Parameter(
            parameter.name,
            optional=parameter.default is None or "None" in str(parameter.annotation),
            variadic=parameter.kind is inspect.Parameter.VAR_POSITIONAL,
        )
        for parameter in parameters
    )


def is_composite(op: Op | type[Op]) -> bool:
    """Whether the operation declares how to spell it with simpler ones."""
    cls = op if isinstance(op, type) else type(op)
    return cls.decompose is not Op.decompose


def result_types(inferred: Inferred) -> tuple[TensorType, ...]:
    """What ``infer`` gave, as a tuple."""
    return inferred if isinstance(inferred, tuple) else (inferred,)


def result_arrays(evaluated: Evaluated) -> tuple[Array, ...]:
    """What ``evaluate`` gave, as a tuple."""
    return evaluated if isinstance(evaluated, tuple) else (evaluated,)


def moved_bytes(*types: TensorType | None) -> Dim:
    """Bytes of all tensors that are present."""
    moved: Dim = 0
    for type_ in types:
        if type_ is not None:
            moved = moved + type_.bytes
    return moved


def widen(array: Array) -> Array:
    """At least float32, for statistics and accumulation."""
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
