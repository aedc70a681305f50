"""Names for the tensors within nested inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def leaf_name(start: str, path: Sequence[Any]) -> str:
    """A name for a leaf from the keys and indices of torch's pytree that lead to it."""
    return "_".join([start, *(str(getattr(key, "idx", getattr(key, "key", getattr(key, "name", key)))) for key in path)])
