"""Prefill and decode of a preset with a share of its heads and neurons removed, against the whole of it; a pattern without gain beside.

    python benchmarks/sparsity.py [--preset cerebras-gpt-111m] [--rounds 10] [--length 128]

"to be had" is the weights of the whole model over those that are left: what decode, which reads them all, could gain at most.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from paired import compare

import cgptc
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset

SHARES = (0.25, 0.5, 0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cerebras-gpt-111m")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--length", type=int, default=128)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.pt"
        write_model(preset(given.preset), model)
        artifacts = {"whole": cgptc.compile(model)}
        for share in SHARES:
            artifacts[f"{share:.0%} removed"] = cgptc.compile(model, sparsity=[f"heads:{share}", f"neurons:{share}"])
        artifacts["50% zeros, unstructured"] = cgptc.compile(model, sparsity=["magnitude:0.5"])
        sizes = {name: artifact.report.backend["weight_bytes"] for name, artifact in artifacts.items()}
        print(f"{'model':<26}{'weights MB':>11}{'to be had':>11}   {'prefill':<24}decode, times as fast")
        for name, (prefill, decode) in compare(artifacts, given.rounds, given.length).items():
            print(f"{name:<26}{sizes[name] / 1e6:>11.1f}{sizes['whole'] / sizes[name]:>11.2f}   {prefill!s:<24}{decode}")


if __name__ == "__main__":
    main()
