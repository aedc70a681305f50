"""Lazy weight expressions: rows on demand equal numpy on the whole, and nothing more is read than needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgptc.ir import weights as weights_module
from cgptc.ir.diagnostics import OpTypeError
from cgptc.ir.dtypes import bf16, f16, f32, f64, i4, i8, i64
from cgptc.ir.masked_weights import Largest, LargestBlocks, LargestOfGroup, Masked, NonZero
from cgptc.ir.op import Array, widen
from cgptc.ir.quantised_weights import SEARCHED_BITS, STEPS, QuantisationScales, Quantised
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import (
    EXPRESSIONS,
    MAX_DEPTH,
    Added,
    Concatenated,
    Converted,
    Expression,
    Reshaped,
    Scaled,
    Sliced,
    Taken,
    Transposed,
    added,
    concatenated,
    converted,
    depth,
    leaves,
    reshaped,
    scaled,
    sliced,
    taken,
    transposed,
    widened,
)
from cgptc.ir.weights import Dense, MemoryStore, Stored, Weight, dense
from cgptc.testing import WeightSample, assert_t0, weights


def whole(weight: Weight, store: MemoryStore) -> Array:
    """What numpy computes of whole arrays: the definition that `rows` must agree with."""
    with np.errstate(all="ignore"):
        match weight:
            case Stored():
                return store.tensors[weight.name]
            case Dense():
                return weight.array
            case Transposed():
                return np.transpose(whole(weight.base, store), weight.permutation)
            case Reshaped():
                return np.reshape(whole(weight.base, store), weight.new_shape)
            case Concatenated():
                return np.concatenate([whole(part, store) for part in weight.parts], weight.axis)
            case Sliced():
                return whole(weight.base, store)[(slice(None),) * weight.axis + (slice(weight.start, weight.stop, weight.step),)]
            case Taken():
                return np.take(whole(weight.base, store), np.asarray(weight.indices, np.int64), weight.axis)
            case Scaled():
                base = widen(whole(weight.base, store))
                factor = widen(whole(weight.factor, store))
                return np.moveaxis(np.moveaxis(base, weight.axis, -1) * factor, -1, weight.axis).astype(weight.dtype.numpy)
            case Added():
                return np.asarray(widen(whole(weight.left, store)) + widen(whole(weight.right, store))).astype(weight.dtype.numpy)
            case Converted():
                return whole(weight.base, store).astype(weight.to.numpy)
            case Masked():
                base, mask = whole(weight.base, store), whole(weight.mask, store)
                if weight.axis is not None:
                    mask = np.moveaxis(np.broadcast_to(mask, np.moveaxis(base, weight.axis, -1).shape), -1, weight.axis)
                return np.where(mask, base, np.zeros((), base.dtype))
            case NonZero():
                base = whole(weight.base, store).astype(np.float64)
                return (base != 0) & ~np.isnan(base)
            case Largest():
                base = np.abs(whole(weight.base, store)).reshape(-1)
                keep = np.ones(base.size, np.bool_)
                keep[sorted(range(base.size), key=lambda place: (base[place], place))[: int(weight.fraction * base.size)]] = False
                return keep.reshape(weight.shape)
            case LargestOfGroup():
                base = np.abs(whole(weight.base, store))
                keep = np.ones(base.shape, np.bool_)
                lines, kept_lines = (base, keep) if weight.axis else (base.T, keep.T)
                for line, kept in zip(lines, kept_lines, strict=True):
                    for start in range(0, line.size, weight.m):
                        places = sorted(range(start, min(start + weight.m, line.size)), key=lambda place: (line[place], place))
                        kept[places[: max(0, len(places) - weight.n)]] = False
                return keep
            case LargestBlocks():
                base = whole(weight.base, store).astype(np.float64)
                tall, wide = weight.height, weight.width
                corners = [(row, column) for row in range(0, base.shape[0], tall) for column in range(0, base.shape[1], wide)]
                parts = {at: (slice(at[0], at[0] + tall), slice(at[1], at[1] + wide)) for at in corners}
                order = sorted(corners, key=lambda at: (np.sum(base[parts[at]] ** 2), at))
                keep = np.ones(base.shape, np.bool_)
                for at in order[: int(weight.fraction * len(order))]:
                    keep[parts[at]] = False
                return keep
            case Quantised():
                rows = whole(weight.base, store).astype(np.float32)
                scales = whole(QuantisationScales(weight.base, weight.bits, weight.block), store)
                levels = np.zeros(rows.shape, np.int8)
                for (row, column), element in np.ndenumerate(rows):
                    scale = scales[row, column // weight.block if weight.block else 0]
                    most = 2 ** (weight.bits - 1)
                    levels[row, column] = min(max(np.rint(element / scale), -most), most - 1) if scale else 0
                return levels.astype(weight.dtype.numpy)
            case QuantisationScales():
                rows = whole(weight.base, store).astype(np.float32)
                size = weight.block or rows.shape[1]
                scales = np.zeros(weight.shape, np.float32)
                for row, block in np.ndindex(*weight.shape):
                    part = rows[row, block * size : (block + 1) * size]
                    scales[row, block] = scale_of(part, weight.bits) if part.size else 0
                return scales
    raise AssertionError(weight)


def scale_of(block: Array, bits: int) -> np.float32:
    """One block's scale, in f32 as the definition says, element by element."""
    limit, extreme = np.float32(2 ** (bits - 1)), max(block, key=abs)
    if bits > SEARCHED_BITS:
        return np.float32(extreme / -limit + np.float32(0))
    best, most = np.float32(0), np.float32(-1)
    for step in STEPS:
        first = np.float32(extreme / -np.float32(limit + step))
        levels = np.clip(np.rint(block / first), -limit, limit - 1) if first else np.zeros_like(block)
        met, square = reduce(np.add, levels * block), reduce(np.add, levels * levels)
        scale = met / square if square else np.float32(0)
        best, most = (scale if met * scale > most else best), np.maximum(met * scale, most)
    return np.float32(best + np.float32(0))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (0, 4), (4, 0)], ids=str)
