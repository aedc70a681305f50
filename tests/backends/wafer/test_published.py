"""The model beside published measurements: fits stay fits, and what was held out stays as near as it was found."""

from __future__ import annotations

import pytest
from benchmarks.wafer_published import (
    Row,
    decode_r5,
    fitted,
    main,
    orders_r7,
    reductions_r1,
    sparse_r4,
    tiles_r3,
    vectors_r2,
)


def _errors(rows: list[Row]) -> list[float]:
    return [abs(row.error) for row in rows]


def test_reductions_are_within_two_percent() -> None:
    assert max(_errors(list(reductions_r1()))) < 0.02


def test_tiles_and_sparse_tiles_are_within_three_percent() -> None:
    assert max(_errors([*tiles_r3(), *sparse_r4()])) < 0.03
    aligned = next(vectors_r2())
    assert abs(aligned.published - aligned.modelled) <= 10


def test_decoding_is_within_its_acceptance_absolutely_and_across_grids() -> None:
    rows = list(decode_r5())
    _, adjusted = fitted(rows, 10)
    assert max(_errors(adjusted)) < 0.3
    for first in range(0, len(adjusted), 3):
        base = adjusted[first]
        for row in adjusted[first + 1 : first + 3]:
            growth = (row.modelled / base.modelled) / (row.published / base.published)
            assert abs(growth - 1) < 0.1, row.name


def test_the_plain_ring_and_panels_slow_down_on_larger_grids_as_published() -> None:
    small, large = list(orders_r7())[:2]
    assert "2048  360" in small
    assert "2048  720" in large
    cannon = [int(line.split("Cannon")[1].split()[0].replace(",", "")) for line in (small, large)]
    assert cannon[1] > cannon[0]


def test_the_script_prints_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    for number in range(1, 9):
        assert f"\nR{number}  {'fit' if number < 5 else 'held out'}" in printed
    assert "not run on hardware" in printed
