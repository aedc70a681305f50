"""What dead rows and columns of a matrix are worth to onnxruntime once a gather takes them out, against the whole matrix.

    python benchmarks/feature_gathers.py [--rounds 20] [--threads 2] [--write docs/precision-and-sparsity.md]

Twelve products with weights of their own run in one session, so that decode reads them from memory; the forms take turns, and the ratios
are taken within a round. Rows: a Gather of the features that are read, between two Transposes, as cgptc emits it; plain: a Gather along
the last axis. Columns: the product gives one zero column beside those that live, and a turned Gather puts each into its place; scattered:
a ScatterElements does.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from graph_shapes import Form, Parts, runner
from marked_text import write_between_marks
from page import conditions, table

LAYERS = 12
SIZES = ((768, 768), (768, 3072), (3072, 768))
SHARES = (0.25, 0.5, 0.75)
TOKENS = (1, 128)


def forms(tokens: int, height: int, width: int, share: float) -> Iterator[Form]:
    """The whole product, and its smaller forms with ``share`` of its rows or columns dead."""
    draw = np.random.default_rng(3)
    x = draw.standard_normal((1, tokens, height), np.float32)

    def living(size: int) -> np.ndarray:
        return np.sort(draw.permutation(size)[int(share * size) :])

    def gather(parts: Parts, value: str, layer: int, places: np.ndarray, to: str) -> str:
        chosen = parts.constant(f"i{layer}", places)
        if to.startswith("plain"):
            return parts.node("Gather", [value, chosen], to, axis=2)
        turned = parts.node("Transpose", [value], f"t{layer}", perm=[0, 2, 1])
        return parts.node("Transpose", [parts.node("Gather", [turned, chosen], f"g{layer}", axis=1)], to, perm=[0, 2, 1])

    def form(name: str, layer: int, parts: Parts) -> str:
        place = f"{name}{layer}"
        match name:
            case "whole":
                return parts.node("MatMul", ["x", parts.weight(f"w{layer}", height, width)], place)
            case "rows" | "plain rows":
                kept = living(height)
                picked = gather(parts, "x", layer, kept, f"{name} x{layer}")
                return parts.node("MatMul", [picked, parts.weight(f"w{layer}", len(kept), width)], place)
        kept = living(width)
        small = parts.node("MatMul", ["x", parts.weight(f"w{layer}", height, len(kept) + 1)], f"s{layer}")
        if name == "columns":
            places = np.full(width, len(kept))
            places[kept] = np.arange(len(kept))
            return gather(parts, small, layer, places, place)
        cut = [parts.constant(f"{what}{layer}", np.array([at])) for what, at in (("from", 0), ("to", len(kept)), ("axis", 2))]
        updates = parts.node("Slice", [small, *cut], f"u{layer}")
        zeros = parts.constant(f"z{layer}", np.zeros((1, tokens, width), np.float32))
        indices = parts.constant(f"i{layer}", np.broadcast_to(kept, (1, tokens, len(kept))).copy())
        return parts.node("ScatterElements", [zeros, indices, updates], place, axis=2)

    for name in ("whole", "rows", "plain rows", "columns", "scattered"):
        parts = Parts()
        outputs = [form(name, layer, parts) for layer in range(LAYERS)]
        yield Form(name, parts.model({"x": x}, outputs), {"x": x})


def ratios(given: Sequence[Form], rounds: int, threads: int) -> tuple[float, list[str]]:
    """Microseconds of the first form's product, and how many times as fast each other one is."""
    runners = [runner(form, threads) for form in given]
    for run in (*runners, *runners):
        run()
    seconds = np.zeros((rounds, len(runners)))
    for row in seconds:
        for index in random.sample(range(len(runners)), len(runners)):
            row[index] = min(runners[index]() for _ in range(3))
    times = np.percentile(seconds[:, :1] / seconds[:, 1:], [5, 50, 95], axis=0).T
    return float(np.median(seconds[:, 0])) / LAYERS * 1e6, [f"{middle:.2f} [{low:.2f}, {high:.2f}]" for low, middle, high in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", type=Path, help="a page with the marks of this table")
    given = parser.parse_args()
    rows = []
    for height, width in SIZES:
        for tokens in TOKENS:
            for share in SHARES:
                whole, others = ratios(list(forms(tokens, height, width, share)), given.rounds, given.threads)
                rows.append((f"{height} x {width}", str(tokens), f"{share:.0%}", f"{whole:.0f} us", *others))
                print(*rows[-1], sep=" | ", flush=True)
    header = ("matrix", "tokens", "dead", "whole", "rows", "rows, plain", "columns", "columns, scattered")
    text = f"{conditions(f'times as fast as the whole matrix, {given.rounds} rounds, {given.threads} threads')}\n\n{table(header, rows)}"
    print(text)
    if given.write is not None:
        write_between_marks(given.write, "picked", text)


if __name__ == "__main__":
    main()
