"""cgptc against the systems that people would use instead: same weights, f32, the same machine, fresh processes that take turns.

Every round runs each peer once, in a random order, in a process of its own; a ratio is a peer's time over cgptc's in the same round, and
what is printed is the median ratio with its 90 % interval (bootstrap of the median over the rounds). Above 1 cgptc is faster. Peers that
need packages that conflict get virtual environments under ``--venvs``, made where missing; a peer that fails is listed with its error.

    python benchmarks/peers.py --preset cerebras-gpt-111m --rounds 20 --venvs /tmp/peers -o peers.md
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
from peer_runs import PEERS

PACKAGES = {
    "optimum": ["torch==2.13.0", "optimum-onnx==0.1.0", "transformers<4.58", "onnxruntime==1.31.1"],
    "openvino": ["openvino"],
    "ctranslate2": ["ctranslate2", "torch==2.13.0", "transformers<4.58"],
    "llama.cpp": ["llama-cpp-python"],
}
"""What a peer's environment holds; a peer without an entry runs in this one."""

NEEDS = {"openvino": "optimum"}
"""Peers that run a file which another prepares."""

RUNS = Path(__file__).with_name("peer_runs.py")


class PeerError(Exception):
    """A peer's process failed; the message is its last line."""


def interpreter(name: str, venvs: Path | None) -> str:
    """The Python that runs a peer. `PeerError` where its environment cannot be made."""
    if name not in PACKAGES:
        return sys.executable
    if venvs is None:
        raise PeerError("no --venvs folder for its environment")
    folder = venvs / name
    python = str(folder / "bin" / "python")
    if not (folder / "done").exists():
        venv.create(folder, with_pip=True)
        _process([python, "-m", "pip", "install", "--quiet", "numpy", *PACKAGES[name]])
        (folder / "done").touch()
    return python


def _process(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"})
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise PeerError(lines[-1][:300] if lines else f"exit status {done.returncode}")
    return done.stdout


def call(name: str, action: str, spec: Path, venvs: Path | None) -> dict[str, Any]:
    """One process of a peer; its result. `PeerError` where it fails."""
    output = _process([interpreter(name, venvs), str(RUNS), name, action, str(spec)])
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


def write_model(preset: str, folder: Path) -> int:
    """The Hugging Face folder that all read, with a tokenizer of plain numbers, which some converters ask for; its vocabulary's size."""
    subprocess.run([sys.executable, "-m", "cgptc", "new", "--preset", preset, "-o", str(folder / "hf"), "-q"], check=True)
    size: int = json.loads((folder / "hf" / "config.json").read_text())["vocab_size"]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {f"w{number}": number for number in range(size)}, "unk_token": "w0"},
    }  # fmt: skip
    (folder / "hf" / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "bos_token": "w0", "eos_token": "w0"}
    (folder / "hf" / "tokenizer_config.json").write_text(json.dumps(settings))
    return size


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Median, and the 5th and 95th percentile of medians of resamples."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (4000, len(ratios))), axis=1)
    return float(np.median(ratios)), float(np.percentile(medians, 5)), float(np.percentile(medians, 95))


def columns(found: dict[str, Any]) -> dict[str, float]:
    """A run's times by column."""
    times = {f"prefill {length}": seconds for length, seconds in found["prefill"].items()}
    return times | ({"decode": found["step"]} if "step" in found else {})


