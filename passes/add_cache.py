"""Deriving the graph with a KV cache: one graph for prefill and decode."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.dims import Dim, Symbol, symbols
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.op import Role
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import NotEqual
from cgptc.ir.ops.constant import Constant, DimSize, Iota
from cgptc.ir.ops.elementwise import Cast
from cgptc.ir.ops.embedding import Positions
from cgptc.ir.ops.shape import Expand
from cgptc.ir.types import TensorType
from cgptc.passes.cached_masks import CachedMasks, cone, explicit_mask, is_causal
from cgptc.passes.lift import lift
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.normalize_masks import MASK
from cgptc.passes.position_tables import spell_positions_as_iota
from cgptc.passes.positions import find_positions
from cgptc.passes.rewrite import erase_dead

QUERY, KEY, VALUE, _, PAST_KEY, PAST_VALUE = range(6)


@dataclass(frozen=True)
class AddCache(Pass, name="add-cache", optional=False):
    """Give every causal self-attention a past.

    Inputs ``past_key_values.N.key|value`` ``[batch, kv heads, past, d]`` and outputs ``present.N.key|value`` are added, the attention mask
    covers ``[batch, past + seq]``, and positions count the mask's real tokens. A bias or mask of its own that attention takes is rebuilt
    from the positions of all tokens. A graph without attention has nothing to keep and stays as it is. Raises `CompileError` naming the
    node if any other node is not parallel along ``seq``: it would see the new tokens only.
    """

    mask: str = "attention_mask"

    def run(self, graph: Graph, context: PassContext) -> bool:
        if any(name.startswith("present.") for name, _ in graph.outputs):
            return False
        attentions = [node for node in graph.nodes if isinstance(node.op, Attention)]
        if not attentions:
            return False
        batch, seq = _time_axes(graph)
        mask_input = next((value for value in graph.inputs if value.name == self.mask), None)
        _refuse_unless_cacheable(graph, seq, mask_input)
        spell_positions_as_iota(graph, seq)
        past = Symbol("past", 0, seq.high)
        total = past.dim + seq.dim
        mask = _retyped_mask(graph, self.mask, mask_input, batch, seq, total)
        rebuilt = _rebuild_masks(graph, attentions, CachedMasks(graph, mask, batch, seq, past, _refusal))
        _replace_positions(graph, mask_input, mask, batch, seq, past)
        for index, node in enumerate(attentions):
            _cache(graph, node, index, mask, batch, past)
        of_masks = {node for value in rebuilt for node in cone(value)}
        if mask_input is not None:
            for user in mask_input.users:
                if user.result is not mask:
                    erase_dead(graph, [user])
            leftover = [user for user in mask_input.users if user.result is not mask and user not in of_masks]
            if leftover:
                raise _refusal(leftover[0], "it uses the attention mask in a way that has no cached form")
        _refuse_what_knows_no_past(graph, seq, of_masks)
        _refuse_what_mixes_tokens(graph, seq, of_masks)
        context.count("attentions cached", len(attentions))
        return True


def _refusal(node: Node, why: str) -> CompileError:
    return CompileError(
        "cannot-cache",
        f"'{node.op.name}' at {node.location} has no cached form: {why}",
        fix="compile with --cache none",
    )


def _time_axes(graph: Graph) -> tuple[Dim, Symbol]:
    ids = graph.inputs[0] if graph.inputs else None
    if ids is None or ids.type.rank < 2:
        raise CompileError("cannot-cache", "a cache needs an input over [batch, seq]", fix="compile with --cache none")
    batch, seq = ids.type.shape[:2]
    names = symbols([seq])
    if len(names) != 1 or seq != next(iter(names.values())).dim:
        raise CompileError(
            "cannot-cache", f"a cache needs a symbolic sequence length, got {ids.type} for '{ids.name}'", fix="compile with --cache none"
        )
    return batch, next(iter(names.values()))


def _mentions(dim: Dim, seq: Symbol) -> bool:
    return seq.name in symbols([dim])


def _refuse_unless_cacheable(graph: Graph, seq: Symbol, mask: Value | None) -> None:
    """Every node must be parallel along the sequence, but for causal self-attention and what only masks and positions are made of."""
    exempt = _mask_side(graph, mask)
    for node in graph.nodes:
        if node in exempt or isinstance(node.op, Constant):
            continue
        if isinstance(node.op, Attention):
            _refuse_attention(graph, node, seq, exempt)
            continue
        if _mixes_tokens(node, seq):
            raise _refusal(node, f"it is not parallel along '{seq.name}'")


def _mixes_tokens(node: Node, seq: Symbol) -> bool:
    """Whether an operand has an axis of the sequence that the node is not parallel along."""
    roles = _roles(node)
    return any(
        _mentions(dim, seq) and roles.get((index, position)) is not Role.PARALLEL
        for index, value in enumerate(node.operands)
        if value is not None
        for position, dim in enumerate(value.type.shape)
    )


def _roles(node: Node) -> dict[tuple[int, int], Role]:
    """What the node does along each axis of each operand."""
    return {
        (operand, position): axis.role
        for axis in node.op.axis_roles(*node.operand_types)
        for operand, position in enumerate(axis.operands)
        if position is not None
    }


def _refuse_what_mixes_tokens(graph: Graph, seq: Symbol, exempt: set[Node]) -> None:
    """What the mask and the positions go into now was no concern before they were rebuilt: a token's may not reach another here either."""
    needed = {value.producer for _, value in graph.outputs}
    for node in graph.reversed_nodes:
        if node not in needed:
            continue
        needed.update(value.producer for value in node.inputs)
        if node not in exempt and not isinstance(node.op, Attention | Positions) and _mixes_tokens(node, seq):
            raise _refusal(node, "it makes one token's position of another's")


