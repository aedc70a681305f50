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
    passes: Annotated[str | None, typer.Option("--passes", help="The pipeline, such as canonicalize,cse.")] = None,
    target: Annotated[str, typer.Option("--target", help="Without --passes: whose own pipeline, less its cache.")] = "onnx",
    level: Annotated[int, typer.Option("-O", help="Without --passes: 0, 1 or 2.")] = 2,
) -> None:
    """Run passes on a graph in text form and print what comes out."""
    from cgptc.driver.examination import optimise_graph, read_graph, rewrite_graph
    from cgptc.driver.options import CompileOptions

    graph = read_graph(file)
    if passes is not None:
        text = str(rewrite_graph(graph, passes))
    else:
        text = str(optimise_graph(graph, CompileOptions(target=target, level=level, cache="none")))
    screen.result(text, {"graph": text})
