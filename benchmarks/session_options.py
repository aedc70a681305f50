"""Which of onnxruntime's session options make an artifact's prefill or its decoded tokens faster.

Every option is a session of its own in one process. They take turns, in a random order, each after a rest in which the threads of the one
before stop spinning; the ratios against onnxruntime's defaults are taken round by round (median and 90 % interval). Above 1 is faster.

    python benchmarks/session_options.py ARTIFACT [--rounds 20] [--write docs/performance.md]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from marked_text import write_between_marks
from peer_table import Interval

from cgptc.backends.onnx.decoder import Decoder
from cgptc.backends.onnx.session import OnnxSession
from cgptc.driver.bench.read_stream import SETTLE_SECONDS

OPTIONS: Mapping[str, Mapping[str, str | bool]] = {
    "defaults": {},
    "no prepacked weights": {"session.disable_prepacking": "1"},
    "no spinning": {"session.intra_op.allow_spinning": "0"},
    "dynamic blocks of 4": {"session.dynamic_block_base": "4"},
    "denormals as zero": {"session.set_denormal_as_zero": "1"},
    "weights outside the arena": {"session.use_device_allocator_for_initializers": "1"},
    "no arena": {"enable_cpu_mem_arena": False},
    "no memory pattern": {"enable_mem_pattern": False},
}
STEPS = 8


def opened(path: Path, settings: Mapping[str, str | bool]) -> Decoder:
    """A decoder over a session with the settings: configuration entries by name, attributes else."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in settings.items():
        if isinstance(value, str):
            options.add_session_config_entry(name, value)
        else:
            setattr(options, name, value)
    return OnnxSession(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])).decoder()


def timed(decoder: Decoder, length: int) -> tuple[float, float]:
    """Seconds of a prefill and of a token."""
    ids, mask, token = np.ones((1, length), np.int64), np.ones((1, length), np.bool_), np.ones(1, np.int64)
    time.sleep(SETTLE_SECONDS)
    decoder.prefill(ids, mask)
    start = time.perf_counter()
    decoder.prefill(ids, mask)
    prefill = time.perf_counter() - start
    steps = []
    for _ in range(STEPS):
        start = time.perf_counter()
        decoder.step(token)
        steps.append(time.perf_counter() - start)
    return prefill, statistics.median(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--note", default="", help="a remark on the machine for the table")
    parser.add_argument("--write", type=Path, help="a file with the marks of this table")
    given = parser.parse_args()
    decoders = {name: opened(given.artifact / "model.onnx", settings) for name, settings in OPTIONS.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in decoders}
    for _ in range(given.rounds):
        for name in random.sample(list(decoders), len(decoders)):
            found[name].append(timed(decoders[name], given.length))
    base = found["defaults"]
    lines = [f"{given.artifact.name}, {given.rounds} rounds, onnxruntime {onnxruntime.__version__}. {given.note}".strip(), ""]
    lines += [f"| option | prefill of {given.length} | a token |", "| --- | --- | --- |"]
    for name, times in found.items():
        cells = []
        for column in (0, 1):
            middle = statistics.median(each[column] for each in times) * 1e3
            ratio = Interval.of([ours[column] / each[column] for ours, each in zip(base, times, strict=True)])
            cells.append(f"{middle:.1f} ms" + ("" if name == "defaults" else f" · ×{ratio}"))
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    text = "\n".join(lines)
    print(text)
    if given.write is not None:
        write_between_marks(given.write, "session options", text)


if __name__ == "__main__":
    main()
