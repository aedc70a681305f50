"""``cgptc diff``: what is different between two artifacts, or two graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table


@command("diff")
def diff(
    screen: Screen,
    left: Annotated[Path, typer.Argument(metavar="A", help="An artifact folder, or a graph in text form.")],
    right: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
) -> None:
    """Show what differs between two artifacts or graphs: interface, options, files, operations, and the nodes themselves."""
    from cgptc.driver.differences import compare_paths

    found = compare_paths(left, right)
    if found.equal:
        screen.result("  equal", found.to_json())
        return
    rows = [*found.facts, *((name, str(before), str(after)) for name, before, after in found.counts)]
    text = table([("", "A", "B"), *rows]) if rows else ""
    screen.result("\n".join([*filter(None, [text]), *found.lines]), found.to_json())
