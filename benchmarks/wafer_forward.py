"""A forward pass of a preset on the whole of a modelled machine: what the fast engine takes for it, by strategy.

Each strategy is compiled once, with random weights; then a process of its own opens the artifact and reads a row of ``--length`` tokens.

    python benchmarks/wafer_forward.py [--preset cerebras-gpt-111m] [--length 128] [--strategies pipeline resident]
        [--folder artifacts] [--results forward.json] [--write docs/machine.md]

Runs are kept where ``--results`` says, and a later call makes only those that are missing there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from kept_runs import KeptRuns, add_flags, publish

from cgptc import __version__

READ = "--read"


def read(folder: Path, length: int) -> None:
    """Open an artifact, read a row, and print what that took as JSON."""
    start = time.perf_counter()
    from cgptc.backends.wafer.session import WaferSession

    session = WaferSession.open(folder)
    opened = time.perf_counter()
    session.read({"input_ids": np.ones(1, np.int64)}, 0)
    ready, spent = time.perf_counter(), time.process_time()
    ids = np.random.default_rng(0).integers(0, 50000, length)
    logits = session.read({"input_ids": ids}, 0)["logits"]
    done = time.perf_counter()
    assert np.isfinite(logits).all()
    account = session.usage.account
    assert account is not None
    unit = 1 if sys.platform == "darwin" else 1024
    found = {
        "open": opened - start,
        "first token": ready - opened,
        "row": done - ready,
        "row on processor": time.process_time() - spent,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "cycles": account.timeline.cycles,
        "regions": len(session.program.regions),
        "sram": max(account.peak_bytes.values()),
    }
    print(json.dumps(found))


def compiled(given: argparse.Namespace, folder: Path, strategy: str) -> Path:
    """The artifact of a strategy, made where it is not there yet."""
    place = folder / strategy
    if not place.exists():
        model = folder / "model.pt"
        cgptc = [sys.executable, "-m", "cgptc"]
        if not model.exists():
            subprocess.run([*cgptc, "new", "--preset", given.preset, "-o", str(model), "-q"], check=True)
        options = ["--target", "wafer", "--machine", given.machine, "--dtype", given.dtype, "--execution-strategy", strategy]
        subprocess.run([*cgptc, "compile", str(model), *options, "-o", str(place), "-q"], check=True)
    return place


def in_own_process(given: argparse.Namespace, folder: Path, strategy: str) -> dict[str, object]:
    """What `read` prints of a strategy's artifact."""
    command = [sys.executable, __file__, READ, str(compiled(given, folder, strategy)), "--length", str(given.length)]
    found: dict[str, object] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cerebras-gpt-111m")
    parser.add_argument("--machine", default="wse2")
    parser.add_argument("--dtype", default="f16")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--strategies", nargs="+", default=["pipeline", "resident"])
    parser.add_argument("--folder", type=Path, help="where artifacts are kept from call to call")
    add_flags(parser)
    parser.add_argument(READ, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read is not None:
        read(given.read, given.length)
        return
    known = KeptRuns(given.results)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for strategy in given.strategies:
            key = f"{given.preset} {given.machine} {given.dtype} {strategy} {given.length}"
            found = known.of(key, lambda strategy=strategy: in_own_process(given, folder, strategy))
            times = (f"{found[name]:.1f} s" for name in ("open", "first token", "row", "row on processor"))
            size = (f"{found['peak'] / 1e9:.2f} GB", f"{found['sram']:,} B", f"{found['cycles'] / given.length:,.0f}")
            rows.append([strategy, str(found["regions"]), *times, *size])
            print(" | ".join(rows[-1]), flush=True)
    row = f"{given.length} tokens"
    header = ("strategy", "regions", "open", "first token", row, "on processors", "peak memory", "most SRAM of a PE", "cycles per token")
    what = f"{given.preset} in {given.dtype} on all of {given.machine}, fast engine; {os.cpu_count()} cores, cgptc {__version__}."
    publish(given, "forward", what, header, rows)


if __name__ == "__main__":
    main()