def test_no_rows_of_the_largest_of_each_group(shape: tuple[int, int], axis: int) -> None:
    store = MemoryStore({})
    mask = LargestOfGroup(store.add("w", np.ones(shape, np.float32)), 1, 2, axis)
    assert mask.rows(store, 0, 0).shape == (0, shape[1])
    assert mask.read(store).shape == shape


@given(weights(), st.data())
def test_rows_equal_numpy_on_the_whole(sample: WeightSample, data: st.DataObject) -> None:
    weight, store = sample.weight, sample.store
    expected = whole(weight, store)
    assert weight.type == TensorType(weight.dtype, expected.shape)
    start = data.draw(st.integers(0, weight.row_count))
    stop = data.draw(st.integers(start, weight.row_count))
    if not weight.shape:
        start, stop = 0, 1
    assert_t0(expected[start:stop] if weight.shape else expected, weight.rows(store, start, stop))
    assert_t0(expected, weight.read(store))


@given(weights(), st.integers(1, 200))
def test_blocks_join_to_the_whole(sample: WeightSample, block_bytes: int) -> None:
    weight, store = sample.weight, sample.store
    expected = whole(weight, store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights_module, "BLOCK_BYTES", block_bytes)
        blocks = list(weight.blocks(store))
    if weight.row_count:
        assert_t0(expected, np.concatenate(blocks) if weight.shape else blocks[0])
    row_bytes = max(1, expected[:1].nbytes if expected.ndim else expected.nbytes)
    assert all(block.nbytes <= max(block_bytes, row_bytes) for block in blocks)


@given(weights())
def test_the_wide_expression_rounds_nothing_on_the_way(sample: WeightSample) -> None:
    weight, store = sample.weight, sample.store
    wide = widened(weight)
    assert wide.shape == weight.shape
    if not weight.dtype.is_float:
        assert wide == weight
        return
    assert wide.dtype is f64
    assert wide.read(store).dtype == np.float64
    assert not any(isinstance(part, Converted) and part.to is not f64 and part.to.is_float for part in parts(wide))


def parts(weight: Weight) -> list[Weight]:
    """The weight and what it is made of; what decides a mask stays as it is stored."""
    found = [weight]
    for part in found:
        if isinstance(part, Expression) and not part.stays_rounded:
            found += part.operands
    return found


def test_the_wide_sum_of_halves_is_exact() -> None:
    left, right = dense(np.array([1.0], np.float16)), dense(np.array([2.0**-11], np.float16))
    store = MemoryStore({})
    assert Added(left, right).read(store) == 1
    assert widened(Converted(Added(left, right), f16)).read(store) == 1 + 2.0**-11


@given(weights())
def test_keys_follow_content_and_nothing_is_read_for_type_or_key(sample: WeightSample) -> None:
    assert len(sample.weight.key) == 32
    twin = sample.weight
    assert twin.key == sample.weight.key
    if sample.weight.shape:
        assert Transposed(sample.weight, tuple(range(len(sample.weight.shape)))).key != sample.weight.key


