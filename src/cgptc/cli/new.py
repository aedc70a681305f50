"""``cgptc new``: a model file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table


@command("new")
def new(
    screen: Screen,
    preset: Annotated[str, typer.Option("--preset", help="A shape: 'cgptc list presets' shows them all.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write: .pt, .safetensors, or a folder where it has no suffix.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
) -> None:
    """Write a preset's model with random weights; the preset 'demo' is a trained model."""
    from cgptc.frontend.new_model import write_model
    from cgptc.frontend.presets import preset as find

    found = find(preset)
    with screen.progress(f"writing {output}"):
        written = write_model(found, output, seed, force=force)
    if not found.trained:
        screen.note("note: the weights are random, so text that this model generates is noise")
    parameters = found.config.parameter_count
    rows = [("preset", found.name), ("parameters", f"{parameters / 1e6:,.1f} M"), *(("wrote", str(path)) for path in written)]
    value = {"preset": found.name, "parameters": parameters, "trained": found.trained, "files": [str(path) for path in written]}
    screen.result(table(rows), value)
