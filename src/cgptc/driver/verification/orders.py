"""Other right answers: the interpreter with every sum taken in another order. They show the noise that a dtype itself makes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cgptc.ir.interpreter import OpEvaluator, evaluate_op
from cgptc.ir.op import Array, Op
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.matmul import Linear, MatMul
from cgptc.ir.ops.norm import LayerNorm, RmsNorm
from cgptc.ir.ops.reduction import LogSoftmax, ReduceMean, ReduceSum, Softmax

Operands = tuple[Array | None, ...]
Order = npt.NDArray[np.intp]


def shuffled(seed: int) -> OpEvaluator:
    """An evaluator for `evaluate_graph` that permutes what each op sums over, by a new random order at each node.

    Attention is shuffled over the features of its scores; the sum over keys keeps its order, since masks give keys a place.
    """
    generator = np.random.default_rng(seed)

    def evaluate(op: Op, operands: Operands) -> tuple[Array, ...]:
        return _evaluate(op, operands, lambda size: generator.permutation(size))

    return evaluate


def _evaluate(op: Op, operands: Operands, draw: Callable[[int], Order]) -> tuple[Array, ...]:
    first = operands[0] if operands else None
    if first is None or first.ndim == 0 or first.dtype.kind in "iub":
        return evaluate_op(op, operands)
    order = draw(first.shape[-1])
    match op, operands:
        case MatMul(), (a, b) if a is not None and b is not None and b.ndim >= 2:
            return evaluate_op(op, (a[..., order], b[..., order, :]))
        case Linear(), (x, weight, *bias) if x is not None and weight is not None:
            return evaluate_op(op, (x[..., order], weight[order], *bias))
        case ((LayerNorm() | RmsNorm()), (x, *parameters)) if x is not None:
            (y,) = evaluate_op(op, (x[..., order], *(p[order] if p is not None else None for p in parameters)))
            return (y[..., np.argsort(order)],)
        case ((Softmax() | LogSoftmax()), (x,)) if x is not None:
            order = draw(x.shape[op.axis])
            (y,) = evaluate_op(op, (np.take(x, order, op.axis),))
            return (np.take(y, np.argsort(order), op.axis),)
        case ((ReduceSum() | ReduceMean()), (x,)) if x is not None:
            for axis in op.axes:
                x = np.take(x, draw(x.shape[axis]), axis)
            return evaluate_op(op, (x,))
        case Attention(), (q, k, v, *rest) if q is not None and k is not None:
            mask, past_k, past_v = (*rest, None, None, None)[:3]
            past = past_k[..., order] if past_k is not None else None
            y, present_k, present_v = evaluate_op(op, (q[..., order], k[..., order], v, mask, past, past_v))
            return y, present_k[..., np.argsort(order)], present_v
        case _:
            return evaluate_op(op, operands)
