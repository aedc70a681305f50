"""A graph as a chain of work that can be cut into stages.

Work is every node but two kinds, which go to whatever stage needs them: constants, and values that are cheaper to make again than to
hand on (a mask, rotary tables). A cut is legal where few values of the rest are alive across it; nothing here looks at names.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cgptc.ir.cost import CostModel, Price
from cgptc.ir.dims import evaluate
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.constant import Constant
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import Transposed
from cgptc.ir.weights import Weight
from cgptc.passes.stage_partition import Chain, Item, Load, Segment

LONGEST_CONE = 16
"""Nodes that are made again for one value, at most."""


@dataclass(frozen=True)
class SharedWeight:
    """Constants of one content, up to a transposition, and the work that needs them by its place in the chain."""

    constants: tuple[Node, ...]
    places: tuple[int, ...]
    bytes: int
    copied: bool
    """Whether something that is made again in several stages needs it."""

    @property
    def can_be_sent(self) -> bool:
        """Whether each of the others can be made from the first, and none is needed to make a value again."""
        first = self.constants[0]
        return not self.copied and all(permutation_between(first, other) is not None for other in self.constants)


@dataclass
class WorkChain:
    """The chain of a graph. ``work`` are its nodes in order, ``needed_at`` the places that need each node of the other kinds."""

    graph: Graph
    model: CostModel
    sizes: Mapping[str, int]
    most_sizes: Mapping[str, int]
    """The sizes to be expected, and the largest ones of one row: a value is made again where the constants for it are no larger than it
    may become."""
    work: list[Node] = field(default_factory=list)
    needed_at: dict[Node, list[int]] = field(default_factory=dict)
    alive: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """How many values of the work are alive behind each place."""
    _prices: dict[Hashable, Price] = field(default_factory=dict)
    _sizes: dict[tuple[TensorType, bool], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cones: dict[Node, dict[Node, float]] = {}
        for node in self.graph.nodes:
            if isinstance(node.op, Constant):
                self.needed_at[node] = []
            elif (cone := self._cone(node, cones)) is not None:
                cones[node] = cone
                self.needed_at[node] = []
            else:
                self.work.append(node)
        self.places = {node: place for place, node in enumerate(self.work)}
        self._find_needs()
        self.crossing = [(place, value, users) for value, place, users in self._crossing()]
        change = np.zeros(len(self.work) + 1, np.int64)
        for place, _, users in self.crossing:
            change[place] += 1
            change[users[-1]] -= 1
        self.alive = np.cumsum(change)[: len(self.work)]
        self.prices = [self._price(node) for node in self.work]
        self.weights = self._shared_weights()

    def _cone(self, node: Node, cones: Mapping[Node, Mapping[Node, float]]) -> dict[Node, float] | None:
        """The nodes, with their times, that must run again to make this node again; None where it had better be handed on."""
        makers = [operand.producer for operand in node.inputs if operand.producer is not None]
        if any(value.is_output for value in node.results) or any(maker not in self.needed_at for maker in makers):
            return None
        cone = {node: self._price(node).time}
        for maker in makers:
            cone |= cones.get(maker, {})
        constants = sum(maker.result.type.dtype.bytes(_count(maker.result.type)) for maker in _constants_of(cone))
        largest = sum(self._bytes(value, self.most_sizes) for value in node.results)
        moving = sum(self.model.transfer(self._bytes(value, self.sizes)).time for value in node.results)
        return cone if len(cone) <= LONGEST_CONE and constants <= largest and sum(cone.values()) <= moving else None

    def _find_needs(self) -> None:
        for node in self.graph.reversed_nodes:
            places = [self.places[node]] if node in self.places else self.needed_at[node]
            if node in self.needed_at:
                self.needed_at[node] = places = sorted(set(places))
            for operand in node.inputs:
                if operand.producer in self.needed_at:
                    self.needed_at[operand.producer] += places

    def _crossing(self) -> Iterable[tuple[Value, int, tuple[int, ...]]]:
        for place, node in enumerate(self.work):
            for value in node.results:
                if users := sorted(self.places[user] for user in value.users):
                    yield value, place, tuple(users)

    def _price(self, node: Node) -> Price:
        """What it costs follows from its operation, its operands' types, and which are constants or the same: layers are priced once."""
        operands = node.operands
        kinds = (None if each is None else (operands.index(each), isinstance(each.op, Constant)) for each in operands)
        alike = (node.result.type if isinstance(node.op, Constant) else node.op, node.operand_types, *kinds)
        if alike not in self._prices:
            constants = [each.producer for each in node.inputs if each.producer is not None and isinstance(each.op, Constant)]
            self._prices[alike] = self.model.price([*dict.fromkeys(constants), node], self.sizes)
        return self._prices[alike]

    def _shared_weights(self) -> list[SharedWeight]:
        by_content: dict[str, list[Node]] = {}
        for node in self.needed_at:
            if isinstance(node.op, Constant):
                by_content.setdefault(untransposed(node.op.weight).key, []).append(node)
        found = []
        for constants in by_content.values():
            constants.sort(key=lambda node: self.needed_at[node][:1])
            places = tuple(sorted({place for node in constants for place in self.needed_at[node]}))
            size = max(self._price(node).resident_bytes for node in constants)
            copied = any(user in self.needed_at for node in constants for user in node.result.users)
            found.append(SharedWeight(tuple(constants), places, size, copied))
        return found

    @property
    def time(self) -> float:
        """All work, in one piece."""
        return sum(price.time for price in self.prices)

    def cuts(self, width: int) -> list[int]:
        """Places behind which at most ``width`` values are alive, in order; the last place is not one of them."""
        return [int(place) for place in np.flatnonzero(self.alive[:-1] <= width)]

    def chain(self, cuts: list[int], sent: Iterable[SharedWeight] = ()) -> Chain:
        """The chain with these cut points. Of weights that several stages need each has its own, but for those that are ``sent``."""
        bounds = np.array(cuts, np.int64)
        segment_of = np.searchsorted(bounds, np.arange(len(self.work)), side="left")
        times, residents, working = ([0.0] * (len(cuts) + 1) for _ in range(3))
        for place, price in enumerate(self.prices):
            index = segment_of[place]
            times[index] += price.time
            working[index] = max(working[index], price.peak_bytes - price.resident_bytes)
        items = []
        sent_weights = set(sent)
        for place, value, users in self.crossing:
            if segments := _later(segment_of, place, users):
                moved = self.model.transfer(self._bytes(value, self.sizes))
                items.append(_handed_on(int(segment_of[place]), segments, moved))
        for weight in self.weights:
            if not weight.places:
                continue
            first = int(segment_of[weight.places[0]])
            segments = _later(segment_of, weight.places[0], weight.places)
            if not segments:
                residents[first] += weight.bytes
                continue
            own = Load(0.0, weight.bytes)
            moved = self.model.transfer(weight.bytes)
            items.append(_handed_on(first, segments, moved, own) if weight in sent_weights else Item(first, segments, own, received=own))
        for node, places in self.needed_at.items():
            if places and not isinstance(node.op, Constant):
                own = Load(self._price(node).time, sum(self._bytes(value, self.sizes) for value in node.results))
                items.append(Item(int(segment_of[places[0]]), _later(segment_of, places[0], places), own, received=own))
        segments_made = tuple(
            Segment(time, int(resident), int(most)) for time, resident, most in zip(times, residents, working, strict=True)
        )
        return Chain(segments_made, tuple(items))

    def _bytes(self, value: Value, sizes: Mapping[str, int]) -> int:
        largest = sizes is self.most_sizes
        if (value.type, largest) not in self._sizes:
            self._sizes[value.type, largest] = evaluate(value.type.bytes, sizes)
        return self._sizes[value.type, largest]


