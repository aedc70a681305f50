"""``cgptc inspect``: what a file holds, without running anything in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgptc.artifact import ArtifactFolder, open_folder
from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table


@command("inspect")
def inspect(screen: Screen, path: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact folder.")]) -> None:
    """Show what an artifact holds."""
    folder = open_folder(path)
    screen.result(_artifact_text(folder), {"digest": folder.digest, **_summary(folder)})


def _summary(folder: ArtifactFolder) -> dict[str, object]:
    manifest = folder.manifest
    return {
        "target": manifest.target,
        "format_version": manifest.format_version,
        "pipeline": manifest.pipeline,
        "options": dict(manifest.options),
        "versions": dict(manifest.versions),
        "input": dict(manifest.input),
        "interface": dict(manifest.interface),
        "files": {name: entry.size for name, entry in manifest.files.items()},
        "extra_files": folder.extra_files,
    }


def _artifact_text(folder: ArtifactFolder) -> str:
    manifest = folder.manifest
    rows = [
        ("target", manifest.target),
        ("format", manifest.format_version),
        ("passes", manifest.pipeline or "none"),
        *(("file", f"{name}   {entry.size} bytes") for name, entry in sorted(manifest.files.items())),
        *(("not ours", name) for name in folder.extra_files),
        ("sha256", folder.digest),
    ]
    return table(rows)
