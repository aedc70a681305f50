"""``cgptc list``: what there is to choose from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.cli.usage import unknown
from cgptc.ir.op import Op

Rows = tuple[tuple[str, ...], ...]


def _presets() -> Rows:
    from cgptc.frontend.presets import PRESETS

    return tuple((found.name, f"{found.config.parameter_count / 1e6:,.1f} M", found.note) for found in PRESETS.values())


def _passes() -> Rows:
    from cgptc.passes import library
    from cgptc.passes.manager import PASSES

    assert library.__doc__  # importing it registers every pass
    return tuple((name, _first_line(found)) for name, found in sorted(PASSES.items()))


def _fusions() -> Rows:
    """By pass: its rewrites that have a subject, or the pass itself where it matches without patterns."""
    from cgptc.passes import library
    from cgptc.passes.manager import PASSES
    from cgptc.passes.rewrite import Rewrite

    assert library.__doc__
    rows: list[tuple[str, ...]] = []
    for name, found in sorted(PASSES.items()):
        if not name.startswith("fuse-"):
            continue
        rewrites = [value for value in vars(sys.modules[found.__module__]).values() if isinstance(value, Rewrite) and value.subject]
        rows += [(value.subject, name, value.summary) for value in rewrites]
        if not rewrites:
            rows.append((name.removeprefix("fuse-"), name, _first_line(found)))
    return tuple(rows)


def _kernels() -> Rows:
    """By target: what computes on it. ONNX: each operation that has a lowering, and the modes in which it has one of its own."""
    from cgptc.backends.onnx.lowering import legal_ops, lowering_of
    from cgptc.backends.onnx.options import MODES
    from cgptc.backends.wafer.kernels.catalogue import kernels

    rows: list[tuple[str, ...]] = []
    for op in sorted(frozenset[type[Op]]().union(*map(legal_ops, MODES)), key=lambda op: op.name):
        modes = {lowering: mode for mode in MODES if (lowering := lowering_of(op, mode)) is not None}
        rows.append(("onnx", op.name, ", ".join(sorted(modes.values(), reverse=True)), _first_line(op)))
    rows += [("wafer", name, "", _first_line(kernel)) for name, kernel in sorted(kernels().items())]
    return tuple(rows)


def _first_line(described: object) -> str:
    return (described.__doc__ or "").strip().splitlines()[0]


def _machines() -> Rows:
    from cgptc.backends.wafer.machine import PRESETS

    return tuple(
        (name, f"{found.width}x{found.height} PEs", f"{found.sram_bytes} B each", f"{found.clock_hz / 1e9:g} GHz")
        for name, found in PRESETS.items()
    )


def _targets() -> Rows:
    from cgptc.driver.api import targets

    return tuple((name,) for name in targets())


KINDS: dict[str, tuple[tuple[str, ...], Callable[[], Rows]]] = {
    "fusions": (("subject", "pass", "note"), _fusions),
    "kernels": (("target", "name", "modes", "note"), _kernels),
    "machines": (("name", "fabric", "memory", "clock"), _machines),
    "passes": (("name", "note"), _passes),
    "presets": (("name", "parameters", "note"), _presets),
    "targets": (("name",), _targets),
}
"""What can be listed: the columns' names, and the rows."""


@command("list")
def list_(screen: Screen, kind: Annotated[str, typer.Argument(metavar="|".join(KINDS))]) -> None:
    """List fusions, kernels, machines, passes, presets or targets."""
    if kind not in KINDS:
        raise unknown("list", kind, KINDS)
    columns, rows = KINDS[kind]
    found = rows()
    screen.result(table(found), [dict(zip(columns, row, strict=True)) for row in found])