def _refuse_attention(graph: Graph, node: Node, seq: Symbol, mask_side: set[Node]) -> None:
    assert isinstance(node.op, Attention)
    query, key = node.operands[QUERY], node.operands[KEY]
    assert query is not None
    assert key is not None
    mask = explicit_mask(node)
    if mask is not None and mask.producer not in mask_side:
        raise _refusal(node, "its mask is made of more than positions and padding")
    if not is_causal(graph, node):
        raise _refusal(node, "it is not causal")
    if query.type.shape[2] != seq.dim or key.type.shape[2] != seq.dim:
        raise _refusal(node, f"it attends over {key.type.shape[2]} keys for {query.type.shape[2]} queries, not over '{seq.name}'")


def _rebuild_masks(graph: Graph, attentions: list[Node], masks: CachedMasks) -> list[Value]:
    """Give attentions with an explicit mask one for all keys, and the flag that it hides later ones; the masks made."""
    explicit = {node: mask for node in attentions if (mask := explicit_mask(node)) is not None}
    for node, mask in explicit.items():
        assert isinstance(node.op, Attention)
        rebuilt = masks.rebuild(mask, before=node)
        graph.set_op(node, dataclasses.replace(node.op, causal=True))
        graph.set_operand(node, MASK, rebuilt)
    erase_dead(graph, [mask.producer for mask in explicit.values() if mask.producer is not None])
    return masks.made


def _mask_side(graph: Graph, mask: Value | None) -> set[Node]:
    """Nodes that depend on the mask input, iotas and constants alone: they are rebuilt, so their roles do not matter."""
    side: set[Node] = set()
    for node in graph.nodes:
        if isinstance(node.op, Attention):
            continue
        if all(value is mask or (value.producer is not None and value.producer in side) for value in node.inputs):
            side.add(node)
    return side


