"""Damaged files that a user gives beside a model, and damaged models of onnxruntime's: each is read or refused with an error of ours.

Examples per file are the Hypothesis profile's: 50 in ``dev``, 5,000 in ``soak``.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from tests.driver.test_compilation import X, perceptron
from tests.driver.test_hostile_artifacts import DEEP
from tests.file_mutations import EDITS, Edits, mutate
from tests.hostile_artifacts import assert_said_in_one_line
from tests.json_mutations import FEW, JSON_EDITS, JsonEdits, mutate_json

from cgptc.backends.onnx.session import OnnxSession
from cgptc.backends.onnx.staged_session import read_plan
from cgptc.backends.wafer.boundary import planning
from cgptc.backends.wafer.machine import WSE2, find_machine, machine_fields
from cgptc.driver.arrays import read_arrays
from cgptc.driver.compilation import compile_model
from cgptc.driver.examination import read_graph
from cgptc.driver.options import CompileOptions
from cgptc.driver.replay import replay
from cgptc.driver.reproducer import write_reproducer
from cgptc.ir.diagnostics import CgptcError, FileError, MalformedError
from cgptc.ir.stage_plan import PLAN_FILE, PlannedEdge, PlannedStage, StagePlan
from cgptc.passes.common_subexpressions import CommonSubexpressions
from cgptc.passes.manager import PassContext


def arrays(compressed: bool) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, input_ids=np.arange(6).reshape(2, 3), x=X, flag=np.array(True))
    return file.getvalue()


def machine_in_toml() -> bytes:
    lines = [f"{name} = {json.dumps(value)}" for name, value in machine_fields(WSE2).items() if not isinstance(value, dict)]
    return "\n".join([*lines, "[mac_lanes]", "f32 = 1.0", "f16 = 4.0"]).encode()


def facts_of_a_failure() -> bytes:
    folder = write_reproducer(perceptron().graph, CommonSubexpressions(), PassContext(), "ir", ValueError("a planted bug"))
    return (folder / "reproducer.json").read_bytes()


def plan_of_stages() -> bytes:
    stages = PlannedStage(("x",), ("h",)), PlannedStage(("h",), ("y",))
    return json.dumps(StagePlan(("x",), ("y",), stages, (PlannedEdge("h", 0, (1,), 2),), True).to_json()).encode()


def read_machine(path: Path) -> None:
    with planning():
        machine = find_machine(str(path))
        assert machine.vector_cycles("f32", 10) >= 0


def run_model(path: Path) -> None:
    session = OnnxSession.open(path, threads=1)
    assert len(session.run({"x": X})) == len(session.outputs)


def replay_beside_its_graph(path: Path) -> None:
    (path.parent / "before.cgir").write_text(str(perceptron().graph))
    assert replay(path.parent).pipeline is not None


def read_npz(path: Path) -> None:
    for array in read_arrays(path).values():
        assert array.size >= 0


READERS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], object]]] = {
    "arrays": ("in.npz", lambda: arrays(compressed=False), read_npz),
    "compressed arrays": ("in.npz", lambda: arrays(compressed=True), read_npz),
    "machine in JSON": ("machine", lambda: json.dumps(machine_fields(WSE2)).encode(), read_machine),
    "machine in TOML": ("machine", machine_in_toml, read_machine),
    "graph": ("graph.cgir", lambda: str(perceptron().graph).encode(), read_graph),
    "reproducer": ("reproducer.json", facts_of_a_failure, replay_beside_its_graph),
    "stages": (PLAN_FILE, plan_of_stages, lambda path: read_plan(path.parent)),
}
"""A file's name, what is in it, and what reads it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


@pytest.fixture(scope="module")
def contents(folder: Path) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        return {kind: make() for kind, (_, make, _) in READERS.items()}


@pytest.mark.parametrize("kind", READERS)
def test_a_file_is_read_before_it_is_mutated(folder: Path, contents: dict[str, bytes], kind: str) -> None:
    name, _, read = READERS[kind]
    (folder / name).write_bytes(contents[kind])
    read(folder / name)


