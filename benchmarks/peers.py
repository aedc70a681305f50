"""cgptc against the systems that people would use instead: same weights, the same machine, fresh processes that take turns.

Every round runs each system once, in a random order, in a process of its own; a ratio is a system's time over that of cgptc with weights of
the same form in the same round, and what is printed is the median ratio with its 90 % interval and the number of pairs. Above 1 cgptc is
faster. Rounds are kept in the folder: a later call adds to them, with the same systems or others, and the table is made of all.
The model is the folder's ``hf`` where that is there (`trained_gpt2.py` writes one), else one of the preset's shape.
Systems whose packages conflict get virtual environments under ``--venvs``, made where missing; one that fails is listed with its error.

    python benchmarks/peers.py --folder /tmp/111m --venvs /tmp/peers --rounds 20 --write README.md
    python benchmarks/peers.py --folder /tmp/111m --venvs /tmp/peers --system openvino-int8 --minutes 7
    python benchmarks/peers.py --folder /tmp/demo --preset demo --venvs /tmp/peers --text examples/train/held_out.txt --rounds 0
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marked_text import write_between_marks
from peer_table import differing, table
from systems import FORMS, NAMES, split

ONNX_EXPORT = ["torch==2.13.0", "optimum-onnx==0.1.0", "transformers<4.58", "onnxruntime==1.31.1"]
PACKAGES = {
    "optimum": ONNX_EXPORT,
    "openvino": ["openvino", "nncf"],
    "ctranslate2": ["ctranslate2", "torch==2.13.0", "transformers<4.58"],
    "llama.cpp": ["llama-cpp-python", "gguf", "safetensors"],
}
"""What a system's environment holds; one without an entry runs in this one."""

NEEDS = {"openvino": "optimum-f32", "optimum": "optimum-f32"}
"""Systems that run a file which another prepares."""

RUNS = Path(__file__).with_name("peer_runs.py")


class PeerError(Exception):
    """A system's process failed; the message is its last line."""


def interpreter(system: str, venvs: Path | None) -> str:
    """The Python that runs a system. `PeerError` where its environment cannot be made."""
    if system not in PACKAGES:
        return sys.executable
    if venvs is None:
        raise PeerError("no --venvs folder for its environment")
    folder = venvs / system
    python = str(folder / "bin" / "python")
    if not (folder / "done").exists():
        venv.create(folder, with_pip=True)
        _process([python, "-m", "pip", "install", "--quiet", "numpy", *PACKAGES[system]])
        (folder / "done").touch()
    return python


def _process(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"})
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise PeerError(lines[-1][:300] if lines else f"exit status {done.returncode}")
    return done.stdout


@dataclass
class Results:
    """What the folder keeps from call to call."""

    settings: dict[str, Any]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, place: Path, settings: dict[str, Any]) -> Results:
        """What was kept, or nothing yet. SystemExit where it was measured otherwise than is asked for now."""
        if not place.exists():
            return cls(settings)
        found = cls(**json.loads(place.read_text()))
        if found.settings != settings:
            raise SystemExit(f"{place} was measured with {found.settings}: take another folder")
        return found

    def save(self, place: Path) -> None:
        partial = place.with_suffix(".partial")
        partial.write_text(json.dumps(vars(self)))
        partial.replace(place)


@dataclass(frozen=True)
class Bench:
    """A folder with the model and what each system made of it."""

    folder: Path
    venvs: Path | None
    results: Results

    def call(self, name: str, action: str) -> dict[str, Any] | None:
        """One process of a system; its result. None where it fails, which is kept and said."""
        try:
            output = _process([interpreter(split(name)[0], self.venvs), str(RUNS), name, action, str(self.folder / "spec.json")])
        except PeerError as error:
            self.results.failures[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr)
            return None
        found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return found

    def prepare(self, names: list[str]) -> list[str]:
        """The systems that are ready to run, each prepared once."""
        ready: dict[str, bool] = {}
        for name in [each for wanted in names for each in (NEEDS.get(split(wanted)[0]), wanted) if each is not None]:
            stamp = self.folder / f"{name}.prepared"
            if name not in ready:
                ready[name] = stamp.exists() or self.call(name, "prepare") is not None
                if ready[name]:
                    stamp.touch()
                    self.results.failures.pop(name, None)
        return [name for name in names if ready[name]]

    def measure(self, names: list[str], rounds: int, seconds: float) -> None:
        """Rounds of all systems, as many as asked for, and as the time allows."""
        start, longest = time.monotonic(), 0.0
        for number in range(rounds):
            begun = time.monotonic()
            if begun - start + longest > seconds:
                break
            runs = {name: self.call(name, "run") for name in random.sample(names, len(names))}
            self.results.rounds.append({name: found for name, found in runs.items() if found is not None})
            self.results.save(self.folder / "results.json")
            longest = max(longest, time.monotonic() - begun)
            print(f"round {number + 1} of {rounds}: {time.monotonic() - begun:.0f} s", file=sys.stderr)

    def score(self, names: list[str]) -> None:
        """Each system's loss on the text."""
        for name in names:
            found = self.call(name, "score")
            if found:
                self.results.losses[name] = found["loss"]
        self.results.save(self.folder / "results.json")


