"""How each op reads as work on one item."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from cgptc.backends.wafer.axis_kinds import BATCH, FEATURE, is_time, parts
from cgptc.backends.wafer.plan.axes import taken
from cgptc.backends.wafer.plan.held import (
    Count,
    Features,
    Held,
    Ids,
    Item,
    Padding,
    Past,
    Places,
    Present,
    Product,
    RefusedError,
    Relation,
    Table,
    plain,
    shaped,
)
from cgptc.backends.wafer.plan.lift import Lift, lifts
from cgptc.backends.wafer.plan.masks import both, related
from cgptc.backends.wafer.plan.tasks import Cache
from cgptc.backends.wafer.plan.works import (
    AnglesWork,
    AttendWork,
    ConstantWork,
    HeadNormWork,
    LookupWork,
    MapWork,
    NormWork,
    PoolWork,
    RotateWork,
)
from cgptc.ir.graph import Node, Value
from cgptc.ir.op import Op
from cgptc.ir.ops.attention import Attention, Rotary
from cgptc.ir.ops.binary import Add, Div, Maximum, Minimum, Mul, Sub
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Abs, Exp, Gelu, Neg, Reciprocal, Relu, Rsqrt, Sigmoid, Silu, Sqrt, Tanh
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.norm import LayerNorm, RmsNorm
from cgptc.ir.ops.shape import Reshape, Transpose
from cgptc.ir.weight_expressions import concatenated, reshaped, widened
from cgptc.ir.weights import Weight

Results = tuple[Item, ...]

UNARY: dict[type[Op], str] = {
    Abs: "abs",
    Exp: "exp",
    Neg: "neg",
    Reciprocal: "reciprocal",
    Relu: "relu",
    Rsqrt: "rsqrt",
    Sigmoid: "sigmoid",
    Silu: "silu",
    Sqrt: "sqrt",
    Tanh: "tanh",
}
BINARY: dict[type[Op], str] = {Add: "add", Sub: "sub", Mul: "mul", Maximum: "max", Minimum: "min"}


@lifts(Constant)
def _constant(lift: Lift, op: Constant, node: Node) -> Results:
    return (Held(op.weight),)


@lifts(Linear)
def _linear(lift: Lift, op: Linear, node: Node) -> Results:
    x, weight = lift.flat(node, 0), lift.weight(node, 1)
    bias = lift.weight(node, 2) if lift.optional(node, 2) is not None else None
    product = Product(lift.value(x), weight, bias, node.location.path or node.op.name, node.stage)
    return (Features(product, np.arange(weight.shape[1]).reshape(*x.columns.shape[:-1], -1), x.axes),)


@lifts(LayerNorm)
def _layer_norm(lift: Lift, op: LayerNorm, node: Node) -> Results:
    return _norm(lift, node, op.eps, rms=False)


@lifts(RmsNorm)
def _rms_norm(lift: Lift, op: RmsNorm, node: Node) -> Results:
    if lift.features(node, 0).columns.ndim > 1:
        return _head_norm(lift, op, node)
    return _norm(lift, node, op.eps, rms=True)


def _norm(lift: Lift, node: Node, eps: float, *, rms: bool) -> Results:
    x = lift.flat(node, 0)
    weights = [(role, lift.weight(node, index)) for index, role in ((1, "weight"), (2, "bias")) if lift.optional(node, index) is not None]
    roles = [role for role, _ in weights]
    work = NormWork(x.columns.size, eps, rms, "weight" in roles, "bias" in roles)
    return (shaped(lift.add(node, work, [lift.value(x)], weights), x),)


def _head_norm(lift: Lift, op: RmsNorm, node: Node) -> Results:
    """A norm of each head of the queries or keys of an attention."""
    x = lift.features(node, 0)
    found = _read_by(node.result)
    if found is None or x.columns.ndim != 2 or x.axes[-1] != FEATURE:
        raise RefusedError("a norm over a part of the features must be that of the heads of an attention's queries or keys")
    attention, place = found
    work = HeadNormWork(_attend_work(lift, attention), place == 1, op.eps, lift.optional(node, 1) is not None)
    heads, size = x.columns.shape
    if size != work.attend.head_dim or heads != (work.attend.kv_heads if work.keys else work.attend.heads):
        raise RefusedError(f"a norm over {size} features of {heads} heads is none of its attention's heads")
    weights = [("weight", concatenated([lift.weight(node, 1)] * heads, 0))] if work.weight else []
    return (shaped(lift.add(node, work, [lift.value(x)], weights), x),)


def _read_by(value: Value) -> tuple[Node, int] | None:
    """The attention that a value leads to as queries or keys by moves and rotations alone, and as which operand."""
    while len(value.uses) == 1:
        (use,) = value.uses
        user = use.user
        if user is None:
            return None
        if isinstance(user.op, Attention):
            return (user, use.index) if use.index in (0, 1) else None
        if not isinstance(user.op, (Transpose, Reshape, Rotary)) or use.index:
            return None
        value = user.result
    return None


def _unary(lift: Lift, op: Op, node: Node) -> Results:
    x = lift.features(node, 0)
    work = MapWork(UNARY[type(op)], x.columns.size)
    return (shaped(lift.add(node, work, [lift.value(x)]), x),)


for _kind in UNARY:
    lifts(_kind)(_unary)


@lifts(Gelu)
def _gelu(lift: Lift, op: Gelu, node: Node) -> Results:
    x = lift.features(node, 0)
    work = MapWork("gelu" if op.approximate == "none" else "gelu_tanh", x.columns.size)
    return (shaped(lift.add(node, work, [lift.value(x)]), x),)


def _binary(lift: Lift, op: Op, node: Node) -> Results:
    left, right = (lift.features(node, i) if isinstance(lift.operand(node, i), Table) else lift.operand(node, i) for i in range(2))
    name = BINARY[type(op)]
    match left, right:
        case Features(), Features():
            if left.axes != right.axes or left.columns.shape != right.columns.shape:
                raise RefusedError(f"its operands have shapes {left.columns.shape} and {right.columns.shape} per token")
            inputs = [lift.value(left), lift.value(right)]
            return (shaped(lift.add(node, MapWork(name, left.columns.size), inputs), left),)
        case Features(), Held():
            return _with_constant(lift, node, name, left, right.weight, reverse=False)
        case Held(), Features():
            return _with_constant(lift, node, name, right, left.weight, reverse=True)
        case Held(), Held():
            raise RefusedError("its operands are constants: run canonicalize")
        case _:
            return (_counted(lift, op, left, right),)


for _kind in BINARY:
    lifts(_kind)(_binary)


@lifts(Div)
def _div(lift: Lift, op: Div, node: Node) -> Results:
    left, right = lift.features(node, 0), lift.operand(node, 1)
    if isinstance(right, Count):
        return (_mean_of(lift, node, left, right),)
    if isinstance(right, Held) and right.weight.shape == ():
        divisor = _number(lift, right.weight)
        # Exact for powers of two, and for others one more rounding than a division.
        work = ConstantWork("mul", left.columns.size, 1.0 / divisor)
        return (shaped(lift.add(node, work, [lift.value(left)]), left),)
    if isinstance(right, Features) and right.columns.shape == left.columns.shape and right.axes == left.axes:
        width = left.columns.size
        inverse = lift.add(node, MapWork("reciprocal", width), [lift.value(right)])
        return (shaped(lift.add(node, MapWork("mul", width), [lift.value(left), inverse]), left),)
    raise RefusedError("it divides by something other than a number or a value of the same shape")


def _mean_of(lift: Lift, node: Node, x: Features, count: Count) -> Features:
    """The sum of a row's vectors over their number: their mean, which is a pool of its own, as the sum may have other uses."""
    task = next((task for task in lift.tasks if task.name == x.source), None)
    if (
        task is None
        or not isinstance(task.work, PoolWork)
        or task.work.mode != "sum"
        or lift.marks[task.inputs[1]].sequence != count.sequence
    ):
        raise RefusedError("it divides by a number of tokens something other than their sum")
    return replace(x, source=lift.add(node, replace(task.work, mode="mean"), task.inputs, (), ""))