@pytest.mark.parametrize("kind", READERS)
@given(edits=EDITS)
def test_a_mutated_file_is_read_or_refused(folder: Path, contents: dict[str, bytes], kind: str, edits: Edits) -> None:
    name, _, read = READERS[kind]
    (folder / name).write_bytes(mutate(contents[kind], edits))
    assert_said_in_one_line(lambda: read(folder / name))


@pytest.mark.parametrize("kind", ["machine in JSON", "reproducer", "stages"])
@FEW
@given(edits=JSON_EDITS)
def test_a_file_of_other_json_is_read_or_refused(folder: Path, contents: dict[str, bytes], kind: str, edits: JsonEdits) -> None:
    name, _, read = READERS[kind]
    (folder / name).write_bytes(mutate_json(contents[kind], edits))
    assert_said_in_one_line(lambda: read(folder / name))


@pytest.mark.parametrize(
    ("local", "central", "values"), [(6, 8, [1 << bit for bit in range(16)]), (8, 10, range(100))], ids=["flags", "method"]
)
def test_arrays_of_any_flag_and_compression_are_read_or_refused(
    folder: Path, contents: dict[str, bytes], local: int, central: int, values: Sequence[int]
) -> None:
    for value in values:
        data = bytearray(contents["compressed arrays"])
        for signature, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
            for start in (found.start() for found in re.finditer(re.escape(signature), data)):
                data[start + offset : start + offset + 2] = value.to_bytes(2, "little")
        (folder / "in.npz").write_bytes(data)
        assert_said_in_one_line(lambda: read_npz(folder / "in.npz"))


@pytest.mark.parametrize("kind", [kind for kind in READERS if "arrays" not in kind])
@pytest.mark.parametrize("bracket", ["[", '{"a":', "x = " + "[" * 99])
def test_what_is_nested_deeply_is_refused(folder: Path, kind: str, bracket: str) -> None:
    name, _, read = READERS[kind]
    (folder / name).write_text(bracket * DEEP)
    with pytest.raises(CgptcError):
        read(folder / name)


@pytest.mark.parametrize("field", ["\x7f", "\u200b", "\\n", "\\u001b", "\\ud800"])
def test_an_unknown_field_of_a_machine_is_told_in_one_line(tmp_path: Path, field: str) -> None:
    (tmp_path / "machine").write_text(f'{{"name": "m", "width": 4, "height": 4, "clock_hz": 1e9, "{field}": 1}}')
    with pytest.raises(CgptcError, match="unknown field"):
        read_machine(tmp_path / "machine")
    assert_said_in_one_line(lambda: read_machine(tmp_path / "machine"))


@pytest.mark.parametrize("field", ['"base": ["wse2"]', '"clock_hz": 1e999', '"clock_hz": NaN', f'"clock_hz": 1{"0" * 400}', '"width": -1'])
def test_a_machine_of_impossible_numbers_is_refused(tmp_path: Path, field: str) -> None:
    (tmp_path / "machine").write_text(f'{{"name": "m", "width": 4, "height": 4, "clock_hz": 1e9, {field}}}')
    with pytest.raises(CgptcError):
        read_machine(tmp_path / "machine")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = tmp_path_factory.mktemp("model") / "out"
    return (compile_model(perceptron(), CompileOptions(), place).path / "model.onnx").read_bytes()


@given(edits=EDITS)
def test_a_mutated_model_of_onnxruntimes_is_refused_or_runs(folder: Path, model: bytes, edits: Edits) -> None:
    """What it computes, only digests can tell."""
    (folder / "model.onnx").write_bytes(mutate(model, edits))
    assert_said_in_one_line(lambda: run_model(folder / "model.onnx"))


def test_a_model_with_an_element_type_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    text = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.STRING, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "strings", text[:1], text[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), tmp_path / "model.onnx")
    with pytest.raises(FileError, match="onnxruntime refuses the model"):
        OnnxSession.open(tmp_path / "model.onnx")


def test_a_member_that_is_no_array_is_refused_by_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as archive:
        archive.writestr("x.npy", b"\xb1NUMPY, nearly")
    with pytest.raises(MalformedError, match="holds 'x', which is no array"):
        read_arrays(tmp_path / "in.npz")
