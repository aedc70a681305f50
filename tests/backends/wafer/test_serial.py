"""Program files: exact round trips, canonical bytes, nothing but ProgramError for anything else; and no need of the graph."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.backends.wafer.test_streams import relay

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.cannon import Cannon
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.program import Program, Scalar
from cgptc.backends.wafer.serial import parse_program, program_text, read_program, read_weights, write_program

MACHINE = small_machine(4, 4)


def _programs() -> list[Program]:
    attention = CachedAttention(1, 2, 2, 4, 8, 0.5, Grid(4, 2), var("past"), window=3)
    return [
        relay("along x downward"),
        single_region(MACHINE, [attention.fragment("a")], scalars=[Scalar("past", 0, 7)]),
        single_region(MACHINE, [Cannon(4, 4, 4, Grid(3, 3)).fragment("c")]),
    ]


def test_programs_survive_their_text_and_text_is_canonical() -> None:
    for program in _programs():
        text = program_text(program)
        assert parse_program(text) == program
        assert program_text(parse_program(text)) == text
        shuffled = json.dumps(json.loads(text), indent=1, sort_keys=False)
        assert program_text(parse_program(shuffled)) == text


def test_mutated_texts_give_a_program_or_a_program_error() -> None:
    source = random.Random(1)
    text = program_text(_programs()[1])
    for _ in range(150):
        start = source.randrange(len(text))
        damage = source.choice(['"', "{", "[", "0", "-1", "null", "1e999", "NaN", "true", ""])
        with contextlib.suppress(ProgramError):
            assert isinstance(parse_program(text[:start] + damage + text[start + source.randrange(4) :]), Program)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format=2), "this version reads 1"),
        (lambda content: content["program"].update(extra=1), "unknown"),
        (lambda content: content["program"].pop("regions"), "missing"),
        (lambda content: content["program"]["machine"].update(width=0), "'width' must be at least 1"),
        (lambda content: content["program"]["regions"][0].update(name=3), "expected str"),
        (lambda content: content["program"]["regions"][0]["rectangle"].update(x=True), "expected int"),
        (lambda content: content["program"]["regions"][0]["code"][0].update(steps=[{"jump": {}}]), "expected Local or Collective"),
        (lambda content: content["program"]["regions"][0]["rectangle"].update(x=1 << 60), "expected int"),
        (lambda content: content["program"]["streams"][0].update(first="z"), "'x' or 'y'"),
    ],
)
def test_wrong_fields_are_refused_by_place(change: object, message: str) -> None:
    content = json.loads(program_text(_programs()[0]))
    change(content)  # type: ignore[operator]
    with pytest.raises(ProgramError, match=message):
        parse_program(json.dumps(content))


def test_deep_nesting_is_refused_without_a_crash() -> None:
    for text in ("[" * 100_000, '{"format":1,"program":' + '{"a":' * 50_000 + "1" + "}" * 50_001):
        with pytest.raises(ProgramError):
            parse_program(text)
    content = json.loads(program_text(_programs()[2]))
    step = content["program"]["regions"][0]["code"][0]["steps"][0]
    for level in range(100):
        step = {"loop": {"variable": f"k{level}", "count": 1, "steps": [step]}}
    content["program"]["regions"][0]["code"][0]["steps"] = [step]
    with pytest.raises(ProgramError, match="nested too deeply"):
        parse_program(json.dumps(content))


def test_a_folder_holds_all_that_a_run_needs(tmp_path: Path) -> None:
    program = single_region(MACHINE, [Linear(1, 6, 5, Grid(2, 3), dtype="f16").fragment("a")])
    weight = np.arange(30).reshape(6, 5).astype(np.float16) / 8
    write_program(program, {"a.weight": weight}, tmp_path)
    engine = FastEngine(read_program(tmp_path))
    engine.load(read_weights(tmp_path))
    x = np.ones((1, 6), np.float16)
    np.testing.assert_array_equal(engine.run("run", {"a.x": x}, {}).outputs["a.y"], x @ weight)
    first = (tmp_path / "program.json").read_bytes()
    write_program(program, {"a.weight": weight}, tmp_path)
    assert (tmp_path / "program.json").read_bytes() == first


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not a header....")
    with pytest.raises(ProgramError, match="cannot be read"):
        read_weights(tmp_path)


ALONE = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("cgptc.ir", "cgptc.passes", "cgptc.frontend", "torch", "onnx")):
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Block())
import numpy
from pathlib import Path
import cgptc.backends.wafer.allocation, cgptc.backends.wafer.kernels.attention, cgptc.backends.wafer.kernels.cannon
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.interpret.pe import PeEngine
from cgptc.backends.wafer.serial import read_program, read_weights
from cgptc.backends.wafer.verify import check

folder = Path(sys.argv[1])
program = check(read_program(folder))
x = numpy.ones((1, 6), numpy.float16)
for engine in (FastEngine(program), PeEngine(program)):
    engine.load(read_weights(folder))
    print(engine.run("run", {"a.x": x}, {}).outputs["a.y"].tolist())
"""


def test_a_program_runs_where_neither_graph_nor_passes_can_be_imported(tmp_path: Path) -> None:
    program = single_region(MACHINE, [Linear(1, 6, 2, Grid(2, 3), dtype="f16").fragment("a")])
    write_program(program, {"a.weight": np.ones((6, 2), np.float16)}, tmp_path)
    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False)
    assert done.stderr == ""
    assert done.stdout.split("\n")[:2] == ["[[6.0, 6.0]]"] * 2
