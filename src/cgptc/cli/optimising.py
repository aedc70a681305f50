"""``cgptc opt``: a graph in text form in, another out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen


@command("opt")
def opt(
    screen: Screen,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A graph in text form, such as an artifact's graph.cgir.")],
    passes: Annotated[str, typer.Option("--passes", help="The pipeline, such as canonicalize,cse.")],
) -> None:
    """Run passes on a graph in text form and print what comes out."""
    from cgptc.driver.examination import read_graph, rewrite_graph

    text = str(rewrite_graph(read_graph(file), passes))
    screen.result(text, {"graph": text})
