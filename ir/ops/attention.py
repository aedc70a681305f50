"""Attention with a past, and the rotary embedding of its operands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import OpTypeError, require
from cgptc.ir.dims import Dim, floordiv, mod
from cgptc.ir.dtypes import boolean, i64
from cgptc.ir.graph import Value
from cgptc.ir.op import Array, Axis, Cost, Op, Role, moved_bytes
from cgptc.ir.ops.binary import Add, And, Equal, Greater, LessEqual, Mul, Select, Sub
from cgptc.ir.ops.constant import DimSize, Iota
from cgptc.ir.ops.matmul import MatMul
from cgptc.ir.ops.operands import FLOAT, require_dtype, require_kind, require_rank, require_shape, require_size, show
from cgptc.ir.ops.precision import rounded, widened
from cgptc.ir.ops.reduction import ReduceMax, Softmax
from cgptc.ir.ops.shape import Concat, Reshape, Slice, Transpose
from cgptc.ir.ops.spelling import cast, reshape, widen
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
        scores -= highest
        weights = np.exp(scores, out=scores)
        weights /= np.sum(weights, axis=-1, keepdims=True)
        if mask is not None:  # without one, a query sees at least itself
            np.copyto(weights, 0, where=highest == -np.inf)
        y = np.matmul(weights.reshape(batch, kv_heads, heads // kv_heads * length, total), widened(present_v))
        return rounded(y.reshape(batch, heads, length, value_depth), q), present_k, present_v

    def decompose(
        self,
        build: Builder,
        q: Value,
        k: Value,
        v: Value,
        mask: Value | None = None,
        past_k: Value | None = None,
        past_v: Value | None = None,
    ) -> tuple[Value, Value, Value]:
        present_k = k if past_k is None else build(Concat(2), past_k, k)
        present_v = v if past_v is None else build(Concat(2), past_v, v)
        (batch, heads, length, depth), (_, kv_heads, total, value_depth) = q.type.shape, present_v.type.shape
        stacked = floordiv(heads, kv_heads) * length
        queries = reshape(build, widen(build, q), (batch, kv_heads, stacked, depth))
        keys = build(Transpose((0, 1, 3, 2)), widen(build, present_k))
        scores = reshape(build, build(MatMul(), queries, keys), (batch, heads, length, total))
        dtype = scores.type.dtype
        scores = build(Mul(), scores, build.constant(self.scale, dtype))
        hidden = build.constant(float("-inf"), dtype)
        if mask is not None and mask.type.dtype == boolean:
            scores = build(Select(), build(Reshape((batch, 1, 1, total)), mask), scores, hidden)
        elif mask is not None:
            scores = build(Add(), scores, widen(build, mask))
        if self.causal:
            scores = build(Select(), self._visible(build, length, total), scores, hidden)
        weights = build(Softmax(3), scores)
        if mask is not None:
            nothing = build(Equal(), build(ReduceMax((3,), keepdims=True), scores), hidden)
            weights = build(Select(), nothing, build.constant(0.0, dtype), weights)
        y = build(MatMul(), reshape(build, weights, (batch, kv_heads, stacked, total)), widen(build, present_v))
        return cast(build, reshape(build, y, (batch, heads, length, value_depth)), q.type.dtype), present_k, present_v

    def _visible(self, build: Builder, length: Dim, total: Dim) -> Value:
        """Which key each query sees by position alone: bool [s, total]."""
        key = build(Iota(total))
        place = build(Add(), build(Reshape((length, 1)), build(Iota(length))), build(DimSize(total - length)))
        visible = build(LessEqual(), key, place)
        if self.window is None:
            return visible
        return build(And(), visible, build(Greater(), key, build(Sub(), place, build.constant(self.window, i64))))

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
    """Rotary position embedding (RoFormer, arXiv:2104.09864).

    Rotates pairs of the first r features of ``x [b, h, s, d]`` by angles given as ``cos`` and ``sin``, both [b or 1, s, r/2]. Pair i is
    ``(i, i + r/2)``, or ``(2i, 2i + 1)`` with ``interleaved``: ``(x1, x2)`` becomes ``(x1 cos - x2 sin, x2 cos + x1 sin)``.
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
        fits = isinstance(pairs, int) and isinstance(half, int) and 1 <= pairs <= half
        require(fits, f"the last axis of 'cos' {cos} must be static and within 1 and {half} for {x}")
        return x

    @np.errstate(all="ignore")
    def evaluate(self, x: Array, cos: Array, sin: Array) -> Array:
        cosine, sine = widened(cos)[:, None], widened(sin)[:, None]
        pairs = cos.shape[2]
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
        if self.interleaved:
            first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
        wide = widened(x)
        result = wide.copy()
        result[..., first] = wide[..., first] * cosine - wide[..., second] * sine
        result[..., second] = wide[..., second] * cosine + wide[..., first] * sine
        return rounded(result, x)

    def decompose(self, build: Builder, x: Value, cos: Value, sin: Value) -> Value:
        batch, heads, length, depth = x.type.shape
        angles, _, pairs = cos.type.shape
        turned = 2 * pairs
        wide = widen(build, x)
        cosine, sine = (build(Reshape((angles, 1, length, pairs)), widen(build, angle)) for angle in (cos, sin))
        if self.interleaved:
            first, second = build(Slice(3, 0, turned, 2), wide), build(Slice(3, 1, turned, 2), wide)
        else:
            first, second = build(Slice(3, 0, pairs), wide), build(Slice(3, pairs, turned), wide)
        real = build(Sub(), build(Mul(), first, cosine), build(Mul(), second, sine))
        imaginary = build(Add(), build(Mul(), second, cosine), build(Mul(), first, sine))
        if self.interleaved:
            columns = [build(Reshape((batch, heads, length, pairs, 1)), part) for part in (real, imaginary)]
            parts = [build(Reshape((batch, heads, length, turned)), build(Concat(4), *columns))]
        else:
            parts = [real, imaginary]
        if turned != depth:
            parts.append(build(Slice(3, turned, depth), wide))
        return cast(build, build(Concat(3), *parts) if len(parts) > 1 else parts[0], x.type.dtype)

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
