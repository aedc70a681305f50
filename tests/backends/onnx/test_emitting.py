"""What `emit` writes: files, layout of weights, names, bytes that are the same every time; and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.backends.onnx.execution import ORT, STANDARD
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.backends.onnx.backend import DATA_FILE, MODEL_FILE
from cgptc.backends.onnx.external_data import LINE_BYTES, PAGE_BYTES, SINGLE_FILE_BYTES
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.registry import backend, backend_names
from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32, f64, i4, i64
from cgptc.ir.graph import Graph
from cgptc.ir.loc import Frame, Location
from cgptc.ir.op import Array
from cgptc.ir.ops.elementwise import Cast, Erf, Neg
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.loss import MseLoss
from cgptc.ir.ops.matmul import Linear, MatMul
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import Transposed
from cgptc.ir.weights import MemoryStore, Stored

ONNX = backend("onnx")


def external(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Offset and length of each tensor in the data file."""
    found = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert place["location"] == DATA_FILE
            found[tensor.name] = (int(place["offset"]), int(place["length"]))
    return found


def emit(graph: Graph, folder: Path, options: OnnxOptions = ORT) -> onnx.ModelProto:
    ONNX.emit(graph, folder, options)
    return onnx.load(folder / MODEL_FILE, load_external_data=False)


def test_large_weights_lie_aligned_in_one_file(tmp_path: Path) -> None:
    model = emit(TinyGpt(vocabulary=300).graph(), tmp_path)
    places = external(model)
    assert {path.name for path in tmp_path.iterdir()} == {MODEL_FILE, DATA_FILE}
    assert len(places) > 10
    end = 0
    for offset, length in sorted(places.values()):
        assert offset >= end
        assert offset % (PAGE_BYTES if length >= PAGE_BYTES else LINE_BYTES) == 0
        end = offset + length
    assert (tmp_path / DATA_FILE).stat().st_size == end
    onnx.checker.check_model(str(tmp_path / MODEL_FILE), full_check=False)


def test_emitted_folder_loads_and_holds_the_right_numbers(tmp_path: Path) -> None:
    graph = TinyGpt(vocabulary=300).graph()
    emitted = ONNX.emit(graph, tmp_path, ORT)
    assert emitted.files == (MODEL_FILE, DATA_FILE)
    ids = np.arange(5)[None]
    session = ONNX.load(tmp_path, ORT)
    assert session.run({"input_ids": ids})["logits"].shape == (1, 5, 300)
    stored = onnx.load(tmp_path / MODEL_FILE)
    tables = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored.graph.initializer}
    np.testing.assert_array_equal(tables["wte.weight"], graph.store.read("wte.weight", 0, 300))


def test_small_model_is_one_file(tmp_path: Path) -> None:
    emitted = ONNX.emit(TinyGpt(layers=1, heads=2, key_heads=1).graph(), tmp_path, ORT)
    assert emitted.files == (MODEL_FILE,)
    assert (tmp_path / MODEL_FILE).stat().st_size < 2 * SINGLE_FILE_BYTES


@pytest.mark.parametrize("options", [ORT, STANDARD], ids=["ort", "standard"])
def test_tied_weights_are_stored_once(tmp_path: Path, options: OnnxOptions) -> None:
    model = emit(TinyGpt(tied=True).graph(), tmp_path, options)
    assert [tensor.name for tensor in model.graph.initializer if list(tensor.dims) in ([23, 32], [32, 23])] == ["wte.weight"]
    assert not any(node.op_type == "Transpose" and "wte.weight" in node.input for node in model.graph.node)


def test_weight_used_twice_is_stored_once(tmp_path: Path) -> None:
    store = MemoryStore({})
    graph = Graph("twice", store)
    weight = Transposed(store.add("w", np.eye(4, 4, dtype=np.float32)), (1, 0))
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (Symbol("seq", 1, 9).dim, 4)))
    y = build(Linear(), build(Linear(), x, build.weight(weight)), build.weight(Transposed(weight.base, (1, 0))))
    graph.add_output("y", y)
    assert len(emit(graph, tmp_path).graph.initializer) == 1


