"""Attention with a past, and the rotary embedding of its operands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.ir.diagnostics import OpTypeError, require
from cgptc.ir.dims import Dim, floordiv, mod
from cgptc.ir.dtypes import boolean
from cgptc.ir.op import Array, Axis, Cost, Op, Role, moved_bytes
from cgptc.ir.ops.operands import FLOAT, require_dtype, require_kind, require_rank, require_shape, require_size, show
from cgptc.ir.ops.precision import rounded, widened
from cgptc.ir.types import TensorType


@dataclass(frozen=True)
class Attention(Op, name="attention"):
    """``softmax(scale * q @ k^T + mask) @ v`` over past and new keys; gives (y, present_k, present_v).

    Shapes: q [b, hq, s, d], k [b, hkv, n, d], v [b, hkv, n, dv], past_k [b, hkv, past, d], past_v [b, hkv, past, dv] give y [b, hq, s, dv],
    present_k [b, hkv, total, d] and present_v [b, hkv, total, dv], total = past + n. hq is a multiple of hkv: head h reads key head
    ``h // (hq / hkv)``. Query i sees key j iff ``j <= past + i`` (``causal``; then s = n), ``j > past + i - window`` (``window``, only with
    ``causal``), and ``mask``: bool [b, total], true for real tokens, or additive [b or 1, hq or 1, s, total] in q's type, where -inf hides.
    A query that sees nothing gets 0. Scores and softmax are in at least f32; f16 and bf16 results are rounded once.
    """

    scale: float
    causal: bool = False
    window: int | None = None

    def infer(
        self,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        mask: TensorType | None = None,
        past_k: TensorType | None = None,
        past_v: TensorType | None = None,
    ) -> tuple[TensorType, TensorType, TensorType]:
        require_kind("q", q, FLOAT)
        for name, operand in (("q", q), ("k", k), ("v", v)):
            require_dtype(name, operand, q.dtype)
            require_rank(name, operand, 4)
        (batch, heads, length, depth), (_, kv_heads, fresh, _) = q.shape, k.shape
        require_shape("k", k, (batch, kv_heads, fresh, depth))
        require_shape("v", v, (batch, kv_heads, fresh, v.shape[3]))
        whole = kv_heads != 0 and mod(heads, kv_heads) == 0
        require(whole, f"the heads of 'q' {q} must be a multiple of those of 'k', got {kv_heads}")
        if self.window is not None:
            require(self.causal and self.window >= 1, f"'window' must be at least 1 and come with 'causal', got {self.window}")
        if self.causal:
            require_size(f"axis 2 of 'k' {k}, for causal attention from 'q' {q},", fresh, length)
        past: Dim = 0
        if past_k is not None and past_v is not None:
            past = past_k.shape[2] if past_k.rank == 4 else 0
            for name, operand, new in (("past_k", past_k, k), ("past_v", past_v, v)):
                require_dtype(name, operand, q.dtype)
                require_shape(name, operand, (batch, kv_heads, past, new.shape[3]))
        elif past_k is not None or past_v is not None:
            raise OpTypeError(f"'past_k' and 'past_v' must come together, got {past_k or 'none'} and {past_v or 'none'}")
        total = past + fresh
        if mask is not None and mask.dtype == boolean:
            require_shape("mask", mask, (batch, total))
        elif mask is not None:
            require_dtype("mask", mask, q.dtype)
            fits = mask.rank == 4 and mask.shape[0] in (1, batch) and mask.shape[1] in (1, heads) and mask.shape[2:] == (length, total)
            wanted = f"bool[{batch}, {total}] or {q.dtype}[{batch} or 1, {heads} or 1, {length}, {total}]"
            require(fits, f"'mask' must be {wanted}, got {mask}")
        return (
            q.with_shape((batch, heads, length, v.shape[3])),
            k.with_shape((batch, kv_heads, total, depth)),
            v.with_shape((batch, kv_heads, total, v.shape[3])),
        )

    @np.errstate(all="ignore")
    def evaluate(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask: Array | None = None,
        past_k: Array | None = None,
        past_v: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        present_k = k if past_k is None else np.concatenate([past_k, k], axis=2)
        present_v = v if past_v is None else np.concatenate([past_v, v], axis=2)
        (batch, heads, length, depth), (_, kv_heads, total, value_depth) = q.shape, present_v.shape
        # The queries of one group of heads share their keys: stacked, each key head is one product.
        stacked = widened(q).reshape(batch, kv_heads, heads // kv_heads * length, depth)
        scores = np.matmul(stacked, np.swapaxes(widened(present_k), 2, 3)).reshape(batch, heads, length, total)
        scores *= np.asarray(self.scale, scores.dtype)
        if mask is not None and mask.dtype == np.bool_:
            np.copyto(scores, -np.inf, where=~mask[:, None, None, :])
        elif mask is not None:
            scores += widened(mask)
        if self.causal:
            place = np.arange(length)[:, None] + (total - length)
            key = np.arange(total)
            hidden = key > place
            if self.window is not None:
                hidden |= key <= place - self.window
            np.copyto(scores, -np.inf, where=hidden)
        highest = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
        scores -= np.where(highest == -np.inf, 0, highest)  # a row of -inf alone stays one, and its exponentials are 0
        weights = np.exp(scores, out=scores)
        sums = np.sum(weights, axis=-1, keepdims=True)
        weights /= np.where(sums == 0, 1, sums)
        y = np.matmul(weights.reshape(batch, kv_heads, heads // kv_heads * length, total), widened(present_v))
        return rounded(y.reshape(batch, heads, length, value_depth), q), present_k, present_v

    def cost(
        self,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        mask: TensorType | None = None,
        past_k: TensorType | None = None,
        past_v: TensorType | None = None,
    ) -> Cost:
        """All queries with all keys: what a kernel does that skips no masked block."""
        y, present_k, present_v = self.infer(q, k, v, mask, past_k, past_v)
        pairs = q.shape[0] * q.shape[1] * q.shape[2] * present_k.shape[2]
        moved = moved_bytes(q, k, v, mask, past_k, past_v, y, present_k, present_v)
        return Cost(pairs * (2 * q.shape[3] + 2 * v.shape[3] + 5), moved)

    def axis_roles(
        self,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        mask: TensorType | None = None,
        past_k: TensorType | None = None,
        past_v: TensorType | None = None,
    ) -> tuple[Axis, ...]:
        """Query positions are parallel unless ``causal`` makes them differ; heads unless they share keys."""
        past = past_k is not None
        additive = mask is not None and mask.dtype != boolean

        def masked(axis: int, size: Dim) -> int | None:
            return axis if mask is not None and additive and mask.shape[axis] == size else None

        def olden(axis: int) -> int | None:
            return axis if past else None

        batch_mask = 0 if mask is not None and not additive else masked(0, q.shape[0])
        found = [
            Axis(Role.PARALLEL, (0, 0, 0, batch_mask, olden(0), olden(0)), (0, 0, 0)),
            Axis(Role.MIXED if self.causal else Role.PARALLEL, (2, None, None, 2 if additive else None, None, None), (2, None, None)),
            Axis(Role.PARALLEL, (None, None, 3, None, None, olden(3)), (3, None, 3)),
        ]
        if q.shape[1] == k.shape[1]:
            found.append(Axis(Role.PARALLEL, (1, 1, 1, masked(1, q.shape[1]), olden(1), olden(1)), (1, 1, 1)))
        return tuple(found)


@dataclass(frozen=True)
class Rotary(Op, name="rotary"):
    """Rotates pairs of the first r features of ``x [b, h, s, d]`` by angles given as ``cos`` and ``sin``, both [b or 1, s, r/2].

    Pair i is ``(i, i + r/2)``, or ``(2i, 2i + 1)`` with ``interleaved``: ``(x1, x2)`` becomes ``(x1 cos - x2 sin, x2 cos + x1 sin)``.
    The other d - r features pass. f16 and bf16 are computed in f32 and rounded once.
    """

    interleaved: bool = False

    def infer(self, x: TensorType, cos: TensorType, sin: TensorType) -> TensorType:
        require_kind("x", x, FLOAT)
        require_rank("x", x, 4)
        half = floordiv(x.shape[3], 2)
        for name, angle in (("cos", cos), ("sin", sin)):
            require_dtype(name, angle, x.dtype)
            fits = angle.rank == 3 and angle.shape[0] in (1, x.shape[0]) and angle.shape[1] == x.shape[2]
            require(
                fits,
                f"'{name}' must have shape {show((x.shape[0], x.shape[2], half))}, the first maybe 1, the last maybe less, got {angle}",
            )
        require_shape("sin", sin, cos.shape)
        pairs = cos.shape[2]
        fits = isinstance(pairs, int) and isinstance(half, int) and pairs <= half
        require(fits, f"the last axis of 'cos' {cos} must be static and at most {half} for {x}")
        return x

    @np.errstate(all="ignore")
    def evaluate(self, x: Array, cos: Array, sin: Array) -> Array:
        cosine, sine = widened(cos)[:, None], widened(sin)[:, None]
        turned = 2 * cos.shape[2]
        first, second = (
            (np.s_[..., 0:turned:2], np.s_[..., 1:turned:2])
            if self.interleaved
            else (np.s_[..., : turned // 2], np.s_[..., turned // 2 : turned])
        )
        wide = widened(x)
        result = wide.copy()
        result[first] = wide[first] * cosine - wide[second] * sine
        result[second] = wide[second] * cosine + wide[first] * sine
        return rounded(result, x)

    def cost(self, x: TensorType, cos: TensorType, sin: TensorType) -> Cost:
        turned = x.shape[0] * x.shape[1] * x.shape[2] * (2 * cos.shape[2])
        return Cost(3 * turned, 2 * x.bytes + cos.bytes + sin.bytes)

    def axis_roles(self, x: TensorType, cos: TensorType, sin: TensorType) -> tuple[Axis, ...]:
        batch = 0 if cos.shape[0] == x.shape[0] else None
        return (
            Axis(Role.PARALLEL, (0, batch, batch), (0,)),
            Axis(Role.PARALLEL, (1, None, None), (1,)),
            Axis(Role.PARALLEL, (2, 1, 1), (2,)),
            Axis(Role.MIXED, (3, None, None), (3,)),
        )
