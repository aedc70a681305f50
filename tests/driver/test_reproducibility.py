"""Equal compiles give equal bytes, whatever surrounds them: hash seed, folder, home, user, clock, time zone, locale, threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cgptc.cli.entry import run
from cgptc.frontend.gpt_config import GptConfig
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import Preset

SOURCE = Path(__file__).parents[2] / "src"
SMALL = Preset("small", GptConfig(vocabulary=17, positions=8, layers=1, heads=2, width=8, ffn_width=16), "")
TARGETS = {"onnx": (), "wafer": ("--grid", "2x2")}

PROGRAM = """
import locale, sys, time

now, now_ns, ahead = time.time, time.time_ns, int(sys.argv[1])
time.time, time.time_ns = lambda: now() + ahead, lambda: now_ns() + ahead * 10**9
try:
    locale.setlocale(locale.LC_ALL, "")
except locale.Error:
    pass  # this system does not have it
import torch
from cgptc.cli.entry import run

torch.set_num_threads(int(sys.argv[2]))
model, place = sys.argv[3:5]
for target, *options in (argument.split(",") for argument in sys.argv[5:]):
    assert run(["compile", model, "--target", target, "-o", f"{place}/{target}", "-q", *options]) == 0
"""

ZONES = ("UTC", "Asia/Tokyo", "America/St_Johns", "Pacific/Chatham")
LOCALES = ("C", "C.UTF-8", "tr_TR.UTF-8", "de_DE.ISO-8859-1", "POSIX")
AHEAD_SECONDS = (0, -(10**8), 10**6, 10**9)
"""Among them before 2023 and after 2050."""


def content(place: Path) -> dict[str, str]:
    """Digests of all files of all targets."""
    return {
        str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(place.rglob("*")) if file.is_file()
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reproducible") / "model.pt"
    write_model(SMALL, path)
    return path


def expected(model: Path, targets: Sequence[str]) -> dict[str, str]:
    """As compiled in this process."""
    found: dict[str, str] = {}
    for target in targets:
        place = model.with_name(f"out-{target}") / target
        if not place.exists():
            place.parent.mkdir()
            assert run(["compile", str(model), "--target", target, "-o", str(place), "-q", *TARGETS[target]]) == 0
        found |= content(place.parent)
    return found


def compile_elsewhere(model: Path, targets: Sequence[str], folder: Path, number: int) -> Path:
    """Compile a copy of the model for the targets in a process of its own, in the surroundings of that number."""
    place = folder.joinpath(*["über", "a b", "x" * 60][: number % 4]) / f"{number}"
    place.mkdir(parents=True)
    copy = place / model.name
    copy.write_bytes(model.read_bytes())
    threads = str(1 + number % 3)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),
        "PYTHONHASHSEED": str(number * 7919 % 2**32),
        "PYTHONUTF8": str(number % 2),
        "TZ": ZONES[number % len(ZONES)],
        "LC_ALL": LOCALES[number % len(LOCALES)],
        "OMP_NUM_THREADS": threads,
        "NUMBA_NUM_THREADS": threads,
        "HOME": str(place),
        "USER": f"somebody{number}",
        "LOGNAME": f"somebody{number}",
        "COLUMNS": str(40 + number),
    }
    out = place / "out"
    out.mkdir()
    ahead = str(AHEAD_SECONDS[number % len(AHEAD_SECONDS)])
    wanted = [",".join((target, *TARGETS[target])) for target in targets]
    command = [sys.executable, "-c", PROGRAM, ahead, threads, str(copy) if number % 2 else model.name, "out", *wanted]
    subprocess.run(command, env=environment, cwd=place, check=True, umask=(0o022, 0o077)[number % 2], capture_output=True)
    return out


def assert_reproduced(model: Path, targets: Sequence[str], folder: Path, number: int) -> None:
    out = compile_elsewhere(model, targets, folder, number)
    assert content(out) == expected(model, targets)
    everything = b"".join(file.read_bytes() for file in out.rglob("*") if file.is_file())
    for named in (str(folder), str(Path.cwd()), str(SOURCE), "somebody"):
        assert named.encode() not in everything, named


def test_equal_compiles_give_equal_bytes_whatever_the_surroundings(model: Path, tmp_path: Path) -> None:
    assert_reproduced(model, ["onnx"], tmp_path, 7)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_twenty_compiles_for_every_target_give_equal_bytes(model: Path, tmp_path: Path, number: int) -> None:
    assert_reproduced(model, list(TARGETS), tmp_path, number)
