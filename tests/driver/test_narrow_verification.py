"""An artifact that was asked to compute in a narrower type is held by the noise of that type, and by no more."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import cgptc
import cgptc.backends.wafer.plan.rules  # declares the rules
from cgptc.backends.registry import Emitted
from cgptc.backends.wafer.backend import WaferBackend
from cgptc.backends.wafer.options import WaferOptions
from cgptc.backends.wafer.plan.lift import RULES
from cgptc.backends.wafer.session import WaferSession
from cgptc.cli.entry import run
from cgptc.driver.verification.locate import locate
from cgptc.driver.verification.reference import Reference
from cgptc.driver.verification.rounding import RoundedStore, narrower_dtype, rounded
from cgptc.frontend.new_model import write_model
from cgptc.frontend.oracle import narrow_copy, rounded_copy, unstored_names
from cgptc.frontend.presets import preset
from cgptc.frontend.source import open_model
from cgptc.ir.diagnostics import CgptcError, CompileError, Exit
from cgptc.ir.dtypes import DType, bf16, f16, f32, f64
from cgptc.ir.graph import Graph
from cgptc.ir.ops.norm import LayerNorm
from cgptc.ir.types import TensorType
from cgptc.ir.weights import MemoryStore
from cgptc.runtime.compiled import Artifact

MACHINE = ("--target", "wafer", "--machine", "small-16x16", "--execution-strategy", "resident")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("narrow") / "model.pt"
    write_model(preset("tiny"), path, seed=5)
    return path


@pytest.fixture(scope="module")
def halves(model: Path) -> Path:
    place = model.with_name("halves")
    assert run(["compile", str(model), "-o", str(place), *MACHINE, "--dtype", "f16"]) == Exit.OK
    return place


def verified(artifact: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["verify", str(artifact), "--against", str(model), "--lengths", "1,5", "--json"]) == Exit.OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_wafer_program_in_f16_is_verified_every_way_it_runs(model: Path, halves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verified(halves, model, capsys)
    assert all(check["passed"] for check in found["checks"])
    kinds = {check["what"].split(",")[0] for check in found["checks"]}
    assert kinds == {"graph in float64", "whole run", "prefill and decode", "left-padded", "left-padded decode", "greedy generation"}
    assert any("computes in f16" in note for note in found["notes"])


def test_the_bound_is_that_of_the_type_asked_for_and_done(model: Path, halves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = model.with_name("wide")
    assert run(["compile", str(model), "-o", str(wide), *MACHINE]) == Exit.OK
    whole = {}
    for place in (halves, wide):
        found = verified(place, model, capsys)
        whole[place] = next(check for check in found["checks"] if check["what"] == "whole run" and check["length"] == 5)
        assert any("computes in" in note for note in found["notes"]) == (place == halves)
    ratio = whole[halves]["rmse_bound"] / whole[wide]["rmse_bound"]
    assert 2**9 < ratio < 2**17


@pytest.mark.parametrize("factor", [1 + 2**-6, np.nan])
def test_what_is_further_off_than_the_noise_of_f16_differs(
    factor: float, model: Path, halves: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = WaferSession._pass

    def wrong(self: WaferSession, *given: Any) -> dict[str, Any]:
        return {name: array * np.float32(factor) for name, array in right(self, *given).items()}

    monkeypatch.setattr(WaferSession, "_pass", wrong)
    assert run(["verify", str(halves), "--against", str(model), "--lengths", "5"]) == Exit.MISMATCH
    assert "error[mismatch]" in capsys.readouterr().err


@dataclass
class Loaded:
    """As much of an artifact as says what it computes in."""

    dtype: DType
    asked: str | None
    context: int = 1

    @property
    def session(self) -> Loaded:
        return self

    def load_target(self) -> Loaded:
        return self

    @property
    def options(self) -> Any:
        return type("Options", (), {"dtype": self.asked})


@pytest.mark.parametrize(
    ("computed", "asked", "own", "expected"),
    [
        (f16, "f16", f32, f16),
        (f16, None, f32, None),  # nobody asked for it: a fault
        (f32, "f16", f32, None),  # what runs is wider than what was asked for
        (f32, None, f32, None),
        (f16, "f16", f16, None),
        (f16, "f16", bf16, f16),
        (f32, "f32", f64, f32),
    ],
    ids=str,
)
def test_asking_and_doing_must_agree(computed: DType, asked: str | None, own: DType, expected: DType | None) -> None:
    graph = Graph()
    graph.add_output("y", graph.add_input("x", TensorType(own, (2,))))
    assert narrower_dtype(cast(Artifact, Loaded(computed, asked)), graph) is expected


def test_a_cache_that_came_out_goes_back_in(halves: Path) -> None:
    artifact = cgptc.load(halves)
    ids = np.array([[3, 1, 4, 1, 5]])
    first = artifact.run(input_ids=ids[:, :3])
    pasts = {past: first[present] for past, present in artifact.interface.pasts}
    assert {array.dtype for array in pasts.values()} == {np.dtype(np.float32)}
    later = artifact.run(input_ids=ids[:, 3:], attention_mask=np.ones((1, 5), np.int64), **pasts)
    np.testing.assert_array_equal(later["logits"], artifact.run(input_ids=ids)["logits"][:, 3:])


def test_a_weight_beyond_the_type_is_refused_and_nothing_is_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(model, weights_only=True)
    tensors = state["model"]
    name = next(name for name, tensor in tensors.items() if name.endswith("c_fc.weight"))
    tensors[name][0, 0] = 1e5
    torch.save(state, tmp_path / "large.pt")
    assert run(["compile", str(tmp_path / "large.pt"), "-o", str(tmp_path / "out"), *MACHINE, "--dtype", "f16"]) == Exit.UNSUPPORTED
    error = capsys.readouterr().err
    assert "error[overflow]" in error
    assert f"weight '{name}' has an element of magnitude 100000, and f16 ends at 65504" in error
    assert [path.name for path in tmp_path.iterdir()] == ["large.pt"]


class Angled(torch.nn.Module):
    """A module with all that may be rounded and what must not be: tied parameters, a table that is stored, frequencies that are not."""

    table: torch.Tensor
    frequencies: torch.Tensor

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(8, 8)
        self.second = torch.nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.randn(8))
        self.register_buffer("frequencies", torch.rand(8), persistent=False)
        self.strict = strict

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.strict and x.dtype == torch.float16:
            raise RuntimeError("not in half precision")
        return self.second(torch.relu(self.first(x))) + self.table + torch.cos(self.frequencies.float()).to(x.dtype)


def test_what_a_checkpoint_holds_is_rounded_and_nothing_else() -> None:
    module = Angled()
    before = {name: tensor.clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    half, again = narrow_copy(module, f16), rounded_copy(module, f16)
    assert unstored_names(module) == {"frequencies"}
    for name, tensor in before.items():
        kept = name == "frequencies"
        assert torch.equal(dict((*module.named_parameters(), *module.named_buffers()))[name], tensor)
        narrow, wide = (dict((*each.named_parameters(), *each.named_buffers()))[name] for each in (half, again))
        assert narrow.dtype == (torch.float32 if kept else torch.float16)
        assert torch.equal(wide, tensor if kept else tensor.half().float())
    assert half.second.weight is half.first.weight
    assert again.second.weight is again.first.weight


def test_a_store_is_rounded_as_it_is_read() -> None:
    held = {"w": np.array([[1.0, 1 + 2**-12], [1e5, -0.1]], np.float32), "n": np.arange(4), "kept": np.array([0.1], np.float32)}
    store = RoundedStore(MemoryStore(held), f16, frozenset({"kept"}))
    with np.errstate(over="ignore"):
        halves = held["w"].astype(np.float16)
    np.testing.assert_array_equal(store.read("w", 0, 2), halves.astype(np.float32))
    np.testing.assert_array_equal(store.read("n", 1, 3), held["n"][1:3])
    np.testing.assert_array_equal(store.read("kept", 0, 1), held["kept"])
    assert rounded(halves, f16) is halves


@pytest.mark.parametrize("strict", [False, True])
def test_a_module_is_held_by_its_rounded_self(strict: bool) -> None:
    module = Angled(strict=strict).eval()
    x = torch.randn(2, 3, 8)
    artifact = cgptc.compile(module, (x,), target="wafer", machine="small-16x16", dtype="f16")
    found = cgptc.verify(artifact, module, (x,), (x[:1, :1],))
    assert any("computes in f16" in note for note in found.notes)
    assert any("PyTorch does not run the model in that type" in note for note in found.notes) == strict
    with torch.no_grad():
        module.first.weight[0] += 0.1
    with pytest.raises(CgptcError, match="differ from PyTorch"):
        cgptc.verify(artifact, module, (x,))


class Hiding(torch.nn.Module):
    """A causal mask filled with a number that f16 does not have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner = torch.nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.inner(x).chunk(3, -1)
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        scores = (q @ k.transpose(1, 2) / 8**0.5).masked_fill(~seen, -1e9)
        return torch.softmax(scores, -1) @ v


