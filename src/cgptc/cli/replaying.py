"""``cgptc replay`` and ``cgptc reduce``: a failure of a pass again, and the least of a graph that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.ir.diagnostics import Exit, UsageError


@command("replay")
def replay(screen: Screen, folder: Annotated[Path, typer.Argument(metavar="DIR", help="What a failing pass left.")]) -> None:
    """Run a reproducer again: exit 0 where the failure is gone, 70 where it is not."""
    from cgptc.driver.environment import library_versions
    from cgptc.driver.replay import replay as run_again

    found = run_again(folder)
    here = library_versions()
    other = [f"{name} {text}, here {here.get(name, 'none')}" for name, text in found.versions.items() if here.get(name) != text]
    outcome = found.now if found.now is not None else "no failure"
    rows = [("pipeline", found.pipeline), ("then", found.then), ("now", outcome), *(("version", line) for line in other)]
    value = {"pipeline": found.pipeline, "then": found.then, "now": found.now, "again": found.again, "versions": found.versions}
    screen.result(table(rows), value)
    if found.now is not None:
        raise typer.Exit(Exit.INTERNAL)


@command("reduce")
def reduce(
    screen: Screen,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A graph in text form, such as a reproducer's before.cgir.")],
    check: Annotated[str | None, typer.Option("--check", help="A command that fails on the graph; {} stands for its file.")] = None,
    passes: Annotated[str | None, typer.Option("--passes", help="A pipeline that fails on the graph, run in this process.")] = None,
) -> None:
    """Shrink a graph while a check fails in the same way, and print what is left."""
    from cgptc.driver.examination import read_graph
    from cgptc.driver.shrinking_graphs import fails_as_command, fails_as_pipeline, shrink

    if (check is None) == (passes is None):
        raise UsageError("usage", "a failure is either a command's or a pipeline's", fix="give one of --check and --passes")
    graph = read_graph(file)
    with screen.progress(f"shrinking {graph.node_count} nodes"):
        fails = fails_as_command(check, graph) if check is not None else fails_as_pipeline(passes or "", graph)
        small = shrink(graph, fails)
    screen.note(f"{graph.node_count} nodes became {small.node_count}")
    screen.result(str(small), {"graph": str(small), "nodes": small.node_count, "of": graph.node_count})
