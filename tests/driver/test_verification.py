"""Verification passes what is right, refuses what is wrong, and says where it went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from cgptc.backends.onnx import lowering
from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.cli.entry import run
from cgptc.driver.compilation import compile_model
from cgptc.driver.options import CompileOptions
from cgptc.driver.verification import verify_model
from cgptc.driver.verification.orders import shuffled
from cgptc.driver.verification.text import choose_lengths
from cgptc.frontend.live_module import capture_module
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.frontend.source import CapturedModel, open_model
from cgptc.ir import ops
from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CgptcError, Exit, UsageError
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_op
from cgptc.ir.op import Op
from cgptc.ir.types import TensorType
from cgptc.passes.manager import PASSES, Pass, PassContext

LENGTHS = [1, 3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verified") / "model.pt"
    write_model(preset("tiny"), path, seed=3)
    return path


@pytest.fixture(scope="module")
def captured(model: Path) -> Iterator[CapturedModel]:
    with open_model(str(model)) as found:
        yield found


@pytest.fixture(scope="module")
def artifact(model: Path, captured: CapturedModel) -> Path:
    return compile_captured(captured, model.with_name("out"))


def compile_captured(captured: CapturedModel, place: Path, **options: Any) -> Path:
    return compile_model(replace(captured, graph=captured.graph.clone()), CompileOptions(**options), place).path


def test_a_right_artifact_is_verified_every_way_it_runs(model: Path, artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(artifact), "--against", str(model), "--lengths", "1,5", "--json"]) == Exit.OK
    found = json.loads(capsys.readouterr().out)
    assert all(check["passed"] for check in found["checks"])
    kinds = {check["what"].split(",")[0] for check in found["checks"]}
    assert kinds == {"graph in float64", "whole run", "prefill and decode", "left-padded", "left-padded decode", "greedy generation"}
    assert {check["length"] for check in found["checks"] if check["what"] == "whole run"} == {1, 5}


def test_without_a_model_the_files_are_checked(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(artifact)]) == Exit.OK
    assert "as written" in capsys.readouterr().out
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in artifact.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[-1] ^= 1
    (copy / "model.onnx.data").write_bytes(data)
    assert run(["verify", str(copy)]) == Exit.MALFORMED
    assert "'model.onnx.data'" in capsys.readouterr().err


def mismatch(artifact: Path, model: CapturedModel) -> str:
    with pytest.raises(CgptcError) as caught:
        verify_model(artifact, model, LENGTHS)
    assert caught.value.exit is Exit.MISMATCH
    return str(caught.value)


def with_wrong_epsilon(graph: Graph, path: str) -> bool:
    """A planted bug: LayerNorm's epsilon is 1e-6 instead of 1e-5 in one layer."""
    for node in graph.nodes:
        if isinstance(node.op, ops.LayerNorm) and node.location.path == path and node.op.eps != 1e-6:
            graph.set_op(node, ops.LayerNorm(1e-6))
            return True
    return False


@dataclass(frozen=True)
class WrongEpsilon(Pass):
    name = "test-wrong-epsilon"

    def run(self, graph: Graph, context: PassContext) -> bool:
        return with_wrong_epsilon(graph, "transformer.h.1.ln_2")


def test_a_wrong_pass_is_named_with_the_node_that_it_broke(
    captured: CapturedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PASSES, "test-wrong-epsilon", WrongEpsilon)
    passes = "canonicalize,normalize-masks,canonicalize,cse,dead-code,test-wrong-epsilon,add-cache,canonicalize"
    text = mismatch(compile_captured(captured, tmp_path / "out", passes=passes), captured)
    assert "first wrong: pass 'test-wrong-epsilon' (number 6)" in text
    assert "layer_norm" in text
    assert "transformer.h.1.ln_2 (gpt.py:" in text