def write_model(preset: str, folder: Path) -> None:
    """The Hugging Face folder that all read; one without a tokenizer gets one of plain numbers, which some converters ask for."""
    hf = folder / "hf"
    subprocess.run([sys.executable, "-m", "cgptc", "new", "--preset", preset, "-o", str(hf), "-q"], check=True)
    word = "w0"
    if not (hf / "tokenizer.json").exists():
        size: int = json.loads((hf / "config.json").read_text())["vocab_size"]
        tokenizer = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "vocab": {f"w{number}": number for number in range(size)}, "unk_token": "w0"},
        }  # fmt: skip
        (hf / "tokenizer.json").write_text(json.dumps(tokenizer))
    else:
        vocabulary = json.loads((hf / "tokenizer.json").read_text())["model"]["vocab"]
        word = min(vocabulary, key=vocabulary.__getitem__)
    describe_tokenizer(hf, word)


def describe_tokenizer(hf: Path, word: str) -> None:
    """What converters ask of a tokenizer beside its file; ``word`` stands for whatever is special."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": word, "bos_token": word, "eos_token": word}
    (hf / "tokenizer_config.json").write_text(json.dumps(settings))


def windows(hf: Path, text: Path, context: int, *, lines: bool) -> list[list[int]]:
    """The text's tokens in pieces as long as the model takes, each beginning with the last token of the one before; with ``lines`` every
    line is a text of its own.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(hf / "tokenizer.json"))
    whole = text.read_text(encoding="utf-8")
    rows: list[list[int]] = [tokenizer.encode(part).ids for part in (whole.splitlines() if lines else [whole])]
    return [ids[start : start + context + 1] for ids in rows for start in range(0, len(ids) - 1, context)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cerebras-gpt-111m")
    parser.add_argument("--folder", type=Path, required=True, help="where models and rounds are kept")
    parser.add_argument("--venvs", type=Path)
    parser.add_argument("--system", action="append", choices=NAMES, help="only these, and cgptc in the same forms; may be repeated")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no round that would end later")
    parser.add_argument("--lengths", default="128")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--text", type=Path, help="also tell the loss on this text, of the model's own tokenizer")
    parser.add_argument("--lines", action="store_true", help="each line of --text is a text of its own")
    parser.add_argument("--note", default="", help="a remark on the machine for the table")
    parser.add_argument("--write", type=Path, help="a file with the marks of this table")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "hf").exists():
        write_model(arguments.preset, folder)
    lengths = sorted(int(length) for length in arguments.lengths.split(","))
    settings = {"preset": arguments.preset, "lengths": lengths, "new_tokens": arguments.new_tokens, "repeats": arguments.repeats}
    settings |= {"threads": arguments.threads}
    bench = Bench(folder, arguments.venvs, Results.open(folder / "results.json", settings))
    config = json.loads((folder / "hf" / "config.json").read_text())
    spec = settings | {"folder": str(folder), "vocabulary": config["vocab_size"], "decode_prompt": lengths[0]}
    if arguments.text is not None:
        spec["windows"] = windows(folder / "hf", arguments.text, config["n_positions"], lines=arguments.lines)
    (folder / "spec.json").write_text(json.dumps(spec))

    wanted = arguments.system or list(NAMES)
    forms = dict.fromkeys(split(name)[1] for name in wanted)
    ready = bench.prepare(list(dict.fromkeys([*(f"cgptc-{form}" for form in FORMS["cgptc"] if form in forms), *wanted])))
    bench.results.save(folder / "results.json")
    bench.measure(ready, arguments.rounds, 60 * arguments.minutes)
    if arguments.text is not None:
        bench.score(ready)
    text = page(bench, arguments.note)
    print(text)
    if arguments.write is not None:
        write_between_marks(arguments.write, f"peers {arguments.preset}", text)


def page(bench: Bench, note: str) -> str:
    """All that is known, as Markdown."""
    from cgptc.driver.bench.work import weight_bytes_per_token
    from cgptc.runtime.compiled import Artifact

    results, settings = bench.results, bench.results.settings
    token_bytes = {
        form: weight_bytes_per_token(Artifact.open(place).graph)
        for form in FORMS["cgptc"]
        if (place := bench.folder / f"cgptc-{form}").exists()
    }
    text = f"{settings['preset']}, batch 1, {settings['threads']} threads, {processor()}. {note}".strip()
    parts = [text, table(results.rounds, NAMES, token_bytes, results.losses)]
    if results.rounds:
        parts.append(f"f32 systems whose greedy tokens differ from cgptc's: {', '.join(differing(results.rounds)) or 'none'}.")
    if results.failures:
        parts.append("Not measured:\n\n" + "\n".join(f"- {name}: {error}" for name, error in results.failures.items()))
    return "\n\n".join(parts)


def processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