def test_different_expressions_over_one_weight_have_different_keys() -> None:
    base = Stored("w", f32, (4, 4))
    made = [
        base,
        Stored("v", f32, (4, 4)),
        Transposed(base, (0, 1)),
        Transposed(base, (1, 0)),
        Reshaped(base, (4, 4)),
        Reshaped(base, (2, 8)),
        Concatenated((base,), 0),
        Concatenated((base,), 1),
        Concatenated((base, base), 0),
        Sliced(base, 0, 0, 4),
        Sliced(base, 0, 0, 3),
        Taken(base, 0, (0, 1)),
        Taken(base, 0, (1, 0)),
        Scaled(base, Stored("f", f32, (4,)), 0),
        Scaled(base, Stored("f", f32, (4,)), 1),
        Added(base, base),
        Converted(base, f16),
        Converted(base, bf16),
    ]
    assert len({weight.key for weight in made}) == len(made)


BASE = Stored("w", f32, (2, 3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Transposed(BASE, (0,)), "'permutation' must order the 2 axes"),
        (lambda: Transposed(BASE, (0, -1)), "'permutation' must order the 2 axes"),
        (lambda: Reshaped(BASE, (5,)), r"cannot reshape f32\[2, 3\] to \[5\]"),
        (lambda: Reshaped(BASE, (-1, -6)), "must not be negative"),
        (lambda: Concatenated((), 0), "at least one part"),
        (lambda: Concatenated((BASE, BASE), 2), "'axis' of 'concatenated' must be between 0 and 1, got 2"),
        (lambda: Concatenated((BASE, Stored("v", f32, (3, 3))), 1), "cannot concatenate"),
        (lambda: Concatenated((BASE, Stored("v", f16, (2, 3))), 1), "cannot concatenate"),
        (lambda: Concatenated((BASE, Stored("v", f32, (2, 3, 1))), 1), "cannot concatenate"),
        (lambda: Sliced(BASE, 1, 0, 4), r"\[0:4\] is outside of an axis of 3"),
        (lambda: Sliced(BASE, 1, -1, 2), "is outside"),
        (lambda: Sliced(BASE, 1, 2, 1), "is outside"),
        (lambda: Sliced(BASE, 1, 0, 3, 0), "'step' must be at least 1"),
        (lambda: Sliced(BASE, -1, 0, 3), "'axis' of 'sliced' must be between"),
        (lambda: Taken(BASE, 1, (0, 3)), "index 3 is outside of an axis of 3"),
        (lambda: Taken(BASE, 1, (-1,)), "index -1 is outside"),
        (lambda: Scaled(BASE, Stored("f", f32, (3,)), 0), r"'factor' must be f32\[2\], got f32\[3\]"),
        (lambda: Scaled(BASE, Stored("f", f16, (2,)), 0), "'factor' must be"),
        (lambda: Scaled(Stored("i", i64, (2,)), Stored("i", i64, (2,)), 0), "floating-point"),
        (lambda: Added(BASE, Stored("v", f32, (3, 2))), "cannot add"),
        (lambda: Added(Stored("i", i8, (2,)), Stored("i", i8, (2,))), "floating-point"),
        (lambda: Converted(BASE, i4), r"f32\[2, 3\] is not converted to i4"),
        (lambda: Transposed(Stored("s", f32, ()), (0,)), "'permutation' must order the 0 axes"),
    ],
)
def test_what_does_not_fit_is_refused_when_made(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(OpTypeError, match=message):
        build()


@dataclass
class CountingStore:
    """Counts the rows that are read."""

    rows: int = 0
    reads: list[tuple[str, int, int]] = field(default_factory=list)

    def read(self, name: str, start: int, stop: int) -> Array:
        self.reads.append((name, start, stop))
        self.rows += stop - start
        return np.zeros((stop - start, 4), np.float32)


def test_only_the_rows_that_are_needed_are_read() -> None:
    base = Stored("w", f32, (100, 4))
    for weight, count in [
        (Sliced(base, 0, 10, 60), 5),
        (Concatenated((base, base), 0), 5),
        (Taken(base, 0, tuple(range(50, 0, -1))), 5),
        (Sliced(base, 0, 0, 100, 7), 5),
        (Reshaped(base, (50, 8)), 10),
        (Reshaped(base, (400,)), 2),
        (Added(base, base), 10),
        (Transposed(Transposed(base, (1, 0)), (1, 0)), 100),
    ]:
        store = CountingStore()
        weight.rows(store, 1, 6)
        assert store.rows == count, weight


def test_a_transposed_weight_is_read_once_for_all_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "BLOCK_BYTES", 64)
    store = CountingStore()
    base = Stored("w", f32, (100, 4))
    blocks = list(Added(Transposed(base, (1, 0)), Transposed(base, (1, 0))).blocks(store))
    assert len(blocks) == 4
    assert store.rows == 200


