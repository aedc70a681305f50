"""Precision on the command line and in Python: what is asked becomes passes, and what is wrong is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.backends.onnx.tiny_gpt import TinyGpt

import cgptc
from cgptc.driver.compilation import target_of
from cgptc.driver.masks import with_masks
from cgptc.driver.options import CompileOptions
from cgptc.driver.shrinking import Shrinking, parse_quantize
from cgptc.driver.sparsity_options import parse_sparsity
from cgptc.driver.verification.verify import require_untraded
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.ir.diagnostics import CompileError, MalformedError, UsageError
from cgptc.ir.graph import Graph, Node
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.quantized import QuantizedLinear
from cgptc.ir.parser import parse_graph
from cgptc.ir.weights import Stored
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.runtime.compiled import Artifact


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("int8", "quantize"),
        ("int8:range=full", "quantize{bits=8}"),
        ("int8:block=64", "quantize{bits=8 block=64 activations=blocks}"),
        ("int8:activations=exact", "quantize{bits=8 activations=exact}"),
        ("int4", "quantize{bits=4 block=32 activations=blocks head=8}"),
        ("int4:head=4", "quantize{bits=4 block=32 activations=blocks}"),
        ("int4@lm_head", "quantize{bits=4 block=32 activations=blocks only=lm_head}"),
        ("int4:block=128,activations=exact", "quantize{bits=4 block=128 activations=exact}"),
        ("int8@h.*.mlp,lm_head,!h.0", "quantize{only=h.*.mlp;lm_head keep=h.0}"),
    ],
)
def test_a_precision_is_a_pass(text: str, passes: str) -> None:
    assert str(parse_quantize(text)) == passes


def test_the_last_precision_that_names_a_layer_holds(model: Path) -> None:
    mixed = cgptc.compile(model, quantize=["int4:block=16", "int8@h.*.mlp,lm_head", "int8:block=32@h.1.mlp"], keep=["h.0.attn"])
    rows = mixed.report.losses["matrices"]
    assert isinstance(rows, list)
    found = {(row["where"], row["pattern"]) for row in rows if isinstance(row, dict)}
    blocks = {node.location.path: node.op.block for node in mixed.graph.nodes if isinstance(node.op, QuantizedLinear)}
    mlp = ("c_fc", "c_proj")
    assert found == {
        *((f"transformer.h.1.attn.{name}", "i4") for name in ("c_attn", "c_proj")),
        *((f"transformer.h.{layer}.mlp.{name}", "i8") for layer in (0, 1) for name in mlp),
        ("transformer.wte.weight", "i8"),
    }
    assert [blocks[f"transformer.h.{layer}.mlp.c_fc"] for layer in (0, 1)] == [0, 32]
    assert len(mixed.generate([3, 1, 4], max_new_tokens=2).ids) == 2


def test_a_precision_that_leaves_nothing_to_another_is_told(model: Path) -> None:
    with pytest.raises(UsageError, match="leaves none to those before it"):
        Shrinking(quantize=("int8@lm_head", "int4"))
    with pytest.raises(UsageError, match="'mlp' names no linear layer that is not quantised yet"):
        cgptc.compile(model, quantize=["int8@mlp", "int4@h.*.mlp"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int9", "did you mean 'int8'"),
        ("int4:block=0", "no size"),
        ("int4:block", "write int4:block=32"),
        ("int4:range=full", "no setting 'range'"),
        ("int8:range=wide", "range that is not known"),
        ("int8:blok=3", "no setting 'blok'"),
        ("int8@", "names no layers"),
        ("int4:head=6", "head=8 or head=4"),
        ("int4:head=8,activations=exact", "no setting 'head'"),
    ],
)
def test_a_wrong_precision_is_told_with_what_is_right(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Shrinking(quantize=(text,))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("magnitude:0.75@h.*.mlp.*,!h.0", "sparsify{fraction=0.75 only=h.*.mlp.* keep=h.0}"),
        ("2:4", "sparsify{pattern=2:4}"),
        ("block:16x8:0.25", "sparsify{pattern=16x8 fraction=0.25}"),
        ("heads:4", "prune-heads{count=4}"),
        ("heads:0.25", "prune-heads{fraction=0.25}"),
        ("neurons:0.75@h.1", "prune-neurons{fraction=0.75 only=h.1}"),
        ("from-zeros@!lm_head", "find-zeros{keep=lm_head}"),
        ("mask:some/file", "apply-masks"),
    ],
)
def test_a_sparsity_is_a_pass(text: str, passes: str) -> None:
    assert str(parse_sparsity(text)) == passes
    assert [str(each) for each in Shrinking(sparsity=(text,)).passes()] == [passes, "remove-dead", "pick-living", "dead-code"]


@pytest.mark.parametrize(
    "text", ["magnitude", "magnitude:2", "heads:1.5", "heads:x", "2:", "4:2", "block:4:0.5", "rows:0.5", "2:4@", "mask:"]
)
def test_a_wrong_sparsity_is_told(text: str) -> None:
    with pytest.raises(UsageError):
        Shrinking(sparsity=(text,))


def test_layers_to_keep_need_something_to_keep_them_from() -> None:
    with pytest.raises(UsageError, match="--keep"):
        Shrinking(keep=("lm_head",))


def test_bf16_is_refused_where_onnxruntime_has_no_kernels() -> None:
    with pytest.raises(CompileError, match="no bf16 matrices"):
        target_of(CompileOptions(shrinking=Shrinking("bf16")))
    target_of(CompileOptions(shrinking=Shrinking("bf16"), target_options={"ep": "cuda"}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    write_model(preset("tiny"), path)
    return path


@pytest.fixture(scope="module")
def dense(model: Path) -> Artifact:
    return cgptc.compile(model)


@pytest.mark.parametrize("asked", [{"quantize": "int4:block=16"}, {"dtype": "f16", "quantize": "int8"}], ids=str)
def test_a_shrunk_model_is_smaller_and_near(model: Path, dense: Artifact, asked: dict[str, str]) -> None:
    small = cgptc.compile(model, **asked)  # type: ignore[arg-type]
    ids = np.array([[3, 1, 4, 1, 5]])
    expected, found = (artifact.run({"input_ids": ids})["logits"].astype(np.float64) for artifact in (dense, small))
    sizes = [artifact.report.backend["weight_bytes"] for artifact in (dense, small)]
    assert isinstance(sizes[0], int)
    assert isinstance(sizes[1], int)
    assert sizes[1] < 0.8 * sizes[0]
    assert np.corrcoef(expected.reshape(-1), found.reshape(-1))[0, 1] > 0.9
    assert len(small.generate([3, 1, 4], max_new_tokens=2).ids) == 2
    with pytest.raises(UsageError, match="its numbers are not the model's"):
        require_untraded(small.path)
    require_untraded(dense.path)
    assert small.folder.manifest.options["dtype"] == asked.get("dtype")
    assert small.folder.manifest.options["quantize"] == [asked["quantize"]]


def test_a_mask_file_and_dead_neurons_make_the_model_smaller(model: Path, dense: Artifact, tmp_path: Path) -> None:
    names = {node.op.weight.name: node.op.weight.shape for node in stored(dense)}  # type: ignore[attr-defined]
    down = next(name for name in names if "mlp" in name and len(names[name]) == 2 and names[name][0] > names[name][1])
    mask = np.ones(names[down], np.uint8)
    mask[::2] = 0
    save_file({down: mask}, tmp_path / "masks.safetensors")
    small = cgptc.compile(model, sparsity=[f"mask:{tmp_path / 'masks.safetensors'}", "from-zeros"])
    assert str(small.folder.manifest.pipeline).count("apply-masks,find-zeros,remove-dead") == 1
    assert small.report.backend["weight_bytes"] < dense.report.backend["weight_bytes"]  # type: ignore[operator]
    assert np.isfinite(small.run({"input_ids": np.array([[1, 2, 3]])})["logits"]).all()


@pytest.mark.parametrize("number", [0.5, 2.0, np.nan])
def test_a_mask_of_other_numbers_than_0_and_1_is_refused(number: float, tmp_path: Path) -> None:
    save_file({"w": np.array([1.0, number, 0.0], np.float32)}, tmp_path / "masks.safetensors")
    with pytest.raises(MalformedError, match="the mask 'w' holds"), with_masks(Graph(), tmp_path / "masks.safetensors"):
        pass


def test_full_eight_bits_are_told_to_clamp_on_some_processors() -> None:
    context = PassContext()
    Pipeline.parse("quantize{bits=8}").run(TinyGpt().graph(), context)
    assert "without, onnxruntime clamps" in context.warnings.lines[0]


def stored(artifact: Artifact) -> list[Node]:
    graph = parse_graph(artifact.folder.read("graph.cgir").decode())
    return [node for node in graph.nodes if isinstance(node.op, Constant) and isinstance(node.op.weight, Stored)]
