"""What is given to a run, before either engine begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cgptc.backends.wafer.affine import value_of
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.program import Program


def items_of(program: Program, entry: str, inputs: Mapping[str, NDArray[Any]], scalars: Mapping[str, int]) -> tuple[int, bool]:
    """How many items the entry runs with these scalars, and whether its tensors are without an axis of items, being one whatever they are.

    Raises ProgramError for scalars that the entry does not allow, and for inputs that are missing or of another number of items.
    """
    described = program.entry(entry)
    refusal = described.refusal(scalars)
    if refusal:
        raise ProgramError("scalars", refusal)
    items, single = value_of(described.items, scalars), described.items == 1
    for binding in program.bindings:
        if binding.role != "input" or entry not in binding.entries:
            continue
        if binding.tensor not in inputs:
            raise ProgramError("input-missing", f"entry '{entry}' needs input '{binding.tensor}'")
        given = items if single else len(inputs[binding.tensor])
        if given != items:
            raise ProgramError("input-items", f"entry '{entry}' needs {items} items of '{binding.tensor}', got {given}")
    return items, single
