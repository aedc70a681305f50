"""``cgptc demo``: the whole tour with the trained model that comes along, offline."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.driver.options import CompileOptions
from cgptc.runtime.sampler import Sampling

PROMPT = "In the beginning"
NEW_TOKENS = 60


@command("demo")
def demo(screen: Screen) -> None:
    """Compile a small trained GPT, verify it against PyTorch, and generate text with it."""
    from cgptc.driver.compilation import compile_source
    from cgptc.driver.verification import verify_against
    from cgptc.frontend.new_model import write_model
    from cgptc.frontend.presets import preset

    with tempfile.TemporaryDirectory(prefix="cgptc-demo-") as folder:
        model, place = Path(folder) / "demo", Path(folder) / "demo.onnx.cgptc"
        write_model(preset("demo"), model)
        with screen.progress("compiling the demo model"):
            artifact = compile_source(str(model), CompileOptions(), place)
        with screen.progress("comparing it with PyTorch"):
            found = verify_against(place, str(model))
        text = artifact.generate(PROMPT, max_new_tokens=NEW_TOKENS, sampling=Sampling(0.7, top_k=40, seed=1)).text or ""
        report = artifact.report
    rows = [
        ("compiled", f"{report.model['parameters']} parameters, {report.graph['nodes']} operations, for onnxruntime"),
        ("verified", f"{len(found.checks)} checks against PyTorch in float64"),
        ("generated", PROMPT + " ".join(text.split("\n"))),
        ("next", "cgptc new --preset demo -o model   writes this model; then compile, verify and run it"),
    ]
    screen.result(table(rows), {"checks": len(found.checks), "prompt": PROMPT, "text": text})