def _handed_on(maker: int, users: tuple[int, ...], moved: Price, own: Load = Load()) -> Item:  # noqa: B008 (a frozen value)
    """The receivers' slots of the buffer are counted as what they hold."""
    return Item(maker, users, own, Load(moved.time, moved.peak_bytes), Load(moved.time), moved.peak_bytes)


def _later(segment_of: npt.NDArray[np.int64], first: int, places: Iterable[int]) -> tuple[int, ...]:
    """The segments of places, less that of the first."""
    return tuple(sorted({int(segment_of[place]) for place in places} - {int(segment_of[first])}))


def _constants_of(nodes: Iterable[Node]) -> dict[Node, None]:
    makers = (operand.producer for node in nodes for operand in node.inputs)
    return {maker: None for maker in makers if maker is not None and isinstance(maker.op, Constant)}


def _count(type_: TensorType) -> int:
    size = 1
    for dim in type_.static_shape:
        size *= dim
    return size


def untransposed(weight: Weight) -> Weight:
    """What a weight is a transposition of; itself where it is none."""
    return weight.base if isinstance(weight, Transposed) else weight


def permutation_between(source: Node, wanted: Node) -> tuple[int, ...] | None:
    """How to transpose one constant into another; None where that does not give it."""
    assert isinstance(source.op, Constant)
    assert isinstance(wanted.op, Constant)
    have, want = source.op.weight, wanted.op.weight
    if have == want:
        return tuple(range(len(have.shape)))
    if isinstance(want, Transposed) and want.base == have:
        return want.permutation
    if isinstance(have, Transposed) and have.base == want:
        return tuple(int(axis) for axis in np.argsort(have.permutation))
    return None
