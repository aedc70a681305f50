"""Strategies for pipelines: optional passes in any order and subset, which must not change what a graph computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from hypothesis import strategies as st

import cgptc.passes.library  # noqa: F401 (registers every pass)
from cgptc.passes.manager import PASSES, Pass, Pipeline


def optional_passes() -> list[type[Pass]]:
    """Every registered pass that may run anywhere and has a default for each option, in order of name."""
    return [cls for _, cls in sorted(PASSES.items()) if cls.optional and all(_has_default(field) for field in dataclasses.fields(cls))]


def _has_default(field: dataclasses.Field[object]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def pipelines(passes: Collection[type[Pass]] | None = None, *, max_passes: int = 6) -> st.SearchStrategy[Pipeline]:
    """Pipelines of up to ``max_passes`` passes, each maybe several times; shrinks to none.

    ``passes`` are what is drawn from, each made with its default options: by default `optional_passes`, those of installed packages among
    them. Raises ValueError where there is none.
    """
    chosen = list(passes) if passes is not None else optional_passes()
    if not chosen:
        raise ValueError("no pass is left to draw from")
    drawn = st.lists(st.sampled_from(chosen), max_size=max_passes)
    return drawn.map(lambda classes: Pipeline(tuple(cls() for cls in classes)))
