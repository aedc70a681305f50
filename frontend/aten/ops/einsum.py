"""``einsum`` as transposes, reshapes and batched products."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import UnsupportedError
from cgptc.ir.dims import Dim, product
from cgptc.ir.graph import Value
from cgptc.ir.ops.matmul import MatMul
from cgptc.ir.ops.reduction import ReduceSum


def contract(emit: Emit, equation: str, tensors: Sequence[Value]) -> Value:
    """``torch.einsum``: operands are taken from left to right, two at a time. Diagonals (``ii``) are not supported."""
    terms, target = _parse(equation.replace(" ", ""), [value.type.rank for value in tensors])
    value, labels = _summed(emit, tensors[0], terms[0], set("".join(terms[1:])) | set(target))
    for index, (other, other_labels) in enumerate(zip(tensors[1:], terms[1:], strict=True), start=2):
        later = set("".join(terms[index:])) | set(target)
        right, right_labels = _summed(emit, other, other_labels, later | set(labels))
        value, labels = _pair(emit, value, labels, right, right_labels, later)
    value, labels = _summed(emit, value, labels, set(target))
    return emit.transpose(value, [labels.index(label) for label in target])


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Labels of each operand and of the result; an ellipsis becomes labels of its own."""
    left, arrow, target = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise UnsupportedError(f"has the equation '{equation}' for {len(ranks)} operands")
    widest = max((rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True) if "..." in term), default=0)
    dots = "".join(chr(0x3B1 + index) for index in range(widest))  # Greek letters: torch allows Latin ones only
    plain: list[str] = []
    for term, rank in zip(terms, ranks, strict=True):
        count = rank - len(term.replace("...", ""))
        plain.append(term.replace("...", dots[len(dots) - count :]))
    if any(len(set(term)) != len(term) for term in plain):
        raise UnsupportedError(f"takes a diagonal in the equation '{equation}'")
    if arrow:
        return plain, target.replace("...", dots)
    every = "".join(plain)
    return plain, dots + "".join(sorted(label for label in set(every) - set(dots) if every.count(label) == 1))


def _summed(emit: Emit, value: Value, labels: str, needed: set[str]) -> tuple[Value, str]:
    """Sum over the labels that nothing else needs."""
    axes = tuple(axis for axis, label in enumerate(labels) if label not in needed)
    if not axes:
        return value, labels
    return emit(ReduceSum(axes), value), "".join(label for label in labels if label in needed)


def _pair(emit: Emit, x: Value, left: str, y: Value, right: str, later: set[str]) -> tuple[Value, str]:
    """One batched product: shared labels that are needed later are batch axes, the other shared ones are summed over."""
    batch = [label for label in left if label in right and label in later]
    inner = [label for label in left if label in right and label not in later]
    rows = [label for label in left if label not in right]
    columns = [label for label in right if label not in left]
    sizes: dict[str, Dim] = {}
    for labels, value in ((left, x), (right, y)):
        for label, size in zip(labels, value.type.shape, strict=True):
            if sizes.get(label, 1) == 1:
                sizes[label] = size
    x = _ordered(emit, x, left, [*batch, *rows, *inner], sizes)
    y = _ordered(emit, y, right, [*batch, *inner, *columns], sizes)
    lead = [sizes[label] for label in batch]
    m, k, n = (product(sizes[label] for label in group) for group in (rows, inner, columns))
    result = emit(MatMul(), emit.reshape(x, [*lead, m, k]), emit.reshape(y, [*lead, k, n]))
    labels = "".join([*batch, *rows, *columns])
    return emit.reshape(result, [sizes[label] for label in labels]), labels


def _ordered(emit: Emit, value: Value, labels: str, order: Sequence[str], sizes: dict[str, Dim]) -> Value:
    moved = emit.transpose(value, [labels.index(label) for label in order])
    return emit.expand(moved, [sizes[label] for label in order])
