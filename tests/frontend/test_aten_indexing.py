"""Gathers, scatters and in-place writes: each ATen op against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.frontend.torch_equivalence import assert_imports
from torch import nn
from torch.nn import functional

from cgptc.ir.diagnostics import CompileError

X = torch.arange(24.0).reshape(2, 3, 4)
M = torch.linspace(-1, 2, 12).reshape(3, 4)
I = torch.tensor([[0, 2], [1, 1], [3, 0]])  # noqa: E741
ROWS = torch.tensor([2, 0, 1, 2])
TOKENS = {"batch": None, "seq": None}

CASES: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "embedding": (lambda w, i: functional.embedding(i, w), (M, torch.tensor([[0, 2], [1, 1]]))),
    "index_select": (lambda x, i: x.index_select(1, i % 3), (X, ROWS)),
    "gather": (lambda x, i: x.gather(1, i), (M, I)),
    "gather with a shorter index": (lambda x, i: x.gather(0, i), (M, torch.tensor([[2, 0]]))),
    "take_along_dim": (lambda x, i: torch.take_along_dim(x, i, 1), (M, I)),
    "one index": (lambda x, i: x[:, i], (X, torch.tensor([2, 0]))),
    "a matrix of indices": (lambda x, i: x[i], (M, torch.tensor([[2, 0], [1, 1]]))),
    "negative indices": (lambda x: x[[-1, 0]], (M,)),
    "two neighbouring indices": (lambda x, i: x[:, i, i + 1], (X, torch.tensor([2, 0]))),
    "two indices apart": (lambda x, i: x[i, :, i + 1], (X, torch.tensor([1, 0]))),
    "indices that broadcast": (lambda x: x[torch.arange(2)[:, None], torch.tensor([0, 2])], (X,)),
    "a constant mask": (lambda x: x[:, torch.tensor([True, False, True])], (X,)),
    "last token of each row": (lambda x, n: x[torch.arange(x.shape[0]), n], (X, torch.tensor([2, 0]))),
    "diagonal": (torch.diagonal, (M,)),
    "diagonal above, of inner axes": (lambda x: x.diagonal(1, 1, 2), (X,)),
    "diagonal below": (lambda x: x.diagonal(-1), (M,)),
    "scatter": (lambda x, i, y: x.scatter(1, i, y), (M, I[:, :1], -torch.ones(3, 1))),
    "scatter of a number": (lambda x, i: x.scatter(1, i[:, :1], 9.0), (M, I)),
    "scatter into a corner": (lambda x, i: x.scatter(0, i[:1], 9.0), (M, torch.tensor([[2, 0]]))),
    "scatter_add": (lambda x, i, y: x.scatter_add(1, i, y), (M, I, torch.ones(3, 2))),
    "scatter_reduce": (lambda x, i, y: x.scatter_reduce(1, i, y, reduce="sum"), (M, I, torch.ones(3, 2))),
    "index_add": (lambda x, i, y: x.index_add(0, i, y, alpha=2), (M, ROWS, torch.ones(4, 4))),
    "index_copy": (lambda x, i, y: x.index_copy(1, i, y), (M, torch.tensor([3, 0]), torch.ones(3, 2))),
    "index_fill": (lambda x, i: x.index_fill(0, i, -3.0), (M, torch.tensor([0, 2]))),
    "index_put": (lambda x, i, y: x.index_put((i,), y), (M, torch.tensor([2, 0]), torch.ones(4))),
    "index_put that adds": (lambda x, i, y: x.index_put((i,), y, accumulate=True), (M, ROWS, torch.ones(4, 4))),
    "index_put along two axes": (lambda x, i: x.index_put((i, i + 1), torch.tensor(-1.0)), (X, torch.tensor([1, 0]))),
    "select_scatter": (lambda x: torch.select_scatter(x, torch.zeros(3), 1, 2), (M,)),
    "slice_scatter": (lambda x: torch.slice_scatter(x, torch.zeros(3, 2), 1, 1, 3), (M,)),
    "slice_scatter with a step": (lambda x: torch.slice_scatter(x, torch.zeros(3, 2), 1, 1, 4, 2), (M,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_indexing_is_what_torch_computes(name: str) -> None:
    function, inputs = CASES[name]
    assert_imports(function, *inputs)


def _writes_a_slice(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1:3] = 0
    return y


def _writes_through_two_views(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y.transpose(0, 1)[1].add_(100)
    y[0][2] = -1
    return y * 2


def _reads_a_view_after_a_write(x: torch.Tensor) -> torch.Tensor:
    y = x + 0
    row = y[1]
    y.mul_(2)
    return row + y


def _writes_one_of_several_parts(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    first, second = y.split(2, dim=1)
    first.fill_(3)
    second[:, 0].zero_()
    a, _, c = y.unbind(0)
    c.copy_(a)
    return y


def _writes_every_other(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, ::2] = x[:, 1::2]
    return y


def _masks_in_place(x: torch.Tensor) -> torch.Tensor:
    mask = torch.full((4, 4), float("-inf"))
    mask.triu_(1)
    bias = torch.zeros(4, 4)
    bias.masked_fill_(mask != 0, -5.0)
    return x @ bias


def _puts_by_a_mask(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[y > 1] = 0.25
    return y


def _accumulates(x: torch.Tensor) -> torch.Tensor:
    y = x.view(4, 3)
    total = torch.zeros(4)
    for column in range(3):
        total += y[:, column]
    total.div_(3).clamp_(min=0)
    return total


def _writes_out(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty(3, 4)
    torch.add(x, 1, out=y)
    return y


def _writes_behind_an_axis(x: torch.Tensor) -> torch.Tensor:
    y = x.reshape(1, 3, 4).repeat(2, 1, 1)
    y[:, torch.tensor([2, 0]), torch.tensor([0, 3])] = torch.tensor([7.0, 8.0])
    y[0, torch.tensor([1, 1])] += 1
    return y


def _writes_through_reshapes(x: torch.Tensor) -> torch.Tensor:
    y = x + 1
    flat, copied = y.reshape(12), y.t().reshape(12)
    flat += 10
    copied.mul_(0)
    kept = functional.dropout(y.contiguous(), 0.5, training=False)
    kept[0] = -1
    return y.flatten() + copied


def _fills_a_band(x: torch.Tensor) -> torch.Tensor:
    encoding = torch.zeros(3, 4)
    place = torch.arange(3.0).unsqueeze(1)
    rate = torch.exp(torch.arange(0, 4, 2) * 0.5)
    encoding[:, 0::2] = torch.sin(place * rate)
    encoding[:, 1::2] = torch.cos(place * rate)
    return x + encoding


def _padding_of_keys(mask: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(mask.shape[0])[:, None, None, None]
    keys = (torch.arange(mask.shape[1]) + 0)[None, None, None, :]
    return mask[rows, keys]


def _turned(x: torch.Tensor) -> torch.Tensor:
    return x[torch.arange(x.shape[0])[None, :], torch.arange(x.shape[1])[:, None]]


def _rows_between(x: torch.Tensor) -> torch.Tensor:
    return x[:, torch.arange(x.shape[1])[:, None], :, torch.arange(4)]


@pytest.mark.parametrize("function", [_padding_of_keys, _turned])
def test_indexing_by_whole_axes_moves_them(function: Callable[..., Any]) -> None:
    graph = assert_imports(function, torch.arange(10).reshape(2, 5), dynamic=TOKENS, also=[[torch.arange(3).reshape(3, 1)]])
    assert {node.op.name for node in graph.nodes} <= {"reshape", "transpose"}


def test_indexing_by_whole_axes_among_others() -> None:
    assert_imports(_rows_between, torch.arange(120.0).reshape(2, 3, 5, 4))
    assert_imports(lambda x: x[torch.arange(2), torch.arange(2)], torch.arange(8.0).reshape(2, 2, 2))
    assert_imports(lambda x: x[torch.arange(1)[:, None], torch.arange(1)], torch.arange(3.0).reshape(1, 1, 3))


WRITES = [
    _writes_a_slice, _writes_through_two_views, _reads_a_view_after_a_write, _writes_one_of_several_parts, _writes_every_other,
    _masks_in_place, _puts_by_a_mask, _accumulates, _writes_out, _writes_behind_an_axis,
    _writes_through_reshapes, _fills_a_band,
]  # fmt: skip


@pytest.mark.parametrize("function", WRITES, ids=lambda function: function.__name__.strip("_"))
def test_in_place_writes_reach_every_view(function: Callable[..., Any]) -> None:
    assert_imports(function, M)


def test_in_place_writes_keep_symbolic_sizes() -> None:
    def shifted(ids: torch.Tensor) -> torch.Tensor:
        result = ids.new_zeros(ids.shape)
        result[:, 1:] = ids[:, :-1].clone()
        result[:, 0] = 7
        return result

    assert_imports(shifted, torch.arange(10).reshape(2, 5), dynamic=TOKENS, also=[[torch.arange(3).reshape(3, 1)]])


def test_writing_to_an_input_is_refused() -> None:
    with pytest.raises(CompileError, match="cannot be imported") as caught:
        assert_imports(lambda x: x.add_(1), M)
    assert "writes in place to the input" in "\n".join(caught.value.details)


def test_a_size_that_depends_on_data_is_refused() -> None:
    with pytest.raises(CompileError):
        assert_imports(lambda x: x[x > 0], M)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bags_of_one_length(mode: str) -> None:
    bag = nn.EmbeddingBag(9, 4, mode=mode)
    graph = assert_imports(bag, torch.tensor([[1, 2, 2], [8, 0, 1]]), dynamic=TOKENS, also=[[torch.tensor([[4]])]])
    assert str(graph.output("output").type) == "f32[batch, 4]"


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_embedding_bags_cut_by_offsets(mode: str) -> None:
    bag = nn.EmbeddingBag(9, 4, mode=mode)
    assert_imports(bag, torch.tensor([1, 2, 2, 8, 0]), torch.tensor([0, 2, 2]))


def test_embedding_bags_weigh_their_rows_and_leave_padding_out() -> None:
    weighted = nn.EmbeddingBag(9, 4, mode="sum")
    assert_imports(weighted, torch.tensor([[1, 2], [8, 0]]), None, torch.tensor([[0.5, 2.0], [1.0, -1.0]]))
    padded = nn.EmbeddingBag(9, 4, mode="mean", padding_idx=0)
    assert_imports(padded, torch.tensor([[1, 0], [0, 0]]))
