"""Mask files: tensors of zeros and ones, named as the model's tensors are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cgptc.frontend.readers.opening import open_checkpoint
from cgptc.ir.diagnostics import MalformedError
from cgptc.ir.graph import Graph
from cgptc.ir.masked_weights import NonZero
from cgptc.ir.op import Array
from cgptc.ir.weights import Stored, Weight, WeightStore

PREFIX = "mask/"
"""Before the names of masks in a store that holds a model's tensors too."""


@dataclass(frozen=True)
class WithMasks:
    """A model's tensors, and a mask file's under `PREFIX`."""

    tensors: WeightStore
    masks: WeightStore

    def read(self, name: str, start: int, stop: int) -> Array:
        if name.startswith(PREFIX):
            return self.masks.read(name.removeprefix(PREFIX), start, stop)
        return self.tensors.read(name, start, stop)


@contextmanager
def with_masks(graph: Graph, path: Path | None) -> Iterator[Mapping[str, Weight]]:
    """The masks of a file by the names of the tensors that they mask; the graph's store holds them meanwhile. None without a file.

    Raises what opening a weight file raises, and `MalformedError` for a tensor that holds anything but zeros and ones.
    """
    if path is None:
        yield {}
        return
    store = graph.store
    with open_checkpoint(path) as file:
        for name, weight in file.tensors.items():
            _require_mask(name, weight, file.store, path)
        graph.store = WithMasks(store, file.store)
        try:
            yield {name: NonZero(Stored(PREFIX + name, weight.dtype, weight.shape)) for name, weight in file.tensors.items()}
        finally:
            graph.store = store


def _require_mask(name: str, weight: Stored, store: WeightStore, path: Path) -> None:
    for block in weight.blocks(store):
        if not np.isin(block, (0, 1)).all():
            number = block[~np.isin(block, (0, 1))].reshape(-1)[0]
            what = f"the mask '{name}' holds {number:g}, not zeros and ones alone"
            raise MalformedError("bad-mask", what, file=str(path), fix="give 1 where an element stays and 0 where it goes")
