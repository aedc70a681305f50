"""``cgptc demo``: the whole tour with the trained model that comes along, offline."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.cli.wafer_rows import region_rows, wafer_rows
from cgptc.driver.options import CompileOptions
from cgptc.runtime.engine import SessionWithNotes
from cgptc.runtime.sampler import Sampling

PROMPT = "In the beginning"
NEW_TOKENS = 60
WAFER_TOKENS = 16
"""How many of them the modelled wafer makes too, a few seconds."""


@command("demo")
def demo(
    screen: Screen,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Keep the model and both artifacts, the floorplan among them, in this folder.")
    ] = None,
) -> None:
    """Compile a small trained GPT, verify it against PyTorch, generate text with it, and place and run it on a modelled wafer."""
    from cgptc.driver.compilation import compile_source
    from cgptc.driver.verification import verify_against
    from cgptc.frontend.new_model import write_model
    from cgptc.frontend.presets import preset

    with contextlib.ExitStack() as kept:
        folder = output or Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="cgptc-demo-")))
        folder.mkdir(parents=True, exist_ok=True)
        model, place = folder / "demo", folder / "demo.onnx.cgptc"
        write_model(preset("demo"), model)
        with screen.progress("compiling the demo model"):
            artifact = compile_source(str(model), CompileOptions(), place)
        with screen.progress("comparing it with PyTorch"):
            found = verify_against(place, str(model))
        sampling = Sampling(0.7, top_k=40, seed=1)
        made = artifact.generate(PROMPT, max_new_tokens=NEW_TOKENS, sampling=sampling)
        text, report = made.text or "", artifact.report
        with screen.progress("placing it on a modelled wafer"):
            wafer = compile_source(str(model), CompileOptions(target="wafer"), folder / "demo.wafer.cgptc")
        with screen.progress("running the placed program"):
            placed = wafer.generate(PROMPT, max_new_tokens=WAFER_TOKENS, sampling=sampling)
        facts = wafer.report.backend
        counted = wafer.session.notes() if isinstance(wafer.session, SessionWithNotes) else ()
    same = sum(one == other for one, other in zip(placed.ids, made.ids, strict=False))
    rows: list[tuple[str, ...]] = [
        ("compiled", f"{report.model['parameters']} parameters, {report.graph['nodes']} operations, for onnxruntime"),
        ("verified", f"{len(found.checks)} checks against PyTorch in float64"),
        ("generated", PROMPT + " ".join(text.split("\n"))),
        *wafer_rows(facts),
        *(("floorplan" if not number else "", *row) for number, row in enumerate(region_rows(facts))),
        ("on it", f"{same} of {len(placed.ids)} tokens as onnxruntime made them; {'; '.join(counted)}"),
        *([("kept", f"{wafer.path / 'floorplan.svg'}, {place}, {model}")] if output else []),
        ("next", "cgptc new --preset demo -o model   writes this model; then compile, verify and run it"),
    ]
    screen.result(table(rows), {"checks": len(found.checks), "prompt": PROMPT, "text": text, "wafer": dict(facts), "same_tokens": same})
