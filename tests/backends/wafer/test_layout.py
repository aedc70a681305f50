"""Layouts: locate and its inverse are exact and total, scatter and gather are inverse, ends may be ragged."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.layout import Cut, Layout, blocked


def _check(layout: Layout) -> None:
    tensor = np.arange(1, 1 + int(np.prod(layout.shape)), dtype=np.int64).reshape(layout.shape)
    tiles = layout.scatter(tensor)
    assert tiles.shape == (layout.height, layout.width, *layout.local_shape)
    np.testing.assert_array_equal(layout.gather(tiles), tensor)
    seen: dict[tuple[int, ...], int] = {}
    for y, x in itertools.product(range(layout.height), range(layout.width)):
        for local in itertools.product(*(range(size) for size in layout.local_shape)):
            index = layout.logical(x, y, local)
            expected = 0 if index is None else tensor[index]
            assert tiles[(y, x, *local)] == expected
            inside = layout.holds(x, y) and all(i < extent for i, extent in zip(local, layout.extents(x, y), strict=True))
            assert inside == (index is not None)
            if index is not None:
                seen[index] = seen.get(index, 0) + 1
    assert len(seen) == tensor.size
    assert len(set(seen.values())) <= 1, "every element has the same number of replicas"
    for index in itertools.product(*(range(size) for size in layout.shape)):
        x, y, local = layout.locate(index)
        assert layout.logical(x, y, local) == index


@pytest.mark.parametrize("lines", range(1, 6))
@pytest.mark.parametrize("along", ["rows", "columns"])
def test_every_cut_of_a_vector_is_a_bijection(lines: int, along: str) -> None:
    for size in range(1, 12):
        height, width = (lines, 2) if along == "rows" else (2, lines)
        minimum = -(-size // lines)
        for block in (0, minimum, minimum + 1):
            _check(Layout(height, width, (size,), (Cut(along, block),)))  # type: ignore[arg-type]


def test_every_cut_of_a_matrix_is_a_bijection() -> None:
    for m, n in itertools.product((1, 2, 5, 7), repeat=2):
        for height, width in ((1, 1), (2, 3), (3, 2)):
            for first, second in itertools.permutations(("rows", "columns")):
                lines = {"rows": height, "columns": width}
                for blocks in itertools.product((False, True), repeat=2):
                    cuts = tuple(
                        blocked(size, along, lines[along]) if is_blocked else Cut(along)  # type: ignore[arg-type]
                        for size, along, is_blocked in zip((m, n), (first, second), blocks, strict=True)
                    )
                    _check(Layout(height, width, (m, n), cuts))
            _check(Layout(height, width, (m, n), (None, blocked(n, "columns", width))))
            _check(Layout(height, width, (m, n), (None, Cut("columns")), row=height - 1))
            _check(Layout(height, width, (m, n), (None, None), row=0, column=width - 1))


def test_width_1088_on_270_columns_is_ragged() -> None:
    layout = Layout(1, 270, (1088,), (blocked(1088, "columns", 270),))
    assert layout.local_shape == (5,)
    assert [layout.extents(x, 0)[0] for x in (0, 216, 217, 218, 269)] == [5, 5, 3, 0, 0]
    cyclic = Layout(1, 270, (1088,), (Cut("columns"),))
    assert [cyclic.extents(x, 0)[0] for x in (0, 7, 8, 269)] == [5, 5, 4, 4]
    _check(layout)
    _check(cyclic)


def test_a_scalar_lies_everywhere_or_on_one_pe() -> None:
    _check(Layout(2, 2, (), ()))
    _check(Layout(2, 2, (), (), row=1, column=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 2, (4, 4), (Cut("rows", 2), Cut("rows", 2))), "same grid axis"),
        ((2, 2, (5,), (Cut("rows", 2),)), "need more than 2 rows"),
        ((2, 2, (5,), ()), "0 cuts for a tensor of rank 1"),
        ((2, 2, (4,), (Cut("rows", 2),), 1), "line 1 of 2 rows"),
        ((0, 2, (4,), (None,)), "must be positive"),
    ],
)
def test_impossible_layouts_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        Layout(*arguments)  # type: ignore[arg-type]


def test_outside_indices_are_refused() -> None:
    with pytest.raises(IndexError, match="outside shape"):
        Layout(1, 1, (3,), (None,)).locate((3,))
