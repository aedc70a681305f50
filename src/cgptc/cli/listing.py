"""``cgptc list``: what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.cli.usage import unknown

Rows = tuple[tuple[str, ...], ...]


def _presets() -> Rows:
    from cgptc.frontend.presets import PRESETS

    return tuple((found.name, f"{found.config.parameter_count / 1e6:,.1f} M", found.note) for found in PRESETS.values())


def _passes() -> Rows:
    from cgptc.passes import library
    from cgptc.passes.manager import PASSES

    assert library.__doc__  # importing it registers every pass
    return tuple((name, (found.__doc__ or "").strip().splitlines()[0]) for name, found in sorted(PASSES.items()))


def _targets() -> Rows:
    from cgptc.driver.api import targets

    return tuple((name,) for name in targets())


KINDS: dict[str, tuple[tuple[str, ...], Callable[[], Rows]]] = {
    "passes": (("name", "note"), _passes),
    "presets": (("name", "parameters", "note"), _presets),
    "targets": (("name",), _targets),
}
"""What can be listed: the columns' names, and the rows."""


@command("list")
def list_(screen: Screen, kind: Annotated[str, typer.Argument(metavar="|".join(KINDS))]) -> None:
    """List passes, presets or targets."""
    if kind not in KINDS:
        raise unknown("list", kind, KINDS)
    columns, rows = KINDS[kind]
    found = rows()
    screen.result(table(found), [dict(zip(columns, row, strict=True)) for row in found])
