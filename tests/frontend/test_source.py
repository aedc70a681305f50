from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.frontend.source import CapturedModel, Request, is_preset, open_model
from cgptc.ir.diagnostics import CgptcError, Exit, FileError, UsageError
from cgptc.ir.interpreter import evaluate_graph
from cgptc.testing.tolerances import assert_t1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    write_model(preset("tiny"), path, seed=1)
    return path


@pytest.fixture(scope="module")
def opened(tiny: Path) -> Iterator[CapturedModel]:
    with open_model(str(tiny)) as model:
        yield model


@pytest.mark.parametrize("length", [1, 5])
def test_the_captured_graph_is_the_reference_module(opened: CapturedModel, length: int) -> None:
    ids = np.random.default_rng(0).integers(0, 512, (2, length))
    assert opened.reference is not None
    with torch.no_grad():
        expected = opened.reference().double()(torch.from_numpy(ids)).numpy()
    inputs = {"input_ids": ids, "attention_mask": np.ones((2, length), np.int64)}
    actual = evaluate_graph(opened.graph, inputs, wide=True)["logits"]
    assert_t1(expected, actual, depth=opened.graph.node_count)


def test_what_is_known_beyond_the_graph(opened: CapturedModel) -> None:
    assert (opened.parameter_count, opened.layer_count) == (preset("tiny").config.parameter_count, 2)
    assert opened.text is not None
    assert (opened.text.vocabulary, opened.text.context) == (512, 128)
    assert len(opened.digest()) == 64


def test_a_fixed_size_is_fixed_and_others_stay_symbolic(tiny: Path) -> None:
    with open_model(str(tiny), Request(fixed={"seq": 16}, dynamic={"batch": (1, 4)})) as model:
        assert str(model.graph.inputs[0].type) == "i64[batch, 16]"
        assert [(name, symbol.low, symbol.high) for name, symbol in model.graph.symbols.items()] == [("batch", 1, 4)]


def test_a_preset_gives_its_shape_without_a_byte() -> None:
    with open_model("tiny-mup", shape_only=True) as model:
        assert model.reference is None
        assert model.graph.node_count > 0


@pytest.mark.parametrize(
    ("name", "kind", "exit", "says"),
    [
        ("EleutherAI/gpt-neo-125m", FileError, Exit.IO, "put its config.json and weights in a folder, say 'gpt-neo-125m'"),
        ("nothing.pt", FileError, Exit.IO, "no file, folder or preset"),
        ("gpt2", UsageError, Exit.USAGE, "cgptc new --preset gpt2 -o model.pt"),
    ],
)
def test_a_name_that_is_no_model_is_refused_with_the_next_step(name: str, kind: type[CgptcError], exit: Exit, says: str) -> None:
    with pytest.raises(kind) as caught:
        open_model(name)
    assert caught.value.exit is exit
    assert says in str(caught.value)


def test_a_name_is_a_presets_until_something_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_preset("tiny")
    assert not is_preset("model.pt")
    (tmp_path / "tiny").mkdir()
    assert not is_preset("tiny")
