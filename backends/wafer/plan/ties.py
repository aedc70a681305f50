"""Tables that are looked up and multiplied with: the head of a model whose embedding it is tied to.

Where one region does both, and both lie in the same tiles, they are one buffer: rows are read across the tiles of the head's weight. In two
regions there are two copies. A region of a pipeline that does both (`stages.together`) holds up every item until it has left the last
region, since what a region does for an item it does before the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cgptc.backends.wafer.kernels.embedding import Embedding
from cgptc.backends.wafer.kernels.fragment import Kernel
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.plan.select import Ground
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.plan.works import LinearWork, LookupWork
from cgptc.ir.weight_expressions import transposed


def ties(tasks: Sequence[Task]) -> dict[str, str]:
    """Lookups by ids whose table is, transposed, the whole weight of a linear layer: that layer for each."""
    heads: dict[tuple[int, ...], list[Task]] = {}
    for task in tasks:
        if isinstance(task.work, LinearWork):
            heads.setdefault((task.work.k, task.work.n), []).append(task)
    found: dict[str, str] = {}
    for task in tasks:
        if isinstance(task.work, LookupWork) and task.work.offset is None and (task.work.width, task.work.rows) in heads:
            key = transposed(dict(task.weights)["table"], (1, 0)).key
            same = (one for one in heads[task.work.width, task.work.rows] if dict(one.weights)["weight"].key == key)
            head = next(same, None)
            if head is not None:
                found[task.name] = head.name
    return found


def one_copy(tied: Mapping[str, str], tasks: Sequence[Task], kernels: Sequence[Kernel], ground: Ground) -> dict[str, str]:
    """Those of a region's ties whose tables lie in the tiles of the linear layer's weight."""
    by_name = {task.name: (task, kernel) for task, kernel in zip(tasks, kernels, strict=True)}
    found: dict[str, str] = {}
    for lookup, head in tied.items():
        if lookup not in by_name or head not in by_name:
            continue
        (_, table), (linear, product) = by_name[lookup], by_name[head]
        if not isinstance(table, Embedding) or not isinstance(product, Linear):
            continue
        layout = table.table_layout
        turned = replace(layout, shape=layout.shape[::-1], cuts=layout.cuts[::-1])
        ordered = ground.lies[lookup].order == ground.lies[linear.inputs[0]].order and ground.lies[head].order is None
        if turned == product.weight_layout and ordered:
            found[lookup] = head
    return found