def table(results: dict[str, list[dict[str, Any]]], failures: dict[str, str], weight_bytes: int, note: str) -> str:
    """The measured figures as Markdown."""
    ours = [columns(found) for found in results["cgptc"]]
    names = list(ours[0])
    units = {name: "tokens/s" if name == "decode" else "ms" for name in names}
    lines = [note, "", "| | " + " | ".join(f"{name} ({units[name]})" for name in names) + " |", "| --- |" + " --- |" * len(names)]
    for peer, runs in results.items():
        cells = []
        for name in names:
            times = [columns(found).get(name) for found in runs]
            if any(time is None for time in times):
                cells.append("")
                continue
            middle = statistics.median(time for time in times if time is not None)
            cell = f"{1 / middle:.1f}" if name == "decode" else f"{middle * 1e3:.0f}"
            if peer != "cgptc":
                ratio, low, high = interval([time / mine[name] for time, mine in zip(times, ours, strict=True) if time is not None])
                cell += f" · ×{ratio:.2f} [{low:.2f}, {high:.2f}]"
            cells.append(cell)
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    share, low, high = interval([weight_bytes / found["step"] / found["bandwidth"] for found in results["cgptc"]])
    lines += [
        "",
        f"cgptc decodes at {share:.0%} [{low:.0%}, {high:.0%}] of the bound: weight bytes over the bandwidth read in its own runs.",
    ]
    reference = results["cgptc"][0]
    differing = [peer for peer, runs in results.items() if any(not _same_text(found, reference) for found in runs)]
    lines += ["", f"Greedy tokens that differ from cgptc's: {', '.join(differing) or 'none'}."]
    if failures:
        lines += ["", "Not measured:", *(f"- {peer}: {error}" for peer, error in failures.items())]
    return "\n".join(lines) + "\n"


def _same_text(found: dict[str, Any], reference: dict[str, Any]) -> bool:
    """Whether a run's greedy tokens are the reference's, where it made any."""
    return all(found[key] == reference[key] for key in ("first", "tokens") if key in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cerebras-gpt-111m")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="only these, and cgptc; may be repeated")
    parser.add_argument("--lengths", default="128,512")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--decode-prompt", type=int, default=128, help="tokens before the decoded ones")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--venvs", type=Path)
    parser.add_argument("--folder", type=Path, help="where models are prepared, and kept")
    parser.add_argument("--note", default="", help="a remark on the machine for the table")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        text = measure(arguments, folder)
    print(text, end="")
    if arguments.output is not None:
        arguments.output.write_text(text)


def measure(arguments: argparse.Namespace, folder: Path) -> str:
    """Prepare every peer, run the rounds, and give the table."""
    exists = (folder / "hf").exists()
    vocabulary = json.loads((folder / "hf" / "config.json").read_text())["vocab_size"] if exists else write_model(arguments.preset, folder)
    lengths = [int(length) for length in arguments.lengths.split(",")]
    spec = folder / "spec.json"
    values = {"lengths": lengths, "new_tokens": arguments.new_tokens, "repeats": arguments.repeats, "threads": arguments.threads}
    values["decode_prompt"] = arguments.decode_prompt
    spec.write_text(json.dumps(values | {"folder": str(folder), "vocabulary": vocabulary}))
    names = [name for name in PEERS if arguments.peer is None or name == "cgptc" or name in arguments.peer]
    failures: dict[str, str] = {}
    for name in dict.fromkeys([name for wanted in names for name in (NEEDS.get(wanted), wanted) if name is not None]):
        try:
            if not (folder / f"{name}.prepared").exists():
                call(name, "prepare", spec, arguments.venvs)
                (folder / f"{name}.prepared").touch()
        except PeerError as error:
            failures[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names if name not in failures}
    for number in range(arguments.rounds):
        for name in random.sample(list(results), len(results)):
            try:
                results[name].append(call(name, "run", spec, arguments.venvs))
            except PeerError as error:
                failures[name] = str(error)
                print(f"{name}: {error}", file=sys.stderr)
                del results[name]
        (folder / "results.json").write_text(json.dumps(results))
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    if "cgptc" not in results:
        raise SystemExit(f"cgptc itself failed: {failures['cgptc']}")
    from cgptc.driver.bench.work import weight_bytes_per_token
    from cgptc.runtime.compiled import Artifact

    note = f"{arguments.preset}, f32, batch 1, {arguments.threads} threads, {arguments.rounds} rounds. {arguments.note}".strip()
    return table(results, failures, weight_bytes_per_token(Artifact.open(folder / "cgptc").graph), note)


if __name__ == "__main__":
    main()