def test_a_wrong_lowering_is_named_by_the_first_node_that_it_computes(
    captured: CapturedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tanh_for_erf(emit: Emit, op: ops.Gelu, x: OnnxValue) -> OnnxValue:
        return emit.Gelu(x, approximate="tanh")

    lowering.legal_ops("ort")
    for mode in ("ort", "standard"):
        monkeypatch.setitem(lowering._TABLES[mode], ops.Gelu, tanh_for_erf)
    text = mismatch(compile_captured(captured, tmp_path / "out"), captured)
    assert "first wrong: what onnx made of the graph" in text
    assert "gelu" in text
    assert "transformer.h.0.mlp (gpt.py:" in text


def test_a_wrong_import_is_named_by_its_submodule(captured: CapturedModel, tmp_path: Path) -> None:
    wrong = replace(captured, graph=captured.graph.clone())
    assert with_wrong_epsilon(wrong.graph, "transformer.ln_f")
    text = mismatch(compile_captured(wrong, tmp_path / "out"), wrong)
    assert "first wrong: the import: 'transformer.ln_f' already differs" in text


def test_another_model_is_a_mismatch_that_says_so(artifact: Path, tmp_path: Path) -> None:
    write_model(preset("tiny"), tmp_path / "other.pt", seed=4)
    with open_model(str(tmp_path / "other.pt")) as other:
        assert "is not the file that the artifact was compiled from" in mismatch(artifact, other)


class NextTokenLoss(torch.nn.Module):
    """Logits and a loss, with labels shifted as transformers does it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(11, 8), torch.nn.Linear(8, 7)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head(self.embed(ids))
        shifted = functional.pad(labels, (0, 1), value=-100)[:, 1:]
        return logits, functional.cross_entropy(logits.flatten(0, 1), shifted.flatten())


def test_a_model_with_a_loss_is_verified_on_labels_that_it_has(tmp_path: Path) -> None:
    ids = torch.zeros(2, 5, dtype=torch.int64)
    captured = capture_module(NextTokenLoss(), (ids, ids))
    found = verify_model(compile_captured(captured, tmp_path / "out"), captured, LENGTHS)
    assert {check.what for check in found.checks} >= {"output 'output_0'", "output 'output_1'"}


def test_a_model_that_does_not_take_drawn_inputs_is_an_error_that_says_so(tmp_path: Path) -> None:
    class Fussy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.compiler.is_compiling() and x.shape[0] != 2:
                raise ValueError("two rows, please")
            return x * 2

    captured = capture_module(Fussy(), (torch.ones(2, 5, 3),))
    with pytest.raises(CgptcError, match="Fussy in float64 fails on drawn inputs: ValueError: two rows, please") as caught:
        verify_model(compile_captured(captured, tmp_path / "out"), captured, LENGTHS)
    assert caught.value.exit is Exit.UNSUPPORTED


def test_a_model_without_text_is_verified_too(captured: CapturedModel, tmp_path: Path) -> None:
    silent = replace(captured, text=None)
    found = verify_model(compile_captured(silent, tmp_path / "out"), silent, [3])
    assert {(check.what, check.batch) for check in found.checks} == {
        (what, batch) for what in ("output 'logits'", "'logits' of the graph in float64") for batch in (1, 2)
    }


def test_windows_give_the_lengths_around_their_edges() -> None:
    graph = Graph()
    q = graph.add_input("q", TensorType(f32, (1, 1, 4, 2)))
    build = Builder(graph)
    graph.add_output("y", build.all(ops.Attention(1.0, causal=True, window=16), q, q, q)[0])
    assert choose_lengths(None, 1000, graph) == (1, 7, 15, 16, 17, 32, 33)
    assert choose_lengths(None, 16, graph) == (1, 7, 15, 16)
    assert choose_lengths([5, 1, 5], 8, graph) == (1, 5)
    with pytest.raises(UsageError):
        choose_lengths([9], 8, graph)


def array(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


@pytest.mark.parametrize(
    ("op", "operands"),
    [
        (ops.MatMul(), (array(2, 3, 5), array(2, 5, 4))),
        (ops.Linear(), (array(2, 5), array(5, 3), array(3))),
        (ops.LayerNorm(), (array(2, 6), array(6), array(6))),
        (ops.RmsNorm(), (array(2, 6), array(6))),
        (ops.Softmax(0), (array(4, 3),)),
        (ops.ReduceSum((0, 2), False), (array(2, 3, 4),)),
        (ops.ReduceMean((1,), True), (array(2, 3),)),
        (
            ops.Attention(0.5, causal=True),
            (array(1, 2, 3, 4), array(1, 1, 3, 4), array(1, 1, 3, 4), None, array(1, 1, 2, 4), array(1, 1, 2, 4)),
        ),
        (ops.Gelu(), (array(2, 3),)),
    ],
    ids=lambda value: value.name if isinstance(value, Op) else "",
)
def test_another_order_of_a_sum_is_another_right_answer(op: Op, operands: tuple[Any, ...]) -> None:
    """In float64 every order agrees to rounding; in float32 orders differ, which is what the noise floor is made of."""
    for expected, found in zip(evaluate_op(op, operands), shuffled(1)(op, operands), strict=True):
        assert np.abs(found - expected).max() <= 64 * np.finfo(np.float64).eps * np.abs(expected).max()


def test_orders_differ_in_float32() -> None:
    a, b = array(1, 300).astype(np.float32), array(300, 50).astype(np.float32)
    first, second = (shuffled(seed)(ops.MatMul(), (a, b))[0] for seed in (1, 2))
    assert (first != second).any()


@pytest.mark.parametrize(
    ("arguments", "code", "name", "step"),
    [
        ("verify", 2, "missing-argument", "--help"),
        ("verify {out} --lengths 1", 2, "usage", "--against"),
        ("verify {out} --against {m} --lengths one", 2, "bad-value", "1,7,257"),
        ("verify {out} --against {m} --lengths 129", 2, "bad-value", "1 to 128"),
        ("verify {out} --against {m}x", 7, "no-such-model", "cgptc list presets"),
        ("verify {out} --against tiny", 2, "shape-only", "cgptc new"),
        ("verify {m}", 2, "not-an-artifact", "cgptc compile"),
    ],
)
def test_a_wrong_use_gives_its_exit_code_and_one_line_with_a_next_step(
    model: Path, artifact: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, name: str, step: str
) -> None:
    assert run(arguments.format(out=artifact, m=model).split()) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error[{name}]: ")
    assert step in line