def test_four_bit_weights_are_packed_in_pairs(tmp_path: Path) -> None:
    values = np.array([[1, -2, 3], [-4, 5, -8], [7, 0, -1]]).astype(i4.numpy)
    store = MemoryStore({})
    graph = Graph("packed", store)
    build = Builder(graph)
    graph.add_output("y", build(Cast(f32), build.weight(store.add("w", values))))
    ONNX.emit(graph, tmp_path, ORT)
    np.testing.assert_array_equal(ONNX.load(tmp_path, ORT).run({})["y"], values.astype(np.float32))


@dataclass(frozen=True)
class SparseStore:
    """A table of zeros with one row of ones, which no memory could hold for long."""

    width: int
    marked_row: int

    def read(self, name: str, start: int, stop: int) -> Array:
        rows = np.zeros((stop - start, self.width), np.float32)
        if start <= self.marked_row < stop:
            rows[self.marked_row - start] = 1
        return rows


@pytest.mark.slow
def test_table_above_two_gigabytes_loads_and_its_holes_stay_holes(tmp_path: Path) -> None:
    rows, width = 140_000, 4096
    graph = Graph("huge", SparseStore(width, rows - 2))
    build = Builder(graph)
    ids = graph.add_input("ids", TensorType(i64, (Symbol("seq", 1, 9).dim,)))
    graph.add_output("y", build(Embedding(), build.weight(Stored("table", f32, (rows, width))), ids))
    ONNX.emit(graph, tmp_path, ORT)
    data = tmp_path / DATA_FILE
    assert data.stat().st_size == rows * width * 4 > 2**31
    assert data.stat().st_blocks * 512 < 1 << 20
    y = ONNX.load(tmp_path, ORT).run({"ids": np.array([rows - 2, 0, rows - 1])})["y"]
    np.testing.assert_array_equal(y.sum(axis=1), [width, 0, 0])


def test_memory_follows_the_largest_tensor_and_not_their_number(tmp_path: Path) -> None:
    count, rows, width = 12, 512, 1024
    graph = Graph("many", SparseStore(width, 3))
    build = Builder(graph)
    ids = graph.add_input("ids", TensorType(i64, (Symbol("seq", 1, 9).dim,)))
    for index in range(count):
        graph.add_output(f"y{index}", build(Embedding(), build.weight(Stored(f"table{index}", f32, (rows, width))), ids))
    ONNX.check(graph, ORT)  # what is imported on the way does not count
    tracemalloc.start()
    try:
        ONNX.emit(graph, tmp_path, ORT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * rows * width * 4 + (1 << 20)
    assert len(external(onnx.load(tmp_path / MODEL_FILE, load_external_data=False))) == count


def test_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ONNX.emit(TinyGpt(vocabulary=300, rotary=True, window=3).graph(), tmp_path / name, STANDARD)
    for name in (MODEL_FILE, DATA_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_bytes_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, tests.backends.onnx.tiny_gpt as tiny; from cgptc.backends.registry import backend;"
        "onnx = backend('onnx'); onnx.emit(tiny.TinyGpt().graph(), pathlib.Path(sys.argv[1]), onnx.options())"
    )
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    ONNX.emit(TinyGpt().graph(), tmp_path / "here", ORT)
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(["src", "."])}
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "there")], check=True, env=environment, timeout=120)
    assert (tmp_path / "here" / MODEL_FILE).read_bytes() == (tmp_path / "there" / MODEL_FILE).read_bytes()


