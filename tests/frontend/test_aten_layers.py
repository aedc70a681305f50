"""Products, norms, attention and losses: each ATen op against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.frontend.torch_equivalence import assert_imports
from torch import nn
from torch.nn import functional

from cgptc.ir.diagnostics import CompileError
from cgptc.ir.graph import Graph
from cgptc.ir.ops.attention import Attention

TOKENS = {"batch": None, "seq": None}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


A, B, V = draw(3, 4), draw(4, 5, seed=1), draw(4, seed=2)
BATCH, OTHER = draw(2, 3, 4), draw(2, 4, 5, seed=3)
LABELS = torch.tensor([1, 0, 3])

CASES: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "mm": (torch.mm, (A, B)),
    "bmm": (torch.bmm, (BATCH, OTHER)),
    "matmul that broadcasts": (torch.matmul, (BATCH, B)),
    "matmul of vectors": (torch.matmul, (V, V)),
    "matrix times vector": (torch.matmul, (BATCH, V)),
    "vector times matrix": (torch.matmul, (V, OTHER)),
    "mv": (torch.mv, (A, V)),
    "outer": (torch.outer, (V, V)),
    "inner of square matrices": (torch.inner, (draw(4, 4), draw(4, 4, seed=1))),
    "inner of more axes": (torch.inner, (BATCH, draw(5, 4))),
    "inner of vectors": (torch.inner, (V, V)),
    "vdot": (torch.vdot, (V, V)),
    "addmm": (torch.addmm, (draw(5), A, B)),
    "addmm with factors": (lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=2), (draw(3, 5), A, B)),
    "baddbmm": (torch.baddbmm, (draw(2, 1, 5), BATCH, OTHER)),
    "baddbmm without the addend": (lambda c, a, b: torch.baddbmm(c, a, b, beta=0, alpha=0.5), (draw(2, 3, 5), BATCH, OTHER)),
    "linear": (functional.linear, (BATCH, draw(5, 4), draw(5))),
    "linear without bias": (functional.linear, (BATCH, draw(5, 4))),
    "einsum of heads": (lambda q, k: torch.einsum("bhid,bhjd->bhij", q, k), (draw(2, 3, 4, 5), draw(2, 3, 6, 5))),
    "einsum that sums": (lambda x: torch.einsum("bij->j", x), (BATCH,)),
    "einsum that transposes": (lambda x: torch.einsum("bij->jib", x), (BATCH,)),
    "einsum of dots": (lambda x, y: torch.einsum("...ij,jk->...ik", x, y), (BATCH, B)),
    "einsum of three": (lambda x, y, z: torch.einsum("bij,jk,k->bi", x, y, z), (BATCH, B, draw(5))),
    "einsum without a target": (lambda x, y: torch.einsum("ij,jk", x, y), (A, B)),
    "outer einsum": (lambda x, y: torch.einsum("i,j->ij", x, y), (V, draw(3))),
    "conv1d": (lambda x, w, b: functional.conv1d(x, w, b, stride=2, padding=1), (draw(2, 4, 7), draw(6, 4, 3), draw(6))),
    "conv1d in groups": (lambda x, w: functional.conv1d(x, w, dilation=2, groups=2), (draw(2, 4, 9), draw(6, 2, 3))),
    "conv_transpose1d": (
        lambda x, w, b: functional.conv_transpose1d(x, w, b, stride=3, padding=1, output_padding=2), (draw(2, 4, 5), draw(4, 6, 3), draw(6))
    ),
    "conv_transpose1d in groups": (
        lambda x, w: functional.conv_transpose1d(x, w, padding=4, dilation=2, groups=2), (draw(2, 4, 9), draw(4, 3, 2)),
    ),
    "max_pool1d": (lambda x: functional.max_pool1d(x, 3, stride=2, padding=1, dilation=2), (draw(2, 4, 9),)),
    "avg_pool1d": (lambda x: functional.avg_pool1d(x, 3, stride=1, padding=1), (draw(2, 4, 7),)),
    "avg_pool1d that leaves padding out": (lambda x: functional.avg_pool1d(x, 2, padding=1, count_include_pad=False), (draw(4, 7),)),
    "bilinear": (functional.bilinear, (BATCH, draw(2, 3, 5), draw(6, 4, 5), draw(6))),
    "adaptive_avg_pool1d": (lambda x: functional.adaptive_avg_pool1d(x, 3), (draw(2, 4, 7),)),
    "adaptive_avg_pool1d of equal parts": (lambda x: functional.adaptive_avg_pool1d(x, 3), (draw(4, 6),)),
    "layer_norm": (lambda x, w, b: functional.layer_norm(x, (4,), w, b), (BATCH, V, V)),
    "layer_norm without weights": (lambda x: functional.layer_norm(x, (4,), eps=1e-3), (BATCH,)),
    "layer_norm over two axes": (lambda x, w: functional.layer_norm(x, (3, 4), w), (BATCH, A)),
    "native_layer_norm": (lambda x, w, b: torch.native_layer_norm(x, (4,), w, b, 1e-5), (BATCH, V, V)),
    "rms_norm": (lambda x, w: functional.rms_norm(x, (4,), w, 1e-6), (BATCH, V)),
    "group_norm": (lambda x, w, b: functional.group_norm(x, 2, w, b), (draw(2, 4, 5), V, V)),
    "cross_entropy": (functional.cross_entropy, (A, LABELS)),
    "cross_entropy of weighed classes": (functional.cross_entropy, (A, LABELS, V.abs())),
    "cross_entropy of weighed classes, smoothed": (
        lambda x, y, w: functional.cross_entropy(x, y, w, ignore_index=0, label_smoothing=0.1),
        (A, LABELS, V.abs()),
    ),
    "nll_loss of weighed classes": (lambda x, y, w: functional.nll_loss(x, y, w, reduction="sum"), (A, LABELS, V.abs())),
    "cross_entropy over tokens": (lambda x, y: functional.cross_entropy(x.transpose(1, 2), y), (BATCH, LABELS.expand(2, 3))),
    "cross_entropy that ignores": (lambda x, y: functional.cross_entropy(x, y, ignore_index=0, reduction="sum"), (A, LABELS)),
    "cross_entropy that smooths": (lambda x, y: functional.cross_entropy(x, y, label_smoothing=0.1), (A, LABELS)),
    "cross_entropy of each": (lambda x, y: functional.cross_entropy(x, y, reduction="none"), (A, LABELS)),
    "cross_entropy of probabilities": (lambda x, y: functional.cross_entropy(x, y.softmax(-1)), (A, draw(3, 4, seed=4))),
    "cross_entropy of probabilities, weighed and smoothed": (
        lambda x, y, w: functional.cross_entropy(x.mT, y.softmax(-1).mT, w, label_smoothing=0.2), (BATCH, draw(2, 3, 4, seed=4), V.abs()),
    ),
    "nll_loss": (lambda x, y: functional.nll_loss(x.log_softmax(-1), y, ignore_index=0), (A, LABELS)),
    "mse_loss": (functional.mse_loss, (A, draw(3, 4, seed=5))),
    "mse_loss summed": (lambda x, y: functional.mse_loss(x, y, reduction="sum"), (A, draw(3, 4, seed=5))),
    "l1_loss": (functional.l1_loss, (A, draw(3, 4, seed=5))),
    "smooth_l1_loss": (lambda x, y: functional.smooth_l1_loss(x, y, beta=0.5), (A, draw(3, 4, seed=5))),
    "binary cross entropy": (functional.binary_cross_entropy_with_logits, (A, draw(3, 4, seed=5).sigmoid())),
    "binary cross entropy, weighed": (
        lambda x, y, w: functional.binary_cross_entropy_with_logits(x, y, w.exp(), pos_weight=w.abs()), (A, draw(3, 4, seed=5).sigmoid(), V)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_what_torch_computes(name: str) -> None:
    function, inputs = CASES[name]
    assert_imports(function, *inputs)


def test_a_transposed_convolution_keeps_a_symbolic_length_and_turns_its_weight_unread() -> None:
    layer = nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1)
    axes = {"input": {0: "batch", 2: "seq"}}
    graph = assert_imports(layer, draw(2, 4, 5), dynamic=TOKENS, axes=axes, also=[[draw(1, 4, 1)], [draw(1, 4, 8)]])
    assert str(graph.output("output").type) == "f32[batch, 6, 2*seq]"
    assert {node.op.name for node in graph.nodes} == {"constant", "reshape", "pad", "slice", "conv1d"}


def test_batch_norm_uses_its_running_statistics() -> None:
    norm = nn.BatchNorm1d(4)
    norm.running_mean = draw(4, seed=6)
    norm.running_var = draw(4, seed=7).abs()
    assert_imports(norm, draw(2, 4, 5))


def test_batch_norm_in_training_is_refused() -> None:
    from cgptc.frontend.capture import capture

    with pytest.raises(CompileError):
        capture(nn.BatchNorm1d(4).train(), (draw(2, 4, 5),))


Q, K, U = draw(2, 4, 5, 6), draw(2, 4, 5, 6, seed=1), draw(2, 4, 5, 6, seed=2)
LONG_K, LONG_U = draw(2, 4, 7, 6, seed=1), draw(2, 4, 7, 6, seed=2)
SEEN = torch.tensor([[True] * 5, [False, False, True, True, True]])


def _attention_count(graph: Graph, *, causal: bool) -> int:
    return sum(isinstance(node.op, Attention) and node.op.causal == causal for node in graph.nodes)


def test_causal_attention_is_a_flag() -> None:
    graph = assert_imports(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True), Q, K, U)
    assert _attention_count(graph, causal=True) == 1


def test_causal_attention_to_more_keys_is_torchs_not_ours() -> None:
    graph = assert_imports(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True), Q, LONG_K, LONG_U)
    assert _attention_count(graph, causal=False) == 1


ATTENTION: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "plain": (lambda q, k, v: functional.scaled_dot_product_attention(q, k, v), (Q, LONG_K, LONG_U)),
    "scaled": (lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, scale=0.2), (Q, K, U)),
    "bool mask": (lambda q, k, v, m: functional.scaled_dot_product_attention(q, k, v, m[:, None, None, :]), (Q, K, U, SEEN)),
    "bool mask of two axes": (lambda q, k, v, m: functional.scaled_dot_product_attention(q, k, v, m > -1), (Q, K, U, draw(5, 5))),
    "additive mask": (lambda q, k, v, m: functional.scaled_dot_product_attention(q, k, v, m), (Q, K, U, draw(2, 1, 5, 5))),
    "additive mask of heads": (lambda q, k, v, m: functional.scaled_dot_product_attention(q, k, v, m), (Q, K, U, draw(4, 5, 5))),
    "grouped heads": (
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
        (Q, K[:, :2], U[:, :2]),
    ),
    "no batch": (lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True), (Q[0], K[0], U[0])),
    "two batch axes": (
        lambda q, k, v, m: functional.scaled_dot_product_attention(q, k, v, m),
        (draw(2, 3, 4, 5, 6), draw(2, 3, 4, 5, 6), draw(2, 3, 4, 5, 6), draw(2, 1, 1, 5, 5)),
    ),
    "values of another width": (lambda q, k, v: functional.scaled_dot_product_attention(q, k, v), (Q, K, draw(2, 4, 5, 3))),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_what_torch_computes(name: str) -> None:
    function, inputs = ATTENTION[name]
    graph = assert_imports(function, *inputs)
    assert any(isinstance(node.op, Attention) for node in graph.nodes)


def test_a_multihead_attention_module_with_padding() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]
            return y

    assert_imports(Wrapped(), draw(2, 5, 8), ~SEEN, dynamic=TOKENS, also=[[draw(3, 1, 8), torch.zeros(3, 1, dtype=torch.bool)]])


def test_a_multihead_attention_module_that_gives_its_weights() -> None:
    assert_imports(nn.MultiheadAttention(8, 2, batch_first=True), draw(2, 5, 8), draw(2, 7, 8), draw(2, 7, 8, seed=1))


def test_a_transformer_encoder() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    graph = assert_imports(encoder, draw(2, 5, 8), dynamic=TOKENS, also=[[draw(1, 1, 8)]])
    assert any(frame.path == "layers.1.self_attn" for node in graph.nodes for frame in node.location.frames)


def test_a_transformer_encoder_with_a_causal_mask() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            y: torch.Tensor = self.encoder(x, mask=mask)
            return y

    assert_imports(Causal(), draw(2, 5, 8), dynamic=TOKENS, also=[[draw(1, 1, 8)]])


def test_a_transformer_with_source_and_target() -> None:
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.transformer = nn.Transformer(8, 2, 1, 1, 16)
            self.head = nn.Linear(8, 11)

        def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(target.shape[0])
            y: torch.Tensor = self.head(self.transformer(self.embed(source), self.embed(target), tgt_mask=mask))
            return y

    source, target = torch.arange(12).reshape(6, 2) % 11, torch.arange(8).reshape(4, 2) % 11
    axes = {"source": {0: "source", 1: "batch"}, "target": {0: "seq", 1: "batch"}}
    dynamic = {"batch": None, "seq": None, "source": None}
    assert_imports(Translator(), source, target, dynamic=dynamic, axes=axes, also=[[source[:3, :1], target[:1, :1]]])


def test_attention_from_four_linears() -> None:
    class Hand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
            self.register_buffer("mask", torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, seq, width = x.shape
            q, k, v = (part(x).view(batch, seq, 2, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
            scores = (q @ k.transpose(-2, -1)) * (1.0 / 4**0.5)
            scores = scores.masked_fill(self.mask[:, :, :seq, :seq] == 0, float("-inf"))
            y: torch.Tensor = self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, seq, width))
            return y

    graph = assert_imports(Hand(), draw(2, 5, 8), dynamic=TOKENS, also=[[draw(1, 1, 8)], [draw(1, 16, 8)]])
    assert graph.symbols["seq"].high == 16


def test_losses_of_a_whole_model_keep_symbolic_sizes() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 8)

        def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            logits = functional.linear(self.embed(ids), self.embed.weight)
            return functional.cross_entropy(logits[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1))

    ids = torch.arange(10).reshape(2, 5)
    assert_imports(Loss(), ids, ids, dynamic=TOKENS, also=[[ids[:1, :3], ids[:1, :3]]])