def _with_constant(lift: Lift, node: Node, op: str, x: Features, weight: Weight, *, reverse: bool) -> Results:
    width = x.columns.size
    if math.prod(weight.shape) == 1:
        work = ConstantWork(op, width, _number(lift, weight), reverse)
        return (shaped(lift.add(node, work, [lift.value(x)]), x),)
    if len(weight.shape) == 1 and x.flat and weight.shape[0] == width:
        work = ConstantWork(op, width, None, reverse)
        return (shaped(lift.add(node, work, [lift.value(x)], [("weight", weight)]), x),)
    raise RefusedError(f"a constant of shape {list(weight.shape)} does not belong to the features of a token")


def _number(lift: Lift, weight: Weight) -> float:
    try:
        # As it was written, not as the model's type rounds it: kernels round to the program's type.
        return float(np.asarray(widened(weight).read(lift.graph.store)).reshape(-1)[0])
    except KeyError:
        raise RefusedError("it needs a number that the model's file holds, and only shapes are known") from None


def _counted(lift: Lift, op: Op, left: Item, right: Item) -> Item:
    """Arithmetic on positions."""
    constant, place = (left, right) if isinstance(left, Held) else (right, left)
    if isinstance(constant, Held) and math.prod(constant.weight.shape) == 1 and isinstance(place, (Places, Padding)):
        number = _number(lift, constant.weight)
        if isinstance(place, Padding) and place.count and isinstance(op, (Sub, Add)) and number == (1 if isinstance(op, Sub) else -1):
            return Places()
        if isinstance(place, Places) and isinstance(op, Maximum) and number <= place.offset:
            return place
        if isinstance(place, Places) and isinstance(op, (Add, Sub)) and place is not right and number.is_integer():
            return replace(place, offset=place.offset + int(number if isinstance(op, Add) else -number))
        if isinstance(place, Places) and isinstance(op, Add) and number.is_integer():
            return replace(place, offset=place.offset + int(number))
    if isinstance(op, Add):
        combined = both(left, right)
        if combined is not None:
            return combined
    if isinstance(op, Mul) and isinstance(left, Padding) and isinstance(right, Padding) and left.count != right.count:
        return replace(left, count=True)
    raise RefusedError("the wafer computes with indices and masks only to find positions")


