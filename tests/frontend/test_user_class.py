from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cgptc.frontend.live_module import layer_count
from cgptc.frontend.source import Request, open_model
from cgptc.ir.diagnostics import CgptcError, CompileError, UsageError
from cgptc.ir.interpreter import evaluate_graph
from cgptc.testing.tolerances import assert_t1

SOURCE = """
import torch
from torch import nn

class Bigram(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11)

    def forward(self, idx):
        return self.head(torch.tanh(self.table(idx)))

class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x)

def bigram(): return Bigram()
def features(): return Features(), (torch.zeros(4, 3),)
def features_without_inputs(): return Features()
def fixed(): return Bigram(), (torch.zeros(2, 5, dtype=torch.int64),), {"batch": (1, 4)}
def broken(): raise RuntimeError("no data here")
def nothing(): return 42
def quits(): raise SystemExit(0)
def listed(): return Bigram(), (torch.zeros(2, 5, dtype=torch.int64),), ["batch"]
def unknown_ids(): return Bigram(), (torch.full((2, 5), 11),)
number = 42
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_gpt.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_gpt", raising=False)
    return tmp_path


def test_a_class_with_its_weights_is_captured_as_a_text_model(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    import my_gpt  # type: ignore[import-not-found]

    sys.path.remove(str(folder))
    torch.manual_seed(3)
    module = my_gpt.bigram()
    torch.save(module.state_dict(), folder / "model.pt")
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    with open_model("my_gpt:bigram", Request(weights=folder / "model.pt")) as model:
        assert model.text is not None
        assert model.text.vocabulary == 11
        actual = evaluate_graph(model.graph, {"input_ids": ids}, wide=True)["logits"]
        assert model.reference is not None
        for reference in (module, model.reference()):
            expected = reference.double()(torch.from_numpy(ids)).detach().numpy()
            assert_t1(expected, actual, depth=model.graph.node_count)


def test_float_inputs_have_a_symbolic_batch(folder: Path) -> None:
    with open_model("my_gpt:features") as model:
        assert str(model.graph.inputs[0].type) == "f32[batch, 3]"
        assert model.text is None
        assert "random-weights" in model.warnings[0]


def test_the_callable_may_say_what_is_dynamic(folder: Path) -> None:
    with open_model("my_gpt:fixed") as model:
        assert str(model.graph.inputs[0].type) == "i64[batch, 5]"


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("my_gpt:quits", CompileError, "raised SystemExit: 0"),
        ("my_gpt:listed", UsageError, "['batch'] for the sizes that stay symbolic"),
        ("my_gpt:unknown_ids", CompileError, "Bigram does not run on the example inputs: IndexError"),
        ("no_such_thing:build", UsageError, "no module 'no_such_thing'"),
        ("my_gpt:absent", UsageError, "has no 'absent'"),
        ("my_gpt:number", UsageError, "is a int, not a callable"),
        ("my_gpt:nothing", UsageError, "returned int"),
        ("my_gpt:broken", CompileError, "raised RuntimeError: no data here"),
        ("my_gpt:features_without_inputs", CompileError, "int64 ids [2, 8] were tried"),
    ],
)
def test_what_is_wrong_with_the_callable_is_said(folder: Path, name: str, kind: type[CgptcError], says: str) -> None:
    with pytest.raises(kind) as caught:
        open_model(name)
    assert says in str(caught.value)


def test_weights_of_another_module_are_refused_with_the_names(folder: Path) -> None:
    torch.save({"table.weight": torch.zeros(11, 6), "extra": torch.zeros(2)}, folder / "model.pt")
    with pytest.raises(CompileError, match=r"2 tensors of the module are not in the file, 1 of the file") as caught:
        open_model("my_gpt:bigram", Request(weights=folder / "model.pt"))
    assert "head.bias" in str(caught.value)


def test_wrapped_names_and_narrow_weights_load_as_pytorch_loads_them(folder: Path) -> None:
    state = {"table.weight": torch.randn(11, 6), "head.weight": torch.randn(11, 6), "head.bias": torch.randn(11)}
    torch.save({f"module._orig_mod.{name}": tensor.half() for name, tensor in state.items()}, folder / "model.pt")
    ids = np.array([[1, 2, 3]])
    with open_model("my_gpt:bigram", Request(weights=folder / "model.pt")) as model:
        actual = evaluate_graph(model.graph, {"input_ids": ids}, wide=True)["logits"]
        assert str(model.graph.output("logits").type) == "f32[batch, seq, 11]"
        assert model.reference is not None
        module = model.reference()
    assert torch.equal(module.head.weight, state["head.weight"].half().float())
    assert_t1(module.double()(torch.from_numpy(ids)).detach().numpy(), actual, depth=model.graph.node_count)


def test_integers_are_no_weights(folder: Path) -> None:
    state = {"table.weight": torch.zeros(11, 6), "head.weight": torch.zeros(11, 6, dtype=torch.int64), "head.bias": torch.zeros(11)}
    torch.save(state, folder / "model.pt")
    with pytest.raises(CompileError, match=r"'head.weight' is i64, the module has float32"):
        open_model("my_gpt:bigram", Request(weights=folder / "model.pt"))


def test_hidden_states_are_not_taken_for_logits(folder: Path) -> None:
    (folder / "my_body.py").write_text("from torch import nn\ndef body(): return nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 6))\n")
    with open_model("my_body:body") as model:
        assert model.text is None
        assert [name for name, _ in model.graph.outputs] == ["output"]


def test_layers_are_the_longest_list_of_blocks_and_experts_or_single_operations_are_none() -> None:
    def block() -> torch.nn.Module:
        experts = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()) for _ in range(5))
        return torch.nn.ModuleDict({"attend": torch.nn.MultiheadAttention(2, 1), "experts": experts})

    heads = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(7))
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(block() for _ in range(3)), "heads": heads})
    assert layer_count(model) == 3
    assert layer_count(heads) == 0
