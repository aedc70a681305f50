"""``cgptc inspect``: what an artifact holds, or a model as the IR or MLIR has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgptc.artifact import ArtifactFolder, open_folder
from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table

MANIFEST = "manifest.json"


@command("inspect")
def inspect(
    screen: Screen,
    path: Annotated[str, typer.Argument(metavar="ARTIFACT|MODEL", help="An artifact, a model file or folder, or a preset.")],
    mlir: Annotated[str | None, typer.Option("--mlir", help="As MLIR: torch, linalg-on-tensors or stablehlo (needs torch-mlir).")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="What the weights are, where the file does not say.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A config.json that says what the weights are.")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Weights of a model of your own class.")] = None,
) -> None:
    """Show what an artifact holds, or a model as it was captured: the IR's text, or MLIR."""
    if mlir is None and (Path(path) / MANIFEST).is_file():
        folder = open_folder(Path(path))
        screen.result(_artifact_text(folder), {"digest": folder.digest, **_summary(folder)})
        return
    from cgptc.driver.examination import captured_mlir, captured_text
    from cgptc.frontend.source import Request

    request = Request(preset=preset, config=config, weights=weights)
    with screen.progress(f"capturing {path}"):
        text = captured_text(path, request) if mlir is None else captured_mlir(path, request, mlir)
    screen.result(text.rstrip(), {"form": mlir or "cgir", "text": text})


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
