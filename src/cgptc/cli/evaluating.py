"""``cgptc eval``: how well a text is foreseen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.ir.diagnostics import UsageError
from cgptc.runtime.compiled import Artifact


@command("eval")
def evaluate(
    screen: Screen,
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact folder.")],
    text: Annotated[Path, typer.Option("--text", help="A text file in UTF-8.")],
    against: Annotated[str | None, typer.Option("--against", help="The model to compare with, run by PyTorch.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="What the model's weights are, where its file does not say.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A config.json that says what the model's weights are.")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="The state dict, where --against is package.module:callable.")] = None,
) -> None:
    """Measure perplexity and bits per byte on a text."""
    from cgptc.driver.evaluation import evaluate_text
    from cgptc.frontend.source import Request

    if against is None and (preset is not None or config is not None or weights is not None):
        raise UsageError("usage", "there is nothing to compare with", file=str(artifact), fix="give --against MODEL")
    with screen.progress(f"reading {text}"):
        scores = evaluate_text(Artifact.open(artifact), text, against, Request(preset=preset, config=config, weights=weights))
    rows = [("", "perplexity", "bits per byte", "tokens")]
    rows += [(score.name, f"{score.perplexity:.4f}", f"{score.bits_per_byte:.4f}", str(score.token_count)) for score in scores]
    value = {
        score.name: {"perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte, "tokens": score.token_count} for score in scores
    }
    screen.result(table(rows), value)
