"""Ops without an entry of their own are spelled with others; what has no spelling is named with its line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.frontend.torch_equivalence import Call, assert_imports
from torch.nn import functional

from cgptc.frontend.aten.table import lookup
from cgptc.frontend.capture import capture
from cgptc.ir.diagnostics import CompileError

X = torch.linspace(-2, 3, 12).reshape(3, 4)
Y = torch.linspace(0.2, 0.8, 12).reshape(3, 4)

CASES: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "logit": (torch.logit, (Y,)),
    "xlogy": (torch.xlogy, (X, Y)),
    "huber loss": (functional.huber_loss, (X, Y)),
    "celu": (functional.celu, (X,)),
    "cosine similarity": (lambda x, y: functional.cosine_similarity(x, y, dim=-1), (X, Y)),
    "pixel shuffle": (lambda x: functional.pixel_shuffle(x.reshape(1, 4, 3, 1), 2), (X,)),
    "addr": (lambda x, a, b: torch.addr(x, a, b), (X, X[:, 0], Y[0])),
    "threshold": (lambda x: functional.threshold(x, 0.5, -1.0), (X,)),
    "kl divergence": (lambda x, y: functional.kl_div(x, y, reduction="batchmean"), (X, Y)),
}


@pytest.mark.parametrize("name", CASES)
def test_an_op_without_an_entry_is_decomposed(name: str) -> None:
    function, inputs = CASES[name]
    assert_imports(function, *inputs)


def test_a_decomposed_op_keeps_symbolic_sizes_and_its_line() -> None:
    assert lookup("aten.huber_loss.default") is None
    tokens = torch.linspace(0, 1, 20).reshape(2, 5, 2)
    graph = assert_imports(
        lambda x: functional.huber_loss(x, x * 2, reduction="none"),
        tokens,
        dynamic={"batch": None, "seq": None},
        also=[[tokens[:1, :1]]],
    )
    assert str(graph.output("output").type) == "f32[batch, seq, 2]"
    assert {frame.file for node in graph.nodes for frame in node.location.frames} == {"torch_equivalence.py"}


def test_what_has_no_decomposition_is_named() -> None:
    with pytest.raises(CompileError) as caught:
        capture(Call(torch.linalg.cholesky).eval(), (torch.eye(3),))
    assert "cholesky" in "\n".join(caught.value.details)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("cumprod", lambda x: x.cumprod(1)),
        ("upsample_linear1d", lambda x: torch.nn.functional.interpolate(x.transpose(1, 2), scale_factor=2.0, mode="linear")),
        ("adaptive_avg_pool1d", lambda x: torch.nn.functional.adaptive_avg_pool1d(x.transpose(1, 2), 2)),
    ],
)
def test_a_decomposition_for_the_example_sizes_alone_is_no_spelling(name: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(CompileError) as caught:
        capture(Call(function).eval(), (torch.ones(2, 6, 3),), dynamic={"batch": None, "seq": None})
    assert name in "\n".join(caught.value.details)
