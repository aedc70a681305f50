"""Size, prefill and decode of each precision against f32, on random weights of a preset.

    python benchmarks/precision.py [--preset cerebras-gpt-111m] [--rounds 10] [--length 128] [--write docs/precision-and-sparsity.md]

Quality is for trained weights: `cgptc eval ARTIFACT --text FILE`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from marked_text import write_between_marks
from page import conditions, table
from paired import compare

import cgptc
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset

FORMS = ("int8", "int8:range=full", "int8:block=128", "int4", "int4:block=128", "int4:activations=exact")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cerebras-gpt-111m")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--write", type=Path, help="a page with the marks of this table")
    parser.add_argument("--forms", nargs="*", default=FORMS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.pt"
        write_model(preset(given.preset), model)
        artifacts = {"f32": cgptc.compile(model)} | {form: cgptc.compile(model, quantize=form) for form in given.forms}
        rows = []
        for name, (prefill, decode) in compare(artifacts, given.rounds, given.length).items():
            size = artifacts[name].report.backend["weight_bytes"]
            rows.append((name, f"{size / 1e6:.0f} MB", str(prefill), str(decode)))
    header = ("form", "weights", f"prefill of {given.length} tokens", "decode")
    text = f"{conditions(f'{given.preset}, times as fast as f32, {given.rounds} rounds')}\n\n{table(header, rows)}"
    print(text)
    if given.write is not None:
        write_between_marks(given.write, "precision", text)


if __name__ == "__main__":
    main()