@lifts(Embedding)
def _embedding(lift: Lift, op: Embedding, node: Node) -> Results:
    return _lookup(lift, node, lift.weight(node, 0), lift.operand(node, 1))


@lifts(Gather)
def _gather(lift: Lift, op: Gather, node: Node) -> Results:
    if isinstance(lift.operand(node, 0), Features):
        return taken(lift, op, node)
    table = lift.weight(node, 0)
    if op.axis != 0 or len(table.shape) != 2:
        raise RefusedError("the wafer takes rows of a table only")
    return _lookup(lift, node, table, lift.operand(node, 1))


def _lookup(lift: Lift, node: Node, table: Weight, index: Item) -> Results:
    rows, width = table.shape
    match index:
        case Ids(axes=axes):
            sequence = next(kind for kind in parts(axes) if is_time(kind))
            name = lift.add(node, LookupWork(rows, width), [lift.feed(index)], [("table", table)], sequence)
            return (plain(name, width, (*axes, FEATURE)),)
        case Places(offset, sequence):
            # A table that is added to what has a batch axis needs none of its own.
            return (Table(table, 1, offset, sequence),)
        case _:
            raise RefusedError("the wafer takes rows of a table by ids or positions only")


@lifts(Attention)
def _attention(lift: Lift, op: Attention, node: Node) -> Results:
    q, k, v = (lift.features(node, index) for index in range(3))
    mask, past_key, past_value = (lift.optional(node, index) for index in (3, 4, 5))
    if lift.whole and past_key is not None:
        raise RefusedError("attention with a past has no place beside attention that sees tokens still to come")
    if any(one.axes != (BATCH, FEATURE, one.sequence, FEATURE) for one in (q, k, v)) or k.sequence != v.sequence:
        raise RefusedError("its operands must be [batch, heads, time, features]")
    biases: list[tuple[str, Weight]] = []
    if isinstance(mask, Held):
        mask = Relation(mask.weight, q.sequence)
    if isinstance(mask, (Relation, Table)):
        op, bias, mask = related(lift, op, mask, (q, k))
        biases = [("bias", bias)] if bias is not None else []
    if mask is not None and (not isinstance(mask, Padding) or mask.count or (not lift.whole and (mask.inverted or mask.name != lift.mask))):
        raise RefusedError("its mask is made of more than padding and positions: the wafer takes no other")
    for one in (past_key, past_value):
        if one is not None and not isinstance(one, Past):
            raise RefusedError("its past must be an input of the model")
    if v.columns.shape != k.columns.shape:
        raise RefusedError(f"values of {v.columns.shape} for keys of {k.columns.shape}")
    biased = biases[0][1].shape[0] if biases else 0
    work = replace(_attend_work(lift, node), window=op.window, causal=op.causal, biased=biased)
    seen = [lift.mark(k.sequence, mask if isinstance(mask, Padding) else None)] if lift.whole else []
    inputs = [lift.value(q), lift.value(k), lift.value(v), *seen]
    name = lift.add(node, work, inputs, biases)
    names = [one.name if isinstance(one, Past) else "" for one in (past_key, past_value)]
    lift.caches[name] = Cache(name, *names)
    return shaped(name, q), Present(name, True), Present(name, False)


