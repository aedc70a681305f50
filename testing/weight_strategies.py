"""Strategies for weights: stored ones, dense ones, and nests of lazy expressions, with a store that holds what they read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from cgptc.ir.dtypes import FLOATS, boolean, f32, i4, i8, i64
from cgptc.ir.masked_weights import Largest, LargestBlocks, LargestOfGroup, Masked, NonZero
from cgptc.ir.quantised_weights import QuantisationScales, Quantised
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import Added, Concatenated, Converted, Reshaped, Scaled, Sliced, Taken, Transposed
from cgptc.ir.weights import MemoryStore, Weight, dense
from cgptc.testing.arrays import KINDS, random_array
from cgptc.testing.type_strategies import dtypes, tensor_types

MAX_LEVELS = 3
"""Levels of expressions in a drawn weight."""


@dataclass(frozen=True)
class WeightSample:
    """A weight and a store that holds what it reads."""

    weight: Weight
    store: MemoryStore


@st.composite
def weights(draw: st.DrawFn, type: TensorType | None = None) -> WeightSample:
    """A weight of ``type``, or of any static type."""
    wanted = type if type is not None else draw(tensor_types(dtypes=dtypes(), max_rank=3, max_elements=256))
    store = MemoryStore({})
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return WeightSample(draw_weight(draw, wanted, store, generator, draw(st.sampled_from(KINDS))), store)


def draw_weight(
    draw: st.DrawFn, type: TensorType, store: MemoryStore, generator: np.random.Generator, kind: str, levels: int = MAX_LEVELS
) -> Weight:
    """A weight of a static type whose content is added to ``store``."""
    forms = ["stored", "dense"]
    if levels:
        forms += ["reshaped", "converted"]
        forms += ["transposed", "concatenated", "sliced", "taken"] if type.rank else []
        forms += ["added"] if type.dtype.is_float else []
        forms += ["scaled"] if type.dtype.is_float and type.rank else []
        forms += ["masked"] if type.rank else []
        forms += ["non-zero", "largest"] if type.dtype is boolean else []
        forms += ["largest of group", "largest blocks"] if type.dtype is boolean and type.rank == 2 else []
        forms += ["quantised"] if type.dtype in (i4, i8) and type.rank == 2 else []
        forms += ["quantisation scales"] if type.dtype is f32 and type.rank == 2 and type.static_shape[1] else []

    def inner(shape: tuple[int, ...], dtype: TensorType = type) -> Weight:
        return draw_weight(draw, dtype.with_shape(shape), store, generator, kind, levels - 1)

    shape = type.static_shape
    axis = draw(st.integers(0, type.rank - 1)) if type.rank and levels else 0
    match draw(st.sampled_from(forms)):
        case "stored":
            return store.add(f"w{len(store.tensors)}", random_array(shape, type.dtype, generator, kind))
        case "dense":
            return dense(random_array(shape, type.dtype, generator, kind))
        case "reshaped":
            size = int(np.prod(shape, dtype=np.int64))
            divisors = [divisor for divisor in range(1, size + 1) if size % divisor == 0] or [1]
            divisor = draw(st.sampled_from(divisors))
            return Reshaped(inner(draw(st.sampled_from([(size,), (divisor, size // divisor), (divisor, 1, size // divisor)]))), shape)
        case "converted":
            if type.dtype.is_float:
                source = draw(st.sampled_from([dtype for dtype in (*FLOATS, i8, i64) if dtype is not type.dtype]))
            else:
                source = i8 if type.dtype is not i8 else i64
            # What a narrower type rounds, a float64 evaluation does not: nothing is computed in it before it becomes wider.
            widens = source.is_float and type.dtype.is_float and source.bits < type.dtype.bits
            below = 0 if widens else levels - 1
            return Converted(draw_weight(draw, type.with_dtype(source), store, generator, kind, below), type.dtype)
        case "transposed":
            permutation = tuple(draw(st.permutations(range(type.rank))))
            base = [0] * type.rank
            for new, old in enumerate(permutation):
                base[old] = shape[new]
            return Transposed(inner(tuple(base)), permutation)
        case "concatenated":
            cut = draw(st.integers(0, shape[axis]))
            parts = [inner((*shape[:axis], length, *shape[axis + 1 :])) for length in (cut, shape[axis] - cut)]
            return Concatenated(tuple(parts), axis)
        case "sliced":
            start, step, rest = draw(st.integers(0, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 2))
            stop = start + max(0, shape[axis] - 1) * step + 1 if shape[axis] else start
            return Sliced(inner((*shape[:axis], stop + rest, *shape[axis + 1 :])), axis, start, stop, step)
        case "taken":
            size = shape[axis] + draw(st.integers(1, 3))
            indices = tuple(int(index) for index in generator.integers(0, size, shape[axis]))
            return Taken(inner((*shape[:axis], size, *shape[axis + 1 :])), axis, indices)
        case "scaled":
            return Scaled(inner(shape), inner((shape[axis],)), axis)
        case "masked":
            along = draw(st.sampled_from([None, axis]))
            return Masked(inner(shape), inner(shape if along is None else (shape[along],), type.with_dtype(boolean)), along)
        case "non-zero":
            return NonZero(inner(shape, type.with_dtype(draw(st.sampled_from(FLOATS)))))
        case "largest":
            return Largest(inner(shape, type.with_dtype(draw(st.sampled_from(FLOATS)))), draw(st.sampled_from([0.5, 0.0, 1.0, 0.3])))
        case "largest of group":
            m = draw(st.integers(1, 4))
            return LargestOfGroup(inner(shape, type.with_dtype(f32)), draw(st.integers(1, m)), m, axis)
        case "largest blocks":
            return LargestBlocks(inner(shape, type.with_dtype(f32)), draw(st.integers(1, 3)), draw(st.integers(1, 3)), 0.5)
        case "quantised":
            bits = draw(st.integers(2, 4) if type.dtype is i4 else st.integers(5, 8))
            return Quantised(inner(shape, type.with_dtype(draw(st.sampled_from(FLOATS)))), bits, draw(st.integers(0, 3)))
        case "quantisation scales":
            block = draw(st.integers(1, 3))
            return QuantisationScales(inner((shape[0], shape[1] * block)), draw(st.integers(2, 8)), block)
        case _:
            return Added(inner(shape), inner(shape))
