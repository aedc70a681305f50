"""Whole graphs, interpreted in float64, against the same computation in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from cgptc.ir.comparison import graph_depth
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.parser import parse_graph
from cgptc.testing import assert_t1, random_inputs

BLOCK = """
graph @main(batch: 1..4, seq: 1..16) {
  input %ids : i64[batch, seq]
  input %table : f32[11, 8]
  input %norm : f32[8]
  input %shift : f32[8]
  input %qkv : f32[8, 24]
  input %out : f32[8, 8]
  input %bias : f32[8]
  %x = embedding(%table, %ids)
  %n = layer_norm(%x, %norm, %shift) {eps=1e-05}
  %p = linear(%n, %qkv, _)
  %q0, %k0, %v0 = split(%p) {axis=2, sizes=[8, 8, 8]}
  %q1 = reshape(%q0) {shape=[batch, seq, 2, 4]}
  %k1 = reshape(%k0) {shape=[batch, seq, 2, 4]}
  %v1 = reshape(%v0) {shape=[batch, seq, 2, 4]}
  %q = transpose(%q1) {permutation=[0, 2, 1, 3]}
  %k = transpose(%k1) {permutation=[0, 2, 1, 3]}
  %v = transpose(%v1) {permutation=[0, 2, 1, 3]}
  %y0, %present_k, %present_v = attention(%q, %k, %v) {scale=0.5, causal=true, window=none}
  %y1 = transpose(%y0) {permutation=[0, 2, 1, 3]}
  %y2 = reshape(%y1) {shape=[batch, seq, 8]}
  %y3 = linear(%y2, %out, %bias)
  %h = add(%x, %y3)
  %g = gelu(%h) {approximate="tanh"}
  %r = rms_norm(%g, %norm) {eps=1e-06}
  return y=%r, key=%present_k
}
"""

REDUCTIONS = """
graph @main(rows: 1..6) {
  input %x : f32[rows, 7]
  %s = softmax(%x) {axis=1}
  %c = cum_sum(%s) {axis=0}
  %m = reduce_mean(%c) {axes=[1], keepdims=true}
  %d = sub(%x, %m)
  %v, %i = top_k(%d) {k=3, axis=1, largest=true}
  %e = erf(%v)
  %l = log_softmax(%e) {axis=0}
  return y=%l, at=%i
}
"""


def block(x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    hidden = functional.embedding(x["ids"], x["table"])
    normed = functional.layer_norm(hidden, (8,), x["norm"], x["shift"], 1e-5)
    q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in (normed @ x["qkv"]).split(8, 2))
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5).transpose(1, 2).flatten(2)
    active = functional.gelu(hidden + mixed @ x["out"] + x["bias"], approximate="tanh")
    return {"y": functional.rms_norm(active, (8,), x["norm"], 1e-6), "key": k}


def reductions(x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    shifted = x["x"] - x["x"].softmax(1).cumsum(0).mean(1, keepdim=True)
    values, indices = torch.sort(shifted, dim=1, descending=True, stable=True)  # topk orders equal elements as it likes
    return {"y": torch.erf(values[:, :3]).log_softmax(0), "at": indices[:, :3]}


def wide(array: Array) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64) if array.dtype.kind == "f" else array)


@pytest.mark.parametrize(("text", "reference"), [(BLOCK, block), (REDUCTIONS, reductions)], ids=["block", "reductions"])
@pytest.mark.parametrize("kind", ["normal", "cancelling", "integers"])
@pytest.mark.parametrize("seed", range(3))
def test_the_interpreter_agrees_with_torch(text: str, reference: object, kind: str, seed: int) -> None:
    assert callable(reference)
    graph = parse_graph(text)
    inputs = random_inputs(graph, seed=seed, kind=kind)
    expected = reference({name: wide(array) for name, array in inputs.items()})
    actual = evaluate_graph(graph, inputs, wide=True)
    for name, tensor in expected.items():
        assert_t1(tensor.numpy(), actual[name], depth=graph_depth(graph), where=name, seed=seed)