def test_nodes_say_where_they_come_from(tmp_path: Path) -> None:
    model = emit(TinyGpt().graph(), tmp_path)
    (node,) = [node for node in model.graph.node if node.name == "/transformer/h.1/attn/GroupQueryAttention"]
    assert {entry.key: entry.value for entry in node.metadata_props} == {
        "cgptc.op": "attention",
        "cgptc.module": "transformer.h.1.attn",
        "cgptc.source": "gpt.py:10",
    }
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_sizes_that_vary_have_their_symbols_names(tmp_path: Path) -> None:
    model = emit(TinyGpt().graph(), tmp_path)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes["input_ids"] == ["batch", "seq"]
    assert shapes["attention_mask"] == ["batch", "past + seq"]
    assert shapes["past_key_values.0.key"] == ["batch", 2, "past", 8]
    assert shapes["logits"] == ["batch", "seq", 23]


def test_output_that_is_an_input_or_another_output_keeps_its_name(tmp_path: Path) -> None:
    graph = Graph("aliases")
    x = graph.add_input("x", TensorType(f32, (2,)))
    y = Builder(graph)(Neg(), x)
    graph.set_outputs([("same", x), ("first", y), ("second", y)])
    emit(graph, tmp_path)
    outputs = ONNX.load(tmp_path, ORT).run({"x": np.array([1, 2], np.float32)})
    assert {name: array.tolist() for name, array in outputs.items()} == {"same": [1, 2], "first": [-1, -2], "second": [-1, -2]}


def test_dead_nodes_and_their_weights_are_left_out(tmp_path: Path) -> None:
    store = MemoryStore({})
    graph = Graph("dead", store)
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (2, 2)))
    build(MatMul(), x, build.weight(store.add("unused", np.ones((2, 2), np.float32))))
    graph.add_output("y", build(Neg(), x))
    model = emit(graph, tmp_path)
    assert [node.op_type for node in model.graph.node] == ["Neg"]
    assert not model.graph.initializer


def test_all_nodes_that_cannot_be_lowered_are_reported_at_once(tmp_path: Path) -> None:
    graph = Graph("unsupported")
    x = graph.add_input("x", TensorType(f64, (2,)))
    build = Builder(graph, location=Location((Frame("head.act", "net.py", 7),)))
    build.location = Location((Frame("head.act", "net.py", 7),))
    erf = build(Erf(), x)
    build.location = Location((Frame("loss", "net.py", 9),))
    graph.add_output("loss", build(MseLoss(), erf, x))
    graph.add_output("other", build(MseLoss("sum"), x, x))
    with pytest.raises(CompileError, match="onnx cannot lower 2 nodes") as caught:
        ONNX.emit(graph, tmp_path, ORT)
    text = str(caught.value)
    assert "head.act (net.py:7)" in text
    assert "no f64 kernel for 'Erf'" in text
    assert "'mse_loss' has no lowering" in text
    assert not list(tmp_path.iterdir())


def test_check_reads_no_weights() -> None:
    class NoBytes:
        def read(self, name: str, start: int, stop: int) -> Array:
            raise AssertionError("read")

    graph = TinyGpt().graph()
    graph.store = NoBytes()
    assert not ONNX.check(graph, ORT)


def test_unknown_target_is_named_with_the_nearest_known() -> None:
    with pytest.raises(UsageError, match="there is no target 'onxx'") as caught:
        backend("onxx")
    assert "did you mean 'onnx'" in caught.value.fix
    assert backend_names()[:2] == ("onnx", "wafer")


@pytest.mark.parametrize("wrong", [{"ops": "both"}, {"ep": "tpu"}, {"opset": 12}], ids=str)
def test_wrong_option_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="--"):
        OnnxOptions(**wrong)  # type: ignore[arg-type]


def test_loading_imports_no_onnx(tmp_path: Path) -> None:
    ONNX.emit(TinyGpt(layers=1).graph(), tmp_path, ORT)
    script = (
        "import sys, pathlib; from cgptc.backends.registry import backend; onnx = backend('onnx');"
        "onnx.load(pathlib.Path(sys.argv[1]), onnx.options()).decoder();"
        "assert not {'onnx', 'onnx_ir', 'torch'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": "src"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env=environment, timeout=120)
