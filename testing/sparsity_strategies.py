"""Strategies for sparsity masks: which weights of a matrix stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from cgptc.testing.type_strategies import SIZES

FORMS = ("elements", "of each group", "blocks", "rows", "columns")
"""Single elements · n of every m neighbours along a row · whole blocks · whole rows · whole columns."""

GROUPS = ((1, 2), (2, 4), (1, 4), (4, 8))
"""How many of how many neighbours stay."""

BLOCKS = ((1, 2), (2, 2), (4, 4), (1, 8), (3, 5))
"""Rows and columns of a block; blocks at the edges are cut."""


@dataclass(frozen=True)
class SparsityMask:
    """``keep`` bool [rows, columns], true for what stays, and how it was made: one of `FORMS`, and the seed."""

    keep: npt.NDArray[np.bool_]
    form: str
    seed: int

    @property
    def sparsity(self) -> float:
        """The share that is zero; 0 for an empty matrix."""
        return 1 - float(self.keep.mean()) if self.keep.size else 0.0


@st.composite
def sparsity_masks(draw: st.DrawFn, shape: tuple[int, int] | None = None, *, forms: tuple[str, ...] = FORMS) -> SparsityMask:
    """A mask for a matrix of ``shape``, or of any small one; all-dense and all-zero ones are drawn too. Shrinks to a dense 1 by 1."""
    rows, columns = shape if shape is not None else (draw(st.sampled_from(SIZES)), draw(st.sampled_from(SIZES)))
    form = draw(st.sampled_from(forms))
    share = draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9, 1.0]))
    kept, group = draw(st.sampled_from(GROUPS))
    height, width = draw(st.sampled_from(BLOCKS))
    seed = draw(st.integers(0, 2**16 - 1))
    random = np.random.default_rng(seed)
    match form:
        case "of each group":
            count = -(-columns // group)
            places = random.random((rows, count, group)).argsort(axis=2)
            keep = (places < kept).reshape(rows, count * group)[:, :columns]
        case "blocks":
            coarse = random.random((-(-rows // height), -(-columns // width))) >= share
            keep = np.kron(coarse, np.ones((height, width), np.bool_)).astype(np.bool_)[:rows, :columns]
        case "rows":
            keep = np.broadcast_to(random.random((rows, 1)) >= share, (rows, columns)).copy()
        case "columns":
            keep = np.broadcast_to(random.random((1, columns)) >= share, (rows, columns)).copy()
        case _:
            keep = random.random((rows, columns)) >= share
    return SparsityMask(keep, form, seed)
