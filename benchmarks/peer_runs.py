"""One system's part of `peers.py`, run by that system's own interpreter: prepares the model once, times it, or scores a text.

    python benchmarks/peer_runs.py SYSTEM-FORM prepare|run|score SPEC

SPEC is a JSON file; the last line printed is the result. Each system reads the same Hugging Face folder (``hf``) and gives the likeliest
next token after the prompt: the logits of other positions are computed only where it cannot avoid them.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from systems import load, split
from systems.peer import Decodes, Peer, Scores, Steps, decode_by_steps, loss


def run(system: str, form: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds by prompt length, seconds of a decoded token, and the tokens themselves, for the same greedy text from all."""
    rng = np.random.default_rng(0)
    prompts = {length: rng.integers(spec["vocabulary"], size=length).tolist() for length in spec["lengths"]}
    start = time.perf_counter()
    peer = load(system)(Path(spec["folder"]), form, spec["threads"])
    first = {str(length): peer.prefill(ids) for length, ids in prompts.items()}
    found: dict[str, Any] = {"first": first, "prefill": {}, "ready": time.perf_counter() - start}
    for length, ids in prompts.items():
        found["prefill"][str(length)] = statistics.median(_timed(peer, ids) for _ in range(spec["repeats"]))
    after, count = prompts[spec["decode_prompt"]], spec["new_tokens"]
    if system == "cgptc":
        found |= _beside_bandwidth(peer, after, count, spec["threads"])
    elif isinstance(peer, Decodes):
        found["tokens"], seconds = peer.decode(after, count)
        found["step"] = statistics.median(seconds)
    elif isinstance(peer, Steps):
        found["tokens"], seconds = decode_by_steps(peer, after, count)
        found["step"] = statistics.median(seconds)
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def _timed(peer: Peer, ids: list[int]) -> float:
    start = time.perf_counter()
    peer.prefill(ids)
    return time.perf_counter() - start


def _beside_bandwidth(peer: Peer, ids: list[int], count: int, threads: int) -> dict[str, Any]:
    """Steps, and the memory's speed before and after them."""
    from cgptc.driver.bench.read_stream import ReadStream

    assert isinstance(peer, Steps)
    stream = ReadStream(threads)
    limits = [stream.measure()]
    made, seconds = decode_by_steps(peer, ids, count)
    limits.append(stream.measure())
    return {"tokens": made, "step": statistics.median(seconds), "bandwidth": statistics.mean(limits)}


def main() -> None:
    name, action, place = sys.argv[1:]
    system, form = split(name)
    spec = json.loads(Path(place).read_text())
    folder = Path(spec["folder"])
    match action:
        case "prepare":
            load(system).prepare(folder, form)
            result: dict[str, Any] = {}
        case "run":
            result = run(system, form, spec)
        case "score":
            peer = load(system)(folder, form, spec["threads"])
            result = {"loss": loss(peer, spec["windows"])} if isinstance(peer, Scores) else {}
        case _:
            raise SystemExit(f"there is no '{action}'")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
