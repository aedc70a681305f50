"""``cgptc.compile`` and ``cgptc.capture`` on modules, and the compiled module in the original's place."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree
from torch import nn

import cgptc
from cgptc.ir.diagnostics import MalformedError, UsageError
from cgptc.ir.dtypes import f32
from cgptc.ir.result_tree import Output
from cgptc.ir.types import TensorType
from cgptc.runtime.interface import Interface, Port


class Tagger(nn.Module):
    """Ids to logits per token, through attention that looks both ways or back only."""

    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.embed = nn.Embedding(11, 8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 11)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        batch, seq = ids.shape
        q, k, v = (part.view(batch, seq, 2, 4).transpose(1, 2) for part in self.qkv(self.embed(ids)).split(8, dim=2))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        logits: torch.Tensor = self.head(mixed.transpose(1, 2).reshape(batch, seq, 8))
        return logits


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.dropout(self.linear(x)) * scale
        return y, y.sum(-1)


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_a_module_that_only_looks_back_gets_a_cache_and_generates() -> None:
    torch.manual_seed(0)
    module = Tagger(is_causal=True)
    artifact = cgptc.compile(module, (IDS,))
    assert artifact.interface.cached
    made = artifact.generate([1, 2], max_new_tokens=4).ids
    row = [1, 2]
    for _ in range(4):
        row.append(int(module(torch.tensor([row]))[0, -1].argmax()))
    assert made == tuple(row[2:])


def test_a_module_that_looks_ahead_is_no_text_model() -> None:
    artifact = cgptc.compile(Tagger(is_causal=False), (IDS,))
    assert not artifact.interface.cached
    with pytest.raises(UsageError):
        artifact.generate([1, 2])


def test_the_compiled_module_stands_where_the_original_stood() -> None:
    torch.manual_seed(0)
    module = Pair()
    x, scale = torch.randn(4, 3), torch.tensor([2.0, 3.0])
    artifact = cgptc.compile(module, (x, scale), axes={"x": {0: "batch"}}, dynamic={"batch": None})
    compiled = artifact.module()
    for rows in (x, x[:1]):
        with torch.no_grad():
            expected = module.eval()(rows, scale)
        for found in (compiled(rows, scale), compiled(rows, scale=scale)):
            assert isinstance(found, tuple)
            for actual, wanted in zip(found, expected, strict=True):
                torch.testing.assert_close(actual, wanted)
    with pytest.raises(UsageError, match="by position and by name"):
        compiled(x, x=x)


class Nested(torch.nn.Module):
    def forward(self, pair: tuple[torch.Tensor, torch.Tensor], extra: dict[str, torch.Tensor], factor: float = 2.0) -> torch.Tensor:
        return (pair[0] - pair[1]) * factor + extra["bias"]


def test_the_compiled_module_takes_what_is_nested_as_the_original_does() -> None:
    a, b, c = (torch.randn(3, 4) for _ in range(3))
    compiled = cgptc.compile(Nested(), ((a, b), {"bias": c}, 3.0)).module()
    expected = Nested()((a, b), {"bias": c}, 3.0)
    torch.testing.assert_close(compiled((a, b), {"bias": c}), expected)
    torch.testing.assert_close(compiled((a, b), extra={"bias": c}), expected)
    assert not cgptc.verify(cgptc.compile(Nested(), ((a, b), {"bias": c}, 3.0)), Nested(), ((b, a), {"bias": c}, 3.0)).failed
    with pytest.raises(UsageError, match="an input is a float"):
        compiled((a, b), {"bias": c}, 4.0)


@dataclasses.dataclass
class Scored:
    scores: torch.Tensor
    sums: list[torch.Tensor]


torch.export.register_dataclass(Scored, serialized_type_name="tests.Scored")
NESTS = {
    "tensor": lambda x: x + 1,
    "one in a tuple": lambda x: (x + 1,),
    "one by name": lambda x: {"logits": x + 1},
    "names that read as numbers": lambda x: {"output_0": x, "output_1": x + 1},
    "by number": lambda x: {3: x, 1: [x * 2]},
    "mixed": lambda x: {"b": x + 1, "a": {"c": [x * 2], "d": (x - 1, None, 3, x.sum())}, "input": x},
    "empty places": lambda x: ((), [None, x * 2], {}),
}


class Nest(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor) -> Any:
        return Scored(x + 1, [x.sum(-1), x.mean(-1)]) if self.name == "dataclass" else NESTS[self.name](x)


@pytest.mark.parametrize("name", [*NESTS, "dataclass"])
def test_the_compiled_module_gives_what_is_nested_as_the_original_does(name: str, tmp_path: Path) -> None:
    """A dataclass comes as a dictionary; and so it is after the artifact was written and opened again."""
    x = torch.randn(3, 4)
    expected = Nest(name)(x)
    expected = {"scores": expected.scores, "sums": expected.sums} if name == "dataclass" else expected
    artifact = cgptc.compile(Nest(name), (x,))
    for compiled in (artifact.module(), artifact.save(tmp_path / "copy").module()):
        found = compiled(x)
        assert pytree.tree_structure(found) == pytree.tree_structure(expected)
        for actual, wanted in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
            torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("wrong", [{"output": 1}, {"tuple": {}}, {"dict": [["a"]]}, {"list": [{"plain": []}]}, 3])
def test_a_nest_that_is_none_is_refused(wrong: object) -> None:
    whole = Interface((), (Port("y", TensorType(f32, (2,))),), Output(0)).to_json()
    assert Interface.from_json(whole).result == Output(0)
    with pytest.raises(MalformedError, match="result that"):
        Interface.from_json({**whole, "result": wrong})
    deep: object = {"output": 0}
    for _ in range(40):
        deep = {"list": [deep]}
    with pytest.raises(MalformedError, match="levels"):
        Interface.from_json({**whole, "result": deep})


def test_a_past_in_brings_presents_out() -> None:
    compiled = cgptc.compile(Tagger(is_causal=True), (IDS,)).module()
    whole = compiled(IDS)
    empty = torch.zeros(2, 2, 0, 4)
    first = compiled(IDS[:, :2], **{"past_key_values.0.key": empty, "past_key_values.0.value": empty})
    past = {f"past_key_values.0.{kind}": first[f"present.0.{kind}"] for kind in ("key", "value")}
    last = compiled(IDS[:, 2:], attention_mask=torch.ones(2, 3, dtype=torch.int64), **past)
    torch.testing.assert_close(last["logits"], whole[:, 2:])


def test_capturing_leaves_the_module_in_its_mode() -> None:
    module = Pair()
    module.linear.eval()
    graph = cgptc.capture(module, {"x": torch.zeros(2, 3), "scale": torch.ones(2)}, dynamic={})
    assert (module.training, module.linear.training, module.dropout.training) == (True, False, True)
    assert "rand" not in str(graph)
    assert [value.name for value in graph.inputs] == ["x", "scale"]


def test_a_file_compiles_by_its_name(tmp_path: Path) -> None:
    from cgptc.frontend.new_model import write_model
    from cgptc.frontend.presets import preset

    file = tmp_path / "model.pt"
    write_model(preset("tiny"), file)
    artifact = cgptc.compile(file, dynamic={"seq": (1, 16)}, output=tmp_path / "out", ops="standard")
    assert artifact.interface.symbols["seq"].high == 16
    logits = cgptc.load(tmp_path / "out").run(input_ids=np.array([[1, 2, 3]]))["logits"]
    assert logits.shape[:2] == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((Pair(),), {}, "without example inputs"),
        ((Pair(), (IDS,)), {"preset": "tiny"}, "'preset' is for model files"),
        (("model.pt", (IDS,)), {}, "are for modules"),
        ((Pair(), (IDS,)), {"colour": 3}, "no option 'colour'"),
        ((Pair(), (IDS,)), {"target": "onyx"}, "no target 'onyx'"),
    ],
)
def test_what_does_not_go_together_is_said(arguments: tuple[object, ...], options: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        cgptc.compile(*arguments, **options)  # type: ignore[arg-type]


def test_every_target_that_is_listed_can_be_imported() -> None:
    from cgptc.backends.registry import backend

    assert "onnx" in cgptc.targets()
    assert [backend(name).name for name in cgptc.targets()] == list(cgptc.targets())
