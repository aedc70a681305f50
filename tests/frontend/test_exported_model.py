from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cgptc.frontend.oracle import evaluate_module
from cgptc.frontend.source import Request, open_model
from cgptc.ir.diagnostics import CgptcError, MalformedError, UsageError
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops import Attention
from cgptc.testing.tolerances import assert_t1


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 24)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.tensor([2.0]), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        batch, seq = ids.shape
        x = self.table(ids) * self.scale
        q, k, v = (part.view(batch, seq, 2, 4).transpose(1, 2) for part in self.mix(x).split(8, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, seq, 8)
        y = y + torch.arange(seq)[None, :, None].to(x.dtype) / seq + torch.topk(y, 2).values.sum(-1, keepdim=True)
        result: torch.Tensor = self.head(y).masked_fill(ids[..., None] == 0, float("-inf"))
        return result


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    module = Small().eval()
    ids = torch.zeros((2, 6), dtype=torch.int64)
    automatic = torch.export.Dim.AUTO  # type: ignore[attr-defined]
    program = torch.export.export(module, (ids,), dynamic_shapes=({0: automatic, 1: automatic},), strict=False)
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    torch.export.save(program, path)
    return path, module


@pytest.mark.parametrize("shape", [(1, 1), (2, 6), (3, 4)])
def test_the_graph_is_what_was_exported(archive: tuple[Path, nn.Module], shape: tuple[int, int]) -> None:
    path, module = archive
    ids = np.random.default_rng(1).integers(0, 11, shape)
    expected = module.double()(torch.from_numpy(ids)).detach().numpy()
    with open_model(str(path)) as model:
        assert [node.op.causal for node in model.graph.nodes if isinstance(node.op, Attention)] == [True]
        assert model.text is not None
        assert model.text.vocabulary == 11
        assert model.reference is not None
        assert_t1(expected, evaluate_graph(model.graph, {"input_ids": ids}, wide=True)["logits"], depth=model.graph.node_count)
        (reference,) = model.reference()(ids=torch.from_numpy(ids))
        for name in ("ids", "input_ids"):
            np.testing.assert_array_equal(evaluate_module(model.reference(), {name: ids})["output"], reference.numpy(), err_msg=name)
    np.testing.assert_array_equal(reference.numpy(), module.float()(torch.from_numpy(ids)).detach().numpy())


def test_tied_weights_stay_one(archive: tuple[Path, nn.Module]) -> None:
    with open_model(str(archive[0])) as model:
        text = str(model.graph)
    assert "head.weight" not in text or "table.weight" not in text


def test_a_size_of_one_that_torch_never_saw_is_mentioned(archive: tuple[Path, nn.Module]) -> None:
    with open_model(str(archive[0])) as model:
        assert "'batch' and 'seq' to be at least 2" in model.warnings[0]


def test_locations_are_those_of_the_export(archive: tuple[Path, nn.Module]) -> None:
    with open_model(str(archive[0])) as model:
        frames = {frame for node in model.graph.nodes for frame in node.location.frames}
    assert "table" in {frame.path for frame in frames}
    assert not any(frame.file.startswith("/") for frame in frames)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(fixed={"seq": 4}), "decided at export"),
        (Request(dynamic={"heads": (1, 2)}), "not symbolic in the file"),
        (Request(preset="gpt2"), "says itself what it computes"),
    ],
)
def test_sizes_and_shapes_cannot_be_asked_otherwise(archive: tuple[Path, nn.Module], request_: Request, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_model(str(archive[0]), request_)


def _damaged(path: Path, target: Path, change: Callable[[dict[str, object]], None]) -> None:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(data)
                change(program)
                data = json.dumps(program).encode()
            copy.writestr(name, data)


@pytest.mark.parametrize(
    "change",
    [
        lambda program: program["graph_module"].pop("signature"),
        lambda program: program["graph_module"]["graph"]["nodes"][2].pop("inputs"),
        lambda program: program["graph_module"]["graph"].update(tensor_values=7),
        lambda program: program["graph_module"]["graph"]["nodes"].insert(0, None),
        lambda program: program.update(range_constraints=[]),
    ],
)
def test_a_program_off_its_schema_is_malformed(
    archive: tuple[Path, nn.Module], tmp_path: Path, change: Callable[[dict[str, object]], None]
) -> None:
    _damaged(archive[0], tmp_path / "bad.pt2", change)
    with pytest.raises(MalformedError):
        open_model(str(tmp_path / "bad.pt2"))


def test_any_dropped_part_of_the_program_is_a_clear_error(archive: tuple[Path, nn.Module], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for _ in range(60):

        def change(program: dict[str, object]) -> None:
            place: object = program["graph_module"]
            while True:
                keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
                if not keys:
                    return
                key = keys[int(random.integers(len(keys)))]
                inner = place[key]  # type: ignore[index]
                if not isinstance(inner, (dict, list)) or not inner or random.random() < 0.2:
                    del place[key]  # type: ignore[attr-defined]
                    return
                place = inner

        _damaged(archive[0], tmp_path / "bad.pt2", change)
        try:
            open_model(str(tmp_path / "bad.pt2")).close()
        except CgptcError:
            continue
