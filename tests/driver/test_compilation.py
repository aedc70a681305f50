"""From a graph to an artifact that runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgptc
from cgptc.artifact.manifest import sealed
from cgptc.cli.entry import run
from cgptc.driver.compilation import compile_model, pipeline_for, target_of
from cgptc.driver.numeric_check import ExampleInputs
from cgptc.driver.options import CompileOptions, parse_dynamic
from cgptc.frontend.source import CapturedModel, Request, TextModel
from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CompileError, MalformedError, UsageError, VerifyError
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32, i64
from cgptc.ir.graph import Graph
from cgptc.ir.ops.elementwise import Relu
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.norm import LayerNorm
from cgptc.ir.types import TensorType
from cgptc.ir.weights import MemoryStore
from cgptc.passes.manager import PASSES, Pass, PassContext


def perceptron(text: TextModel | None = None) -> CapturedModel:
    """``layer_norm(relu(x @ w))`` over a symbolic batch."""
    store = MemoryStore({})
    weight = store.add("fc.weight", np.cos(np.arange(12, dtype=np.float32)).reshape(3, 4))
    graph = Graph("main", store)
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (Symbol("batch", 1, 8).dim, 3)))
    graph.add_output("y", build(LayerNorm(), build(Relu(), build(Linear(), x, build.weight(weight), None)), None, None))
    return CapturedModel(graph, "Perceptron", "test", 12, 1, text)


X = np.array([[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]], np.float32)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compiled") / "p.onnx.cgptc"
    compile_model(perceptron(), CompileOptions(), place)
    return place


def test_a_compiled_graph_runs(artifact: Path) -> None:
    y = cgptc.load(artifact).run(x=X)["y"]
    assert y.shape == (2, 4)
    assert np.abs(y.mean(axis=1)).max() < 1e-6


def test_the_artifact_holds_its_graph_and_report(artifact: Path) -> None:
    found = cgptc.load(artifact)
    assert "layer_norm" in str(found.graph)
    assert found.report.model["name"] == "Perceptron"
    assert found.report.graph["nodes"] == found.graph.node_count
    assert "legalise" in found.folder.manifest.pipeline


def test_an_artifact_compiled_to_nowhere_lives_as_long_as_its_object() -> None:
    found = compile_model(perceptron(), CompileOptions())
    place = found.path
    assert found.run(x=X)["y"].shape == (2, 4)
    del found
    assert not place.exists()


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/b", "model.onnx", "manifest.json", "\u202e\x1b[2J", "x" * 300])
def test_names_of_weights_never_become_paths(name: str, tmp_path: Path) -> None:
    store = MemoryStore({})
    graph = Graph("main", store)
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (2, 3)))
    weight = build.weight(store.add(name, np.ones((3, 4), np.float32)))
    graph.add_output("y", build(Linear(), x, weight, None))
    compile_model(CapturedModel(graph, "Named", "test", 12, 1, None), CompileOptions(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")}
    assert files == {"graph.cgir", "manifest.json", "model.onnx", "report.json"}
    assert (cgptc.load(tmp_path / "out").run(x=np.ones((2, 3), np.float32))["y"] == 3).all()


def test_a_saved_copy_is_the_same_artifact(artifact: Path, tmp_path: Path) -> None:
    copy = cgptc.load(artifact).save(tmp_path / "copy")
    assert copy.folder.digest == cgptc.load(artifact).folder.digest
    assert (copy.run(x=X)["y"] == cgptc.load(artifact).run(x=X)["y"]).all()


def test_a_failing_compile_leaves_what_was_there(artifact: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    cgptc.load(artifact).save(place)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(UsageError):
        compile_model(perceptron(), CompileOptions(passes="canonicalize,fuse-everything"), place)
    with pytest.raises(CompileError, match="no attention whose keys and values could be kept"):
        compile_model(perceptron(), CompileOptions(cache="dynamic"), place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_cache_is_added_for_causal_models_and_on_demand() -> None:
    target = target_of(CompileOptions())
    names = [pass_.name for pass_ in pipeline_for(target, CompileOptions(passes=""), cached=True).passes]
    assert names == ["add-cache", "legalise"]
    assert "add-cache" not in str(pipeline_for(target, CompileOptions(passes="add-cache,canonicalize"), cached=False))


def test_a_disabled_pass_does_not_run() -> None:
    options = CompileOptions(passes="canonicalize,dead-code", disabled_passes=("dead-code",))
    assert str(pipeline_for(target_of(options), options, cached=False)) == "canonicalize,legalise"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "onx"}, "did you mean 'onnx'"),
        ({"cache": "dynamc"}, "did you mean 'dynamic'"),
        ({"verify_each": "always"}, "ir, numeric, off"),
        ({"source": Request(dynamic={"sequence": (1, 2)})}, "batch, seq"),
        ({"source": Request(fixed={"batch": 0})}, "1 or more"),
        ({"source": Request(dynamic={"seq": (1, 2)}, fixed={"seq": 2})}, "both"),
        ({"passes": "fuse-attenton"}, "did you mean 'fuse-attention'"),
        ({"disabled_passes": ("canonicalise",)}, "did you mean 'canonicalize'"),
        ({"target_options": {"opps": "ort"}}, "did you mean 'ops'"),
        ({"target_options": {"ops": "cuda"}}, "ort, standard"),
        ({"target_options": {"opset": 5}}, "opset"),
    ],
    ids=range(11),
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compile_model(perceptron(), CompileOptions(**options))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("batch=1..8", {"batch": (1, 8)}), (" seq=2..5 , batch=1..1 ", {"seq": (2, 5), "batch": (1, 1)})],
)
def test_dynamic_sizes_are_read(text: str, expected: dict[str, tuple[int, int]]) -> None:
    assert parse_dynamic(text) == expected


@pytest.mark.parametrize("text", ["", "batch", "batch=1", "batch=8..1", "batch=0..2", "bach=1..2", "seq=1..2,seq=1..3", "seq=1...2"])
def test_dynamic_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_dynamic(text)


def test_a_model_that_makes_no_text_says_so(artifact: Path) -> None:
    with pytest.raises(UsageError, match="not a causal language model"):
        cgptc.load(artifact).generate([1, 2])


def test_options_that_are_not_the_targets_are_malformed(artifact: Path, tmp_path: Path) -> None:
    copy = cgptc.load(artifact).save(tmp_path / "copy").path
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["options"]["onnx"] = {"nonsense": 1}
    (copy / "manifest.json").write_text(json.dumps(sealed(manifest)))
    with pytest.raises(MalformedError, match="options"):
        cgptc.load(copy).run(x=X)


def test_run_feeds_arrays_and_writes_arrays(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "in.npz", x=X)
    assert run(["run", str(artifact), "--inputs", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"y": {"dtype": "float32", "shape": [2, 4]}}
    with np.load(tmp_path / "out.npz") as outputs:
        assert (outputs["y"] == cgptc.load(artifact).run(x=X)["y"]).all()
    first = (tmp_path / "out.npz").read_bytes()
    assert run(["run", str(artifact), "--inputs", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out.npz")]) == 0
    assert (tmp_path / "out.npz").read_bytes() == first


def test_generation_facts_reach_the_manifest(tmp_path: Path) -> None:
    found = compile_model(perceptron(TextModel(7, 5, (1,))), CompileOptions(cache="none"), tmp_path / "out")
    assert found.folder.manifest.generation == {"vocabulary": 7, "context": 5, "stop": [1]}


WRONG_RUNS = [
    ("run {artifact}", 2, "usage", "--prompt"),
    ("run {artifact} --prompt a --prompt-ids 1", 2, "usage", "one of"),
    ("run {artifact} --prompt-ids 1;2", 2, "bad-value", "1,2,3"),
    ("run {artifact} --prompt-ids 1 --top-k 0", 2, "bad-value", "1 or more"),
    ("run {artifact} --prompt-ids 1 --temperature 0 --top-k 3", 2, "bad-value", "above 0"),
    ("run {artifact} --prompt-ids 1,2", 2, "no-generation", "--inputs"),
    ("run {artifact} --inputs {tmp}/in.npz", 2, "missing-argument", "-o"),
    ("run {artifact} --inputs {tmp}/none.npz -o {tmp}/o.npz", 7, "read", ".npz"),
    ("run {artifact} --inputs {tmp}/text.npz -o {tmp}/o.npz", 4, "not-npz", "numpy.savez"),
    ("run {artifact} --inputs {tmp}/single.npz -o {tmp}/o.npz", 4, "not-npz", "numpy.savez"),
    ("run {artifact} --inputs {tmp}/objects.npz -o {tmp}/o.npz", 4, "not-npz", "numpy.savez"),
    ("run {artifact} --inputs {tmp}/wrong.npz -o {tmp}/o.npz", 2, "unknown-input", "it has x"),
    ("run {artifact} --inputs {tmp}/in.npz -o {tmp}/no/o.npz", 7, "write", "-o"),
    ("run {artifact} --inputs {tmp}/in.npz -o {tmp}/o.npz --seed 3", 2, "usage", "--prompt"),
    ("run {tmp} --prompt-ids 1", 2, "not-an-artifact", "cgptc compile"),
]


@pytest.mark.parametrize(("arguments", "code", "name", "step"), WRONG_RUNS, ids=[use[0] for use in WRONG_RUNS])
def test_a_wrong_run_gives_its_exit_code_and_one_line_with_a_next_step(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, name: str, step: str
) -> None:
    np.savez(tmp_path / "in.npz", x=X)
    np.savez(tmp_path / "wrong.npz", z=X)
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("hello")
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, X)
    assert run(arguments.format(artifact=artifact, tmp=tmp_path).split()) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error[{name}]: ")
    assert step in line


@dataclass(frozen=True)
class DropRelu(Pass):
    """A planted bug: changes what the graph computes."""

    name = "test-drop-relu"

    def run(self, graph: Graph, context: PassContext) -> bool:
        for node in graph.nodes:
            if isinstance(node.op, Relu):
                graph.replace_uses(node.result, node.inputs[0])
                graph.erase(node)
                return True
        return False


def test_verify_each_numeric_names_the_pass_that_changed_the_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES, "test-drop-relu", DropRelu)
    passes = "canonicalize,test-drop-relu"
    compile_model(perceptron(), CompileOptions(passes=passes, verify_each="ir"))
    with pytest.raises(VerifyError, match=r"test-drop-relu.*changed the meaning"):
        compile_model(perceptron(), CompileOptions(passes=passes, verify_each="numeric"))


def test_verify_each_numeric_follows_a_pass_that_adds_inputs() -> None:
    """A cache brings a past: the pass that adds it is compared with an empty one, those after it with a full one."""
    examples = ExampleInputs()
    graph = Graph()
    batch, seq, past = (Symbol(name, low, 8).dim for name, low in (("batch", 1), ("seq", 1), ("past", 0)))
    graph.add_output("logits", graph.add_input("input_ids", TensorType(i64, (batch, seq))))
    first = examples(graph)
    graph.add_input("past_key_values.0.key", TensorType(f32, (batch, 2, past, 4)))
    graph.add_output("present.0.key", graph.input("past_key_values.0.key"))
    changed = examples(graph)
    assert (changed["input_ids"] == first["input_ids"]).all()
    assert changed["past_key_values.0.key"].shape == (2, 2, 0, 4)
    assert examples(graph)["past_key_values.0.key"].shape == (2, 2, 3, 4)