def _refuse_what_knows_no_past(graph: Graph, seq: Symbol, exempt: set[Node]) -> None:
    """Nothing that differs from token to token may be made of the number of new tokens alone: it would start anew at each call.

    Positions are replaced by now. A number spread over the tokens is the same for each, and may stay.
    """
    side = _mask_side(graph, None) - exempt
    varying: set[Node] = set()
    for node in graph.nodes:
        if node in side and (_varies(node, seq) or any(value.producer in varying for value in node.inputs)):
            varying.add(node)
    for node in varying:
        for value in node.results:
            users = [use.user for use in value.uses if use.user not in varying]
            if users:
                raise _refusal(
                    users[0] or node, f"it reads what '{node.op.name}' makes of the length '{seq.name}', which is new tokens only"
                )


def _varies(node: Node, seq: Symbol) -> bool:
    """Whether an operation on constants makes something of the length: not by spreading, nor element by element."""
    if isinstance(node.op, Iota | DimSize):
        return any(_mentions(dim, seq) for dim in (getattr(node.op, "size", 0), getattr(node.op, "dim", 0)))
    if isinstance(node.op, Constant | Expand):
        return False
    roles = _roles(node)
    places = [
        (operand, axis)
        for operand, value in enumerate(node.operands)
        if value is not None
        for axis, dim in enumerate(value.type.shape)
        if _mentions(dim, seq)
    ]
    if not places:
        return any(_mentions(dim, seq) for value in node.results for dim in value.type.shape)
    return any(roles.get(place) is not Role.PARALLEL for place in places)


def _retyped_mask(graph: Graph, name: str, mask: Value | None, batch: Dim, seq: Symbol, total: Dim) -> Value:
    """The Boolean mask over ``[batch, total]``, from the input of that name, which is made where the model has none."""
    if mask is None:
        mask = graph.add_input(name, TensorType(i64, (batch, total)))
    else:
        if mask.type.shape != (batch, seq.dim):
            raise CompileError("cannot-cache", f"'{name}' must be [{batch}, {seq}], got {mask.type}", fix="compile with --cache none")
        graph.set_input_type(mask, TensorType(mask.type.dtype, (batch, total)))
    if mask.type.dtype.name == "bool":
        return mask
    build = Builder(graph, before=next(graph.nodes, None))
    return build(NotEqual(), mask, build.constant(0, mask.type.dtype))


def _replace_positions(graph: Graph, mask_input: Value | None, mask: Value, batch: Dim, seq: Symbol, past: Symbol) -> None:
    found = find_positions(graph, mask_input, seq)
    if not found:
        return
    after = mask.producer._next if mask.producer is not None else next(graph.nodes, None)
    positions = Builder(graph, before=after)(Positions(batch, seq.dim, past.dim), mask)
    positions.name = "positions"
    starts: dict[Value, Value] = {}
    for value, has_batch in found:
        dtype = value.type.dtype
        own = positions if dtype == i64 else Builder(graph, before=after)(Cast(dtype), positions)
        if has_batch:
            graph.replace_uses(value, own)
        else:
            starts[value] = own
    lift(graph, starts, batch, seq.dim, _refusal)
    erase_dead(graph, [value.producer for value, _ in found if value.producer is not None])


def _cache(graph: Graph, node: Node, index: int, mask: Value, batch: Dim, past: Symbol) -> None:
    key, value = node.operands[KEY], node.operands[VALUE]
    assert key is not None
    assert value is not None
    operands = [*node.operands, *([None] * (6 - len(node.operands)))]
    if explicit_mask(node) is None:
        operands[MASK] = mask
    for place, part, source in ((PAST_KEY, "key", key), (PAST_VALUE, "value", value)):
        _, heads, _, features = source.type.shape
        operands[place] = graph.add_input(
            f"past_key_values.{index}.{part}", TensorType(source.type.dtype, (batch, heads, past.dim, features))
        )
    twin = graph.insert(node.op, operands, before=node, location=node.location, stage=node.stage)
    for old, new in zip(node.results, twin.results, strict=True):
        new.name = old.name
        graph.replace_uses(old, new)
    graph.erase(node)
    graph.add_output(f"present.{index}.key", twin.results[1])
    graph.add_output(f"present.{index}.value", twin.results[2])
