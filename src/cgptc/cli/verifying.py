"""``cgptc verify``: is the artifact what was written, and does it compute what PyTorch does?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.ir.diagnostics import UsageError


@command("verify")
def verify(
    screen: Screen,
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact folder.")],
    against: Annotated[str | None, typer.Option("--against", help="The model to compare with, run by PyTorch.")] = None,
    lengths: Annotated[str, typer.Option("--lengths", help="auto, or lengths such as 1,7,257.")] = "auto",
    preset: Annotated[str | None, typer.Option("--preset", help="What the model's weights are, where its file does not say.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A config.json that says what the model's weights are.")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="The state dict, where --against is package.module:callable.")] = None,
    unsafe_load_pickle: Annotated[bool, typer.Option("--unsafe-load-pickle", help="Unpickle a whole module: runs its code.")] = False,
) -> None:
    """Check an artifact's files, and with --against that it computes what PyTorch does."""
    from cgptc.driver.verification import verify_against, verify_files

    chosen = parse_lengths(lengths)
    if against is None:
        if chosen is not None or preset is not None or config is not None or weights is not None or unsafe_load_pickle:
            raise UsageError("usage", "there is nothing to compare with", file=str(artifact), fix="give --against MODEL")
        found = verify_files(artifact)
    else:
        from cgptc.frontend.source import Request

        with screen.progress(f"comparing {artifact} with {against}"):
            found = verify_against(
                artifact, against, Request(preset=preset, config=config, weights=weights, unsafe_load_pickle=unsafe_load_pickle), chosen
            )
    for note in found.notes:
        screen.note(f"note: {note}")
    rows: list[tuple[str, ...]] = [("files", f"{found.file_count} as written", f"{found.byte_count / 1e6:,.1f} MB")]
    for check in found.checks:
        top = f"top-1 {check.agreement.agreeing}/{check.agreement.decided}" if check.agreement is not None else ""
        errors = (f"rmse {check.rmse:.1e} ≤ {check.rmse_bound:.1e}", f"max {check.largest:.1e} ≤ {check.largest_bound:.1e}", top)
        rows.append((check.what, f"length {check.length}", f"batch {check.batch}", *(errors if check.largest_bound else ("as PyTorch's",))))
    if found.checks:
        rows.append(("verified", f"{len(found.checks)} checks against PyTorch in float64"))
    checks = [check.to_json() for check in found.checks]
    value = {"files": found.file_count, "bytes": found.byte_count, "notes": list(found.notes), "checks": checks}
    screen.result(table(rows), value)


def parse_lengths(text: str) -> list[int] | None:
    """``1,7,257`` as numbers, None for ``auto``. `UsageError` for anything else."""
    if text == "auto":
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError("bad-value", f"--lengths '{text}' is neither auto nor a list of lengths", fix="write them as 1,7,257") from None