def test_constructors_simplify() -> None:
    cube = Stored("w", f32, (2, 3, 4))
    assert transposed(cube, (0, 1, 2)) is cube
    assert transposed(transposed(cube, (1, 2, 0)), (2, 0, 1)) is cube
    assert transposed(transposed(cube, (1, 0, 2)), (0, 2, 1)) == Transposed(cube, (1, 2, 0))
    assert reshaped(cube, (2, 3, 4)) is cube
    assert reshaped(reshaped(cube, (24,)), (2, 3, 4)) is cube
    assert reshaped(reshaped(cube, (24,)), (6, 4)) == Reshaped(cube, (6, 4))
    assert concatenated([cube], 1) is cube
    assert concatenated([concatenated([cube, cube], 1), cube], 1) == Concatenated((cube, cube, cube), 1)
    assert concatenated([concatenated([cube, cube], 1)], 0) == Concatenated((cube, cube), 1)
    assert sliced(cube, 1, 0, 3) is cube
    assert sliced(sliced(cube, 2, 0, 4, 2), 2, 1, 2) == Sliced(cube, 2, 2, 4, 2)
    assert taken(cube, 1, (1, 2)) == Sliced(cube, 1, 1, 3)
    assert taken(cube, 1, (0, 1, 2)) is cube
    assert taken(taken(cube, 1, (2, 0, 1)), 1, (1, 1)) == Taken(cube, 1, (0, 0))
    assert converted(cube, f32) is cube
    with pytest.raises(OpTypeError):
        reshaped(reshaped(cube, (24,)), (25,))
    with pytest.raises(OpTypeError):
        transposed(transposed(cube, (1, 2, 0)), (0, 1))


@given(weights(TensorType(f32, (5, 3))), st.data())
def test_simplified_and_plain_expressions_have_equal_content(sample: WeightSample, data: st.DataObject) -> None:
    simple, plain = sample.weight, sample.weight
    for _ in range(data.draw(st.integers(1, 4))):
        rank, axis = len(plain.shape), data.draw(st.integers(0, len(plain.shape) - 1))
        size = plain.shape[axis]
        match data.draw(st.sampled_from(["transposed", "reshaped", "concatenated", "sliced", "taken", "others"])):
            case "transposed":
                order = tuple(data.draw(st.permutations(range(rank))))
                simple, plain = transposed(simple, order), Transposed(plain, order)
            case "reshaped":
                shape = data.draw(st.sampled_from([plain.shape[::-1], (int(np.prod(plain.shape)),), (*plain.shape, 1)]))
                simple, plain = reshaped(simple, shape), Reshaped(plain, shape)
            case "concatenated":
                simple, plain = concatenated([simple, sliced(simple, axis, 0, size)], axis), Concatenated((plain, plain), axis)
            case "sliced":
                start = data.draw(st.integers(0, size))
                stop, step = data.draw(st.integers(start, size)), data.draw(st.integers(1, 3))
                simple, plain = sliced(simple, axis, start, stop, step), Sliced(plain, axis, start, stop, step)
            case "taken" if size:
                indices = tuple(data.draw(st.lists(st.integers(0, size - 1), max_size=4)))
                simple, plain = taken(simple, axis, indices), Taken(plain, axis, indices)
            case _:
                factor = dense(np.arange(size, dtype=np.float32))
                simple = added(scaled(simple, factor, axis), converted(simple, f32))
                plain = Added(Scaled(plain, factor, axis), plain)
    assert simple.type == plain.type
    assert_t0(plain.read(sample.store), simple.read(sample.store))
    assert depth(simple) <= depth(plain)


def test_nesting_is_bounded() -> None:
    weight: Weight = Stored("w", f32, (2,))
    for _ in range(MAX_DEPTH):
        weight = Added(weight, Stored("w", f32, (2,)))
    assert depth(weight) == MAX_DEPTH
    with pytest.raises(OpTypeError, match="nests more than 64 levels"):
        Added(weight, weight)
    assert widened(weight).read(MemoryStore({"w": np.ones(2, np.float32)})).tolist() == [65, 65]


def test_rewriting_back_and_forth_does_not_nest_deeper() -> None:
    weight: Weight = Stored("w", f32, (3, 4))
    for _ in range(200):
        weight = transposed(sliced(concatenated([weight], 0), 1, 0, weight.shape[1]), (1, 0))
    assert depth(weight) == 0
    for _ in range(100):
        weight = sliced(weight, 1, 0, weight.shape[1])
        weight = transposed(transposed(weight, (1, 0)), (1, 0))
        weight = reshaped(reshaped(weight, (12,)), (3, 4))
    assert depth(weight) == 0


def test_leaves_are_named_once() -> None:
    weight, other = Stored("w", f32, (2,)), Stored("v", f32, (2,))
    assert leaves(Added(Added(weight, other), weight)) == (weight, other)


def test_every_expression_is_drawn_by_the_strategy() -> None:
    import cgptc.testing.weight_strategies as strategies

    for cls in EXPRESSIONS.values():
        assert hasattr(strategies, cls.__name__), f"{cls.__name__} is not drawn"
