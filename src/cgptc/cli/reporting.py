"""``cgptc report``: what a placed program costs, as a page or a floorplan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.ir.diagnostics import UsageError
from cgptc.runtime.compiled import Artifact

SUFFIXES = (".html", ".svg")


@command("report")
def report(
    screen: Screen,
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A wafer artifact.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A page (.html), or the floorplan alone (.svg).")] = Path("report.html"),
    past: Annotated[int, typer.Option("--past", help="Tokens that the caches hold already.")] = 0,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens that stream through; at most what the context leaves.")] = 64,
) -> None:
    """Show where a wafer artifact's regions lie and what its kernels cost, with lower bounds beside every estimate."""
    if output.suffix not in SUFFIXES:
        raise UsageError("usage", f"'{output.name}' names no page", fix="end it in .html, or in .svg for the floorplan alone")
    opened = Artifact.open(artifact)
    if opened.target != "wafer":
        what = f"it is compiled for {opened.target}, which places nothing"
        raise UsageError("no-floorplan", what, file=str(artifact), fix="compile with --target wafer, or use inspect")
    from cgptc.backends.wafer.report.command import report_folder

    with screen.progress(f"counting {artifact}"):
        found = report_folder(opened.path, output, past=past, tokens=tokens)
    values = found.facts()
    screen.result(
        table([("report", str(output)), *((name, str(value)) for name, value in values.items())]), {"path": str(output), **values}
    )