def test_a_fill_beyond_the_type_hides_in_it_too() -> None:
    module = Hiding().eval()
    x = torch.randn(2, 5, 8)
    artifact = cgptc.compile(module, (x,), target="wafer", machine="small-16x16", dtype="f16")
    found = cgptc.verify(artifact, module, (x,), (x[:1, :1],))
    assert any("PyTorch does not run the model in that type" in note for note in found.notes)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_a_fault_of_the_wafer_is_found_at_its_node(
    dtype: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = RULES[LayerNorm]
    monkeypatch.setitem(RULES, LayerNorm, lambda lift, op, node: right(lift, replace(op, eps=op.eps * 1000), node))
    assert run(["compile", str(model), "-o", str(tmp_path / "out"), *MACHINE, "--dtype", dtype]) == Exit.OK
    assert run(["verify", str(tmp_path / "out"), "--against", str(model), "--lengths", "5"]) == Exit.MISMATCH
    error = capsys.readouterr().err
    assert "first wrong: what wafer made of the graph\n" in error
    assert re.search(r"layer_norm\(.*\n +from transformer\.h\.0\.ln_1 .*\n +its error is .* times what its element type makes", error)


def test_values_are_left_out_until_the_rest_fits(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    right = WaferBackend.emit

    def emit(self: WaferBackend, graph: Graph, folder: Path, options: WaferOptions) -> Emitted:
        asked.append(len(graph.outputs))
        if len(graph.outputs) > 12:
            raise CompileError("does-not-fit", "too many", exit=Exit.DOES_NOT_FIT)
        return right(self, graph, folder, options)

    artifact = cgptc.compile(model, output=tmp_path / "out", target="wafer", machine="small-16x16", execution_strategy="resident")
    monkeypatch.setattr(WaferBackend, "emit", emit)
    with open_model(str(model)) as captured:
        place = locate(artifact, Reference.of(captured), {"input_ids": np.array([[1, 2, 3]])})
    assert place.culprit.startswith("what wafer made of the graph: every node alone is right, so it is how the whole is run")
    assert len(asked) > 2
    assert asked == sorted(asked, reverse=True)


class Rms(torch.nn.Module):
    """A norm written out, whose squares f16 does not have, behind a layer that makes one feature large."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = torch.nn.Linear(32, 32)
        self.inner.bias.data[3] = 300
        torch.manual_seed(seed)
        self.head = torch.nn.Linear(32, 50, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.inner(x)
        return self.head(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Scored(torch.nn.Module):
    """Attention written out, whose scores f16 does not have before they are divided."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(64, 64, bias=False)
        self.query.weight.data *= 250
        self.key.weight.data *= 250
        torch.manual_seed(seed)
        self.value = torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = self.query(x) @ self.key(x).transpose(-2, -1) / 8
        return scores.masked_fill(later, -torch.inf).softmax(-1) @ self.value(x)


@pytest.mark.parametrize(("kind", "width", "note"), [(Rms, 32, "PyTorch breaks down"), (Scored, 64, "overflows where float64 does not")])
def test_what_breaks_down_in_the_type_is_no_noise(kind: type[Rms | Scored], width: int, note: str) -> None:
    module = kind().eval()
    torch.manual_seed(3)
    x = torch.randn(2, 7, width)
    artifact = cgptc.compile(module, (x,), target="wafer", machine="small-16x16", dtype="f16")
    found = cgptc.verify(artifact, module, (x,))
    assert any(note in each for each in found.notes)
    assert all(check.largest_bound < 0.02 for check in found.checks)
    with pytest.raises(CgptcError, match="differ from PyTorch"):
        cgptc.verify(artifact, kind(seed=9).eval(), (x,))


def test_noise_that_drowns_an_output_is_told() -> None:
    class Cancelling(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 3 + 1000) - (x * 2 + 1000)

    x = torch.randn(2, 3, 8)
    artifact = cgptc.compile(Cancelling(), (x,), target="wafer", machine="small-16x16", dtype="f16")
    found = cgptc.verify(artifact, Cancelling(), (x,))
    assert any("the noise of the type is more than 12% of 'output'" in note for note in found.notes)


def test_a_checkpoint_of_as_many_bits_is_rounded_too(tmp_path: Path) -> None:
    """What bf16 has and f16 only below its normal numbers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=31, n_positions=16, n_embd=16, n_layer=1, n_head=2, activation_function="relu")
    model = transformers.GPT2LMHeadModel(config)
    for block in model.transformer.h:
        block.mlp.c_fc.weight.data *= 1e-5
        block.mlp.c_proj.weight.data *= 1e6
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    assert run(["compile", str(tmp_path / "model"), "-o", str(tmp_path / "out"), *MACHINE, "--dtype", "f16"]) == Exit.OK
    assert run(["verify", str(tmp_path / "out"), "--against", str(tmp_path / "model"), "--lengths", "5"]) == Exit.OK


def test_a_target_that_shows_no_value_is_not_said_to_have_them_right(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = cgptc.compile(model, output=tmp_path / "out", target="wafer", machine="small-16x16", execution_strategy="resident")
    monkeypatch.setattr(WaferBackend, "observable", lambda *_: [])
    with open_model(str(model)) as captured:
        place = locate(artifact, Reference.of(captured), {"input_ids": np.array([[1, 2, 3]])})
    assert place.culprit == "what wafer made of the graph, none of whose values can be looked at"
