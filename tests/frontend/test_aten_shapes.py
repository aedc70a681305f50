"""Shape ops, pieces, creation, ordering and reductions: each ATen op against PyTorch, fixed and symbolic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.frontend.torch_equivalence import assert_imports
from torch.nn import functional

from cgptc.ir.diagnostics import CompileError

X = torch.arange(24.0).reshape(2, 3, 4) - 7.5
M = torch.linspace(-1, 2, 12).reshape(3, 4)
INTEGERS = torch.tensor([[3, -1, 2], [0, 5, -4]])
TOKENS = {"batch": None, "seq": None}

CASES: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "view with a hole": (lambda x: x.view(-1, 4), (X,)),
    "reshape": (lambda x: x.transpose(0, 2).reshape(4, -1), (X,)),
    "view_as": (lambda x, y: x.view_as(y), (X, torch.zeros(6, 4))),
    "flatten": (lambda x: x.flatten(1), (X,)),
    "unflatten": (lambda x: x.unflatten(-1, (2, 2)), (X,)),
    "unsqueeze at the end": (lambda x: x.unsqueeze(-1), (X,)),
    "squeeze": (lambda x: x[:, :1].squeeze(), (X,)),
    "squeeze one axis": (lambda x: x[:, :1].squeeze(1), (X,)),
    "squeeze an axis that is not 1": (lambda x: x.squeeze(1), (X,)),
    "transpose": (lambda x: x.transpose(-1, 0), (X,)),
    "swapaxes": (lambda x: torch.cat([x.swapaxes(-1, 0), x.swapdims(0, -1)]), (X,)),
    "permute": (lambda x: x.permute(2, 0, 1), (X,)),
    "movedim": (lambda x: torch.movedim(x, 0, -1), (X,)),
    "t": (torch.t, (M,)),
    "mT": (lambda x: x.mT, (X,)),
    "expand": (lambda x: x[:, :1].expand(2, 5, -1), (X,)),
    "expand with new axes": (lambda x: x.expand(2, 3, 4), (M,)),
    "expand_as": (lambda x, y: y.expand_as(x), (X, M)),
    "broadcast_to": (lambda x: torch.broadcast_to(x, (2, 3, 4)), (M,)),
    "slice": (lambda x: x[:, 1:, :-1], (X,)),
    "slice with a step": (lambda x: x[..., ::2], (X,)),
    "slice beyond the end": (lambda x: x[:, 1:99], (X,)),
    "slice to nothing": (lambda x: x[:, 2:1], (X,)),
    "select": (lambda x: x[0, -1], (X,)),
    "narrow": (lambda x: x.narrow(2, 1, 2), (X,)),
    "new axes": (lambda x: x[None, :, None], (M,)),
    "split": (lambda x: x.split(3, dim=2), (X,)),
    "split by sizes": (lambda x: x.split([1, 3], dim=-1), (X,)),
    "chunk": (lambda x: x.chunk(3, dim=-1), (X,)),
    "tensor split": (lambda x: torch.tensor_split(x, 3, dim=2), (X,)),
    "unbind": (lambda x: x.unbind(1), (X,)),
    "cat": (lambda x, y: torch.cat([x, y, x], 1), (X, X + 1)),
    "cat of types": (lambda x, y: torch.cat([x, y]), (M, torch.ones(1, 4, dtype=torch.int64))),
    "cat with nothing": (lambda x: torch.cat([torch.empty(0), x], 0), (M,)),
    "stack": (lambda x: torch.stack([x, -x], dim=-1), (M,)),
    "hstack": (lambda x: torch.hstack([x, x]), (M,)),
    "repeat": (lambda x: x.repeat(2, 1, 3), (X,)),
    "repeat with a new axis": (lambda x: x.repeat(2, 1, 2), (M,)),
    "tile": (lambda x: torch.tile(x, (2,)), (M,)),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, dim=1), (X,)),
    "repeat_interleave flat": (lambda x: x.repeat_interleave(3), (M,)),
    "roll": (lambda x: torch.roll(x, 1, 2), (X,)),
    "roll two axes back": (lambda x: torch.roll(x, (-1, 5), (1, 2)), (X,)),
    "roll flat": (lambda x: torch.roll(x, 2), (M,)),
    "flip": (lambda x: x.flip(0, -1), (X,)),
    "pad": (lambda x: functional.pad(x, (1, 2, 0, 1), value=0.5), (X,)),
    "pad that crops": (lambda x: functional.pad(x, (-1, 0, 2, -1)), (X,)),
    "pad by reflection": (lambda x: functional.pad(x, (2, 1), mode="reflect"), (X,)),
    "pad of bools": (lambda x: functional.pad(x > 0, (1, 0), value=True), (M,)),
    "diff": (lambda x: torch.diff(x, dim=-1), (X,)),
    "unfold": (lambda x: x.unfold(2, 2, 1), (X,)),
    "meshgrid": (lambda x, y: torch.meshgrid(x, y, indexing="ij"), (torch.arange(3.0), torch.arange(2.0))),
    "arange": (lambda x: x + torch.arange(4), (M,)),
    "arange from": (lambda x: x + torch.arange(1, 5), (M,)),
    "arange in steps": (lambda x: x + torch.arange(0, 7, 2), (M,)),
    "arange downwards": (lambda x: x + torch.arange(7, -1, -2), (M,)),
    "arange of fractions": (lambda x: x + torch.arange(0, 1, 0.25), (M,)),
    "arange as floats": (lambda x: x + torch.arange(0, 8, 2, dtype=torch.float32) / 8, (M,)),
    "linspace": (lambda x: x + torch.linspace(-1, 1, 4), (M,)),
    "full": (lambda x: x + torch.full((4,), 2), (M,)),
    "zeros and ones": (lambda x: x * torch.ones(4) + torch.zeros(3, 1), (M,)),
    "full_like": (lambda x: torch.full_like(x, 0.3), (M,)),
    "zeros_like of another type": (lambda x: torch.zeros_like(x, dtype=torch.bool), (M,)),
    "ones_like": (torch.ones_like, (INTEGERS,)),
    "new_full": (lambda x: x.new_full((2,), 3), (M,)),
    "new_zeros and new_ones": (lambda x: x.new_zeros(2) + x.new_ones(2), (M,)),
    "eye": (lambda x: x @ torch.eye(4, 3), (M,)),
    "one_hot": (lambda x: functional.one_hot(x.abs(), 6), (INTEGERS,)),
    "scalar tensor": (lambda x: torch.where(x > 0, x, torch.tensor(-1.0)), (M,)),
    "sum": (torch.sum, (X,)),
    "sum of integers": (torch.sum, (INTEGERS,)),
    "sum of bools": (lambda x: (x > 0).sum(-1), (X,)),
    "sum over axes": (lambda x: x.sum((0, 2), keepdim=True), (X,)),
    "mean": (torch.mean, (X,)),
    "mean over axes": (lambda x: x.mean(dim=(-1, 0)), (X,)),
    "prod": (lambda x: x.prod(dim=1), (M,)),
    "any": (lambda x: (x > 14).any(), (X,)),
    "all": (lambda x: (x > -7).all(dim=2), (X,)),
    "amax": (lambda x: x.amax((0, 1)), (X,)),
    "amin": (lambda x: x.amin(-1, keepdim=True), (X,)),
    "max": (torch.max, (X,)),
    "max along an axis": (lambda x: tuple(x.max(dim=1)), (INTEGERS,)),
    "min along an axis": (lambda x: tuple(x.min(dim=1, keepdim=True)), (INTEGERS,)),
    "argmax": (torch.argmax, (INTEGERS,)),
    "argmin along an axis": (lambda x: x.argmin(dim=-1, keepdim=True), (INTEGERS,)),
    "cumsum": (lambda x: x.cumsum(-1), (X,)),
    "cumsum of integers": (lambda x: (x > 0).cumsum(1), (INTEGERS,)),
    "var": (lambda x: x.var(dim=-1), (X,)),
    "var biased": (lambda x: x.var(dim=-1, unbiased=False, keepdim=True), (X,)),
    "std": (torch.std, (X,)),
    "var_mean": (lambda x: torch.var_mean(x, dim=1), (X,)),
    "logsumexp": (lambda x: torch.logsumexp(x, dim=-1, keepdim=True), (X,)),
    "norm": (lambda x: torch.linalg.vector_norm(x, dim=-1), (X,)),
    "norm of order 1": (lambda x: torch.linalg.vector_norm(x, 1, dim=-1, keepdim=True), (X,)),
    "norm of order 3": (lambda x: torch.linalg.vector_norm(x, 3.0, dim=0), (X,)),
    "largest magnitude": (lambda x: torch.linalg.vector_norm(x, float("inf")), (X,)),
    "normalize": (lambda x: functional.normalize(x, dim=-1), (X,)),
    "grid of columns and rows": (lambda x: torch.meshgrid(x[0, 0], x[0, :, 0], indexing="xy"), (X,)),
    "squeeze of no axes": (lambda x: x[:1].squeeze(()), (X,)),
    "one part of several": (lambda x: torch.unsafe_split(x, 9)[0], (X,)),
    "gradient along an axis": (lambda x: torch.gradient(x, dim=1)[0], (X,)),
    "pieces of a number": (lambda x: (x[0, 0].unfold(0, 1, 1), x[0, 0].index_select(0, torch.tensor([0]))), (X,)),
    "topk": (lambda x: tuple(torch.topk(x, 2, dim=-1)), (INTEGERS,)),
    "topk smallest": (lambda x: tuple(torch.topk(x, 2, dim=-1, largest=False)), (INTEGERS,)),
    "sort": (lambda x: tuple(torch.sort(x, dim=1)), (INTEGERS,)),
    "sort downwards": (lambda x: tuple(torch.sort(x, dim=0, descending=True)), (INTEGERS,)),
    "kthvalue": (lambda x: torch.kthvalue(x, 2, dim=1, keepdim=True)[0], (INTEGERS,)),
    "median": (lambda x: torch.median(x, dim=-1)[0], (INTEGERS,)),
    "median among what is no number": (lambda x: tuple(torch.median(torch.where(x > 14, torch.nan, x), dim=-1)), (X,)),
    "bucketize": (lambda x, b: torch.bucketize(torch.where(x > 14, torch.nan, x), b), (X, torch.tensor([-2.5, 0.5, 4.0]))),
    "searchsorted from the right": (lambda x, b: torch.searchsorted(b, x, right=True), (X, torch.tensor([-2.5, 0.5, 4.0]))),
    "std_mean": (lambda x: torch.std_mean(x, (0, 1)), (X,)),
    "shifts": (lambda x: (x.long() << 2, x.long() >> 1), (X,)),
    "argsort": (lambda x: torch.argsort(x, dim=-1), (INTEGERS,)),
    "a rank-0 tensor": (lambda x: x.sum().unsqueeze(0).softmax(-1).sum(-1), (X,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_op_on_fixed_sizes_is_what_torch_computes(name: str) -> None:
    function, inputs = CASES[name]
    assert_imports(function, *inputs)


SYMBOLIC: dict[str, Callable[..., Any]] = {
    "view of heads": lambda x: x.view(x.shape[0], x.shape[1], 2, 3).transpose(1, 2),
    "merge of axes": lambda x: x.reshape(-1, x.shape[-1]),
    "flatten and back": lambda x: x.flatten(0, 1).view(x.shape[0], x.shape[1], -1),
    "all but the last": lambda x: x[:, :-1],
    "all but the first": lambda x: x[:, 1:],
    "shift by one": lambda x: torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1),
    "last": lambda x: x[:, -1],
    "every other": lambda x: x[:, ::2],
    "at most three": lambda x: x[:, :3],
    "pad by one": lambda x: functional.pad(x, (0, 0, 1, 0)),
    "roll by one": lambda x: torch.roll(x, 1, 1),
    "roll back by one": lambda x: torch.roll(x, -1, 1),
    "repeat": lambda x: x.repeat(1, 2, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "flip": lambda x: x.flip(1),
    "mean": lambda x: x.mean(1),
    "var": lambda x: x.var(1, unbiased=False),
    "cumsum": lambda x: x.cumsum(1),
    "scaled by length": lambda x: x / x.shape[1],
    "causal mask": lambda x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(),
    "distance": lambda x: torch.arange(x.shape[1])[None, :] - torch.arange(x.shape[1])[:, None],
    "arange from the length": lambda x: torch.arange(x.shape[1], 2 * x.shape[1]),
    "chunk of features": lambda x: x.chunk(2, dim=-1)[1],
    "expand of a row": lambda x: torch.arange(6.0).expand(x.shape[0], x.shape[1], -1),
    "one row per sample": lambda x: x.new_zeros(x.shape[0], 2),
    "scores": lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x,
    "argmax over tokens": lambda x: x.argmax(1),
    "largest half": lambda x: x.topk((x.shape[1] + 1) // 2, dim=1)[0],
    "median": lambda x: x.median(1)[0],
    "mean of all": lambda x: functional.adaptive_avg_pool1d(x.transpose(1, 2), 1),
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_an_op_on_symbolic_sizes_is_valid_for_every_size(name: str) -> None:
    others = [[torch.linspace(0, 1, b * s * 6).reshape(b, s, 6)] for b, s in ((1, 1), (3, 2), (1, 7))]
    graph = assert_imports(SYMBOLIC[name], torch.linspace(-1, 1, 2 * 5 * 6).reshape(2, 5, 6), dynamic=TOKENS, also=others)
    assert graph.symbols["seq"].low == 1


BOUNDED: dict[str, tuple[Callable[..., Any], int]] = {
    "chunks": (lambda x: x.chunk(3, 1), 5),
    "windows": (lambda x: x.unfold(1, 4, 2), 4),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_pieces_that_a_short_axis_does_not_have_need_a_bound(name: str) -> None:
    function, least = BOUNDED[name]
    x = torch.linspace(-1, 1, 2 * 11 * 6).reshape(2, 11, 6)
    assert_imports(function, x, dynamic={"batch": None, "seq": (least, 64)}, also=[[x[:, :length]] for length in range(least, 11)])
    with pytest.raises(CompileError) as caught:
        assert_imports(function, x, dynamic={"batch": None, "seq": None})
    assert "bound the size from below" in str(caught.value)


def test_a_symbolic_number_of_pieces_is_refused() -> None:
    with pytest.raises(CompileError, match=r"cannot be imported|could not capture|fixes it"):
        assert_imports(lambda x: x.split(2, dim=1)[0], torch.ones(2, 5, 6), dynamic=TOKENS)