def _attend_work(lift: Lift, node: Node) -> AttendWork:
    """The attention that a node is, with the rotary positions of its queries and keys."""
    op = node.op
    assert isinstance(op, Attention)
    q, k = node.operands[0], node.operands[1]
    assert q is not None
    assert k is not None
    (_, heads, _, head_dim), kv_heads = q.type.shape, k.type.shape[1]
    turns = [(value.op, value.producer.operand_types[1]) for value in (q, k) if value.producer is not None and isinstance(value.op, Rotary)]
    if len(turns) == 1 or (turns and turns[0] != turns[1]):
        raise RefusedError("its queries and keys are turned by different rotary positions")
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or not isinstance(head_dim, int):
        raise RefusedError("its heads have no fixed size")
    plain_work = AttendWork(heads, kv_heads, head_dim, op.scale, op.window, 0, False, op.causal)
    if lift.whole:
        one, other = (lift.base(lift.times[value.type.shape[2]]) for value in (q, k))
        plain_work = replace(plain_work, queries=lift.rows(one), keys=lift.rows(other), query_sequence=one, key_sequence=other)
    if not turns:
        return plain_work
    rotary, cosines = turns[0]
    assert isinstance(rotary, Rotary)
    half = cosines.shape[-1] if cosines is not None else 0
    assert isinstance(half, int)
    return replace(plain_work, rotated=2 * half, interleaved=rotary.interleaved)


@lifts(Rotary)
def _rotary(lift: Lift, op: Rotary, node: Node) -> Results:
    x, cosines, sines = lift.features(node, 0), lift.operand(node, 1), lift.operand(node, 2)
    users = [use.user for use in node.result.uses]
    places = [use.index for use in node.result.uses]
    user = users[0] if users else None
    if len(users) != 1 or user is None or not isinstance(user.op, Attention) or places[0] not in (0, 1):
        raise RefusedError("rotary positions must lead to the queries or keys of one attention")
    if x.axes != (BATCH, FEATURE, x.sequence, FEATURE):
        raise RefusedError("it must turn [batch, heads, time, features]")
    if not isinstance(cosines, Table) or not isinstance(sines, Table) or cosines.offset or sines.offset:
        raise RefusedError("its cosines and sines must depend on positions alone")
    attend = _attend_work(lift, user)
    if attend.head_dim % 2:
        raise RefusedError(f"heads of {attend.head_dim} features are not made of pairs")
    tables = [reshaped(one.weight, (one.weight.shape[-2], attend.rotated // 2)) for one in (cosines, sines)]
    # The queries and keys of a layer share one fetch; layers do not, since each may have a region of its own.
    key = (attend, id(user), lift.base(x.sequence))
    value = lift.value(x)
    if key not in lift.angles:
        work = AnglesWork(attend, tables[0].shape[0])
        lift.angles[key] = lift.add(node, work, [], [("cosines", tables[0]), ("sines", tables[1])], x.sequence)
    return (shaped(lift.add(node, RotateWork(attend, places[0] == 1), [value, lift.angles[key]]), x),)
