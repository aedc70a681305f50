"""Rules about items that are shorter than what there is room for: streams and outputs with a number of rows of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cgptc.backends.wafer.affine import Affine
from cgptc.backends.wafer.faults import Issue
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.program import Entry, Program
from cgptc.backends.wafer.verify.corners import corners
from cgptc.backends.wafer.verify.likeness import Kinds


def row_issues(program: Program, kinds: Kinds) -> Iterator[Issue]:
    """All broken rules of this group."""
    for binding in program.bindings:
        if binding.rows is not None:
            where = f"tensor '{binding.tensor}'"
            if binding.role != "output":
                yield Issue("rows", where, "only an output may have fewer rows than its layout")
            taken = [entry for entry in program.entries if entry.name in binding.entries]
            yield from _rows(where, binding.rows, (binding.layout,), taken, program)
    for stream in program.streams:
        if stream.rows is not None:
            yield from _rows(f"stream '{stream.name}'", stream.rows, (stream.source, stream.target), program.entries, program)


def _rows(where: str, rows: Affine, layouts: Sequence[Layout], entries: Iterable[Entry], program: Program) -> Iterator[Issue]:
    if any(not one.shape or one.cuts[0] is not None for one in layouts):
        yield Issue("rows", where, "only a first axis that is not cut may be shorter than its layout")
        return
    if rows.divisor != 1 or rows.modulus:
        yield Issue("rows", where, f"a number of rows is a sum of scalars, not {rows}")
        return
    for entry in entries:
        unknown = sorted(rows.variables - {scalar.name for scalar in entry.scalars})
        if unknown:
            yield Issue("variable-unknown", where, f"its rows in entry '{entry.name}' depend on {unknown}")
            continue
        for count in dict.fromkeys(int(rows.value(corner)) for corner in corners(program, entry)):
            if any(not 0 <= count <= one.shape[0] for one in layouts):
                yield Issue("rows", where, f"{count} rows of {layouts[0].shape[0]} in entry '{entry.name}'")
