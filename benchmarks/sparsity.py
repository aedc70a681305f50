"""Prefill and decode of a preset with a share of its heads and neurons removed, or of the features that its layers read and write, against
the whole of it; a pattern without gain beside.

    python benchmarks/sparsity.py [--preset cerebras-gpt-111m] [--rounds 10] [--length 128] [--write docs/precision-and-sparsity.md]

"to be had" is the weights of the whole model over those that are left: what decode, which reads them all, could gain at most.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from marked_text import write_between_marks
from page import conditions, table
from paired import compare
from safetensors.numpy import save_file

import cgptc
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.ir.ops.constant import Constant
from cgptc.ir.weights import Stored

SHARES = (0.25, 0.5, 0.75)


def dead_lines(whole: cgptc.Artifact, share: float) -> dict[str, np.ndarray]:
    """Masks with ``share`` of the rows dead of what reads a norm, the same for all that read it, and of the columns of what a sum reads."""
    draw = np.random.default_rng(0)
    weights = [node.op.weight for node in whole.graph.nodes if isinstance(node.op, Constant) and isinstance(node.op.weight, Stored)]
    masks = {}
    for weight in weights:
        axis = {"c_attn": 0, "c_fc": 0, "c_proj": 1}.get(weight.name.split(".")[-2]) if len(weight.shape) == 2 else None
        if axis is not None:
            masks[weight.name] = np.ones(weight.shape, np.uint8)
            dead = draw.permutation(weight.shape[axis])[: int(share * weight.shape[axis])]
            np.moveaxis(masks[weight.name], axis, 0)[dead] = 0
    return masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cerebras-gpt-111m")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--write", type=Path, help="a page with the marks of this table")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.pt"
        write_model(preset(given.preset), model)
        artifacts = {"whole": cgptc.compile(model)}
        for share in SHARES:
            artifacts[f"{share:.0%} removed"] = cgptc.compile(model, sparsity=[f"heads:{share}", f"neurons:{share}"])
        for share in SHARES:
            masks = Path(folder) / f"lines-{share}.safetensors"
            save_file(dead_lines(artifacts["whole"], share), masks)
            artifacts[f"{share:.0%} of the features"] = cgptc.compile(model, sparsity=[f"mask:{masks}", "from-zeros"])
        artifacts["50% zeros, unstructured"] = cgptc.compile(model, sparsity=["magnitude:0.5"])
        sizes = {name: artifact.report.backend["weight_bytes"] for name, artifact in artifacts.items()}
        rows = []
        for name, (prefill, decode) in compare(artifacts, given.rounds, given.length).items():
            to_be_had = sizes["whole"] / sizes[name]
            share = f"{(decode.middle - 1) / (to_be_had - 1):.0%}" if to_be_had > 1 else ""
            rows.append((name, f"{sizes[name] / 1e6:.0f} MB", f"{to_be_had:.2f}", str(prefill), str(decode), share))
    header = ("model", "weights", "to be had", f"prefill of {given.length} tokens", "decode", "decode's gain of what is to be had")
    text = f"{conditions(f'{given.preset}, times as fast as whole, {given.rounds} rounds')}\n\n{table(header, rows)}"
    print(text)
    if given.write is not None:
        write_between_marks(given.write, "sparsity", text)


if __name__ == "__main__":
    main()
