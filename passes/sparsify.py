"""Zeros in weights: found, or put where they cost least."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.graph import Graph, Node
from cgptc.ir.masked_weights import Largest, LargestBlocks, LargestOfGroup, Masked, NonZero
from cgptc.ir.op import Array
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.sparsity import sparsity_of
from cgptc.ir.weight_expressions import Expression, leaves, sliced
from cgptc.ir.weights import EMPTY_STORE, Stored, Weight, WeightStore, dense
from cgptc.passes.hidden_features import Heads, Neurons, all_heads, all_neurons, width_of
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.rewrite import erase_dead
from cgptc.passes.weight_names import chosen, weight_of

_RATIO, _BLOCK = re.compile(r"(\d{1,4}):(\d{1,4})"), re.compile(r"(\d{1,5})x(\d{1,5})")


@dataclass(frozen=True)
class Sparsify(Pass, name="sparsify", optional=False, lossy=True):
    """Set the weights of smallest magnitude to zero in linear layers, by ``pattern``: ``element``; ``N:M``, which keeps N of M neighbours
    along a layer's inputs; ``HxW``, blocks of inputs by outputs. ``fraction`` of the elements or blocks go. Globs ``only`` choose layers by
    module or tensor name, globs ``keep`` exempt some.
    """

    pattern: str = "element"
    fraction: float = 0.5
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ratio, block = _RATIO.fullmatch(self.pattern), _BLOCK.fullmatch(self.pattern)
        fits = self.pattern == "element" or (ratio is not None and 1 <= int(ratio[1]) <= int(ratio[2]))
        fits = fits or (block is not None and int(block[1]) >= 1 and int(block[2]) >= 1)
        if not fits:
            raise UsageError("bad-option", f"'pattern' of 'sparsify' is '{self.pattern}'", fix="write element, 2:4 or 16x16")
        require_fraction("sparsify", self.fraction)

    def run(self, graph: Graph, context: PassContext) -> bool:
        layers = [node for node in graph.nodes if isinstance(node.op, Linear) and weight_of(node, 1) is not None]
        tables = shared_leaves(graph)
        changed = False
        for node in chosen(graph, layers, self.only, self.keep, "linear layer"):
            weight = weight_of(node, 1)
            assert weight is not None
            if any(leaf in tables for leaf in leaves(weight)):
                context.missed("sparsity", node.location, "its weight is used elsewhere too, as a table")
                continue
            set_weight(graph, node, self._masked(weight))
            context.done("sparsity", node.location, self.pattern)
            changed = True
        return changed

    def _masked(self, weight: Weight) -> Weight:
        if ratio := _RATIO.fullmatch(self.pattern):
            return Masked(weight, LargestOfGroup(weight, int(ratio[1]), int(ratio[2]), 0), None, f"{self.pattern}@0")
        if block := _BLOCK.fullmatch(self.pattern):
            return Masked(weight, LargestBlocks(weight, int(block[1]), int(block[2]), self.fraction), None, f"block:{self.pattern}")
        return Masked(weight, Largest(weight, self.fraction))


@dataclass(frozen=True)
class PruneNeurons(Pass, name="prune-neurons", optional=False, lossy=True):
    """Set ``fraction`` of the neurons of each feed-forward block to zero, those of the lowest score: the norm of a neuron's outgoing
    weights times those of its incoming ones. `remove-dead` then makes the matrices smaller.
    """

    fraction: float = 0.5
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_fraction("prune-neurons", self.fraction)

    def run(self, graph: Graph, context: PassContext) -> bool:
        found = {each.down: each for each in all_neurons(graph)}
        changed = False
        for down in chosen(graph, found, self.only, self.keep, "feed-forward block"):
            neurons = found[down]
            scores = _neuron_scores(neurons, graph.store)
            changed |= _zero_rows(graph, down, scores, int(self.fraction * neurons.width), 1)
        return changed


@dataclass(frozen=True)
class PruneHeads(Pass, name="prune-heads", optional=False, lossy=True):
    """Set ``count`` heads (0: ``fraction`` of them) of each attention to zero, those of the lowest score: the norm of what the projection
    reads of a head times that of its values' weights. Heads that share keys go together; one group always stays.
    """

    count: int = 0
    fraction: float = 0.5
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UsageError("bad-option", f"'count' of 'prune-heads' is {self.count}", fix="give 0 or more")
        require_fraction("prune-heads", self.fraction)

    def run(self, graph: Graph, context: PassContext) -> bool:
        everything = all_heads(graph)
        found = {each.projection: each for each in everything.values() if isinstance(each, Heads)}
        changed = False
        for projection in chosen(graph, found, self.only, self.keep, "attention"):
            heads = found[projection]
            wanted = self.count // heads.group if self.count else int(self.fraction * heads.key_heads)
            if self.count and (self.count % heads.group or self.count >= heads.heads):
                what = f"{self.count} of {heads.heads} heads cannot go"
                raise UsageError("bad-value", what, fix=f"take a multiple of {heads.group} below {heads.heads}")
            width = width_of(heads.projection.inputs[0])
            scores = _head_scores(heads, graph.store)
            changed |= _zero_rows(graph, projection, scores, min(wanted, heads.key_heads - 1), width // heads.key_heads)
        for attention, each in everything.items():
            if isinstance(each, str):
                context.missed("heads", attention.location, each, node=attention)
        return changed


@dataclass(frozen=True)
class FindZeros(Pass, name="find-zeros", optional=False, lossy=True):
    """Find the zeros that are in the weights of linear layers already; NaN marks a zero too. What a weight's zeros look like, whole rows,
    whole columns, two of four or anything else, is kept with it. A weight that is a table too, as a tied head's is, stays one weight.
    """

    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, context: PassContext) -> bool:
        if graph.store is EMPTY_STORE:
            return False
        layers = [node for node in graph.nodes if isinstance(node.op, Linear) and weight_of(node, 1) is not None]
        tables = shared_leaves(graph)
        changed = False
        for node in chosen(graph, layers, self.only, self.keep, "linear layer"):
            weight = weight_of(node, 1)
            assert weight is not None
            if any(leaf in tables for leaf in leaves(weight)):
                context.missed("zeros", node.location, "its weight is used elsewhere too, as a table")
                continue
            if sparsity_of(weight).kind not in ("dense", "unstructured", "unknown"):
                continue
            found = detected(weight, graph.store)
            if found is not None and (found.axis is not None or not isinstance(weight, Masked)):
                set_weight(graph, node, found)
                context.done("zeros", node.location, found.pattern if found.axis is None else ("rows", "columns")[found.axis])
                changed = True
        return changed


def detected(weight: Weight, store: WeightStore) -> Masked | None:
    """A matrix with the pattern of its zeros, None where it has none. Peak memory: a byte for each element."""
    keep = np.concatenate([np.asarray((block != 0) & (block == block)) for block in weight.blocks(store)])
    if keep.all() or not keep.size:
        return None
    rows, columns = (np.asarray(keep.any(axis=1 - axis)) for axis in (0, 1))
    if not (rows.all() and columns.all()):
        others = np.count_nonzero(rows) * np.count_nonzero(columns) != np.count_nonzero(keep)
        found: Weight = Masked(weight, NonZero(weight)) if others else weight
        for axis, line in ((1, columns), (0, rows)):
            found = found if line.all() else Masked(found, dense(line), axis)
        assert isinstance(found, Masked)
        return found
    groups = len(keep) % 4 == 0 and bool((keep.reshape(-1, 4, keep.shape[1]).sum(axis=1) <= 2).all())
    return Masked(weight, NonZero(weight), None, "2:4@0" if groups else "unstructured")


@dataclass(frozen=True)
class ApplyMasks(Pass, name="apply-masks", optional=False, lossy=True):
    """Set what masks name to zero: one for each stored tensor, of its shape, true where elements stay. They come with the compile
    (``--sparsity mask:FILE``), not with the pass's text.
    """

    def run(self, graph: Graph, context: PassContext) -> bool:
        unused = dict(context.masks)
        changed = False
        for node in list(graph.nodes):
            if not isinstance(node.op, Constant):
                continue
            named = [leaf.name for leaf in leaves(node.op.weight) if isinstance(leaf, Stored) and leaf.name in context.masks]
            if named:
                graph.set_op(node, Constant(_with_masks(node.op.weight, context.masks)))
                changed = True
            for name in named:
                unused.pop(name, None)
        if unused:
            what = f"the mask '{min(unused)}' names no tensor of the model"
            raise UsageError("no-match", what, fix="name masks as the tensors are named")
        return changed


def _with_masks(weight: Weight, masks: Mapping[str, Weight]) -> Weight:
    """The expression with every stored tensor that has a mask masked."""
    if isinstance(weight, Stored):
        if weight.name not in masks:
            return weight
        mask = masks[weight.name]
        if mask.shape != weight.shape:
            what = f"the mask '{weight.name}' has shape {list(mask.shape)}, the tensor {list(weight.shape)}"
            raise UsageError("bad-mask", what, fix="give a mask of the tensor's shape")
        return Masked(weight, mask)
    if not isinstance(weight, Expression):
        return weight
    changes: dict[str, Weight | tuple[Weight, ...]] = {}
    for field in dataclasses.fields(weight):
        value = getattr(weight, field.name)
        if isinstance(value, Weight):
            changes[field.name] = _with_masks(value, masks)
        elif isinstance(value, tuple) and value and isinstance(value[0], Weight):
            changes[field.name] = tuple(_with_masks(each, masks) for each in value)
    return dataclasses.replace(weight, **changes)


def set_weight(graph: Graph, node: Node, weight: Weight) -> None:
    """Give a linear layer another weight of the same type."""
    build = Builder(graph, before=node, location=node.location, stage=node.stage)
    old = node.operands[1]
    assert old is not None
    new = build.weight(weight)
    new.name = old.name
    graph.set_operand(node, 1, new)
    if old.producer is not None:
        erase_dead(graph, [old.producer])


def shared_leaves(graph: Graph) -> set[Weight]:
    """Stored weights that something other than a linear layer uses too, such as a tied table."""
    found: set[Weight] = set()
    for node in graph.nodes:
        if isinstance(node.op, Constant) and any(use.user is None or not isinstance(use.user.op, Linear) for use in node.result.uses):
            found.update(leaves(node.op.weight))
    return found


def require_fraction(name: str, fraction: float) -> None:
    """`UsageError` for a fraction that is none."""
    if not 0 <= fraction <= 1:
        raise UsageError("bad-option", f"'fraction' of '{name}' is {fraction}", fix="give 0 to 1")


def _zero_rows(graph: Graph, layer: Node, scores: Array, count: int, width: int) -> bool:
    """Mask the rows of the ``count`` lowest scores, each ``width`` rows wide; of equals the first."""
    weight = weight_of(layer, 1)
    assert weight is not None
    if not count:
        return False
    line = np.ones(len(scores), np.bool_)
    line[np.argsort(scores, kind="stable")[:count]] = False
    set_weight(graph, layer, Masked(weight, dense(np.repeat(line, width)), 0))
    return True


def _neuron_scores(neurons: Neurons, store: WeightStore) -> Array:
    """One number for each neuron; without weight bytes all are equal, and the first stand in for the others."""
    scores = np.ones(neurons.width)
    if store is EMPTY_STORE:
        return scores
    down = weight_of(neurons.down, 1)
    assert down is not None
    scores *= _row_norms(down, store)
    for source in neurons.sources:
        weight = weight_of(source.linear, 1)
        assert weight is not None
        scores *= _column_norms(sliced(weight, 1, source.start, source.stop), store)
    return scores


def _head_scores(heads: Heads, store: WeightStore) -> Array:
    """One number for each group of heads; without weight bytes all are equal."""
    if store is EMPTY_STORE:
        return np.ones(heads.key_heads)
    projection, value = weight_of(heads.projection, 1), weight_of(heads.sources[2].linear, 1)
    assert projection is not None
    assert value is not None
    source = heads.sources[2]
    read = np.square(_row_norms(projection, store)).reshape(heads.key_heads, -1).sum(axis=1)
    given = np.square(_column_norms(sliced(value, 1, source.start, source.stop), store)).reshape(heads.key_heads, -1).sum(axis=1)
    return np.asarray(np.sqrt(read * given))


def _row_norms(weight: Weight, store: WeightStore) -> Array:
    squares = [np.square(block.astype(np.float64)).sum(axis=1) for block in weight.blocks(store)]
    return np.asarray(np.sqrt(np.concatenate(squares)))


def _column_norms(weight: Weight, store: WeightStore) -> Array:
    total = np.zeros(weight.shape[1])
    for block in weight.blocks(store):
        total += np.square(block.astype(np.float64)).sum(axis=0)
    return np.asarray(np.sqrt(total))
