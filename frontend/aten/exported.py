"""A neutral view of an exported program, the same for a live `torch.export.ExportedProgram` and for the JSON inside a ``.pt2`` file.

Nothing here knows torch: dtypes and dimensions are the IR's, and every argument has its schema's name.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import DType
from cgptc.ir.loc import UNKNOWN, Location
from cgptc.ir.types import TensorType
from cgptc.ir.weights import Weight


@dataclass(frozen=True)
class Reference:
    """The result of the node, or the input, of that name."""

    name: str


@dataclass(frozen=True)
class Unknown:
    """An argument that the IR has no counterpart for, such as a complex dtype; ``text`` is what the user wrote."""

    text: str


Argument: TypeAlias = "Reference | Unknown | DType | bool | int | float | str | tuple[Argument, ...] | Region | None"


@dataclass(frozen=True)
class ExportedNode:
    """One call: ``target`` is ``aten.add.Tensor``, ``sym.add`` for arithmetic on sizes, ``getitem``, or ``region`` for a wrapped subgraph.

    ``types`` are the exported result types, one for each tensor, None where the exporter does not say or the result is no tensor.
    ``aliases`` says whether the result shares memory with the first operand, None where the exporter does not say. ``origin`` is the
    adapter's own node, for decomposition.
    """

    name: str
    target: str
    arguments: Mapping[str, Argument]
    types: tuple[TensorType | None, ...] = ()
    location: Location = UNKNOWN
    aliases: bool | None = None
    origin: object = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Region:
    """A subgraph: inputs by name, nodes, results."""

    inputs: tuple[str, ...]
    nodes: tuple[ExportedNode, ...]
    outputs: tuple[Argument, ...]


class InputKind(enum.Enum):
    PARAMETER = "parameter"
    BUFFER = "buffer"
    CONSTANT = "constant"
    USER = "user"


@dataclass(frozen=True)
class ExportedInput:
    """A placeholder: ``target`` is the parameter's or buffer's qualified name, or the name of the graph's input."""

    name: str
    kind: InputKind
    target: str
    type: TensorType | None
    value: Argument = None  # of a user input that is no tensor, and so was fixed at export


@dataclass(frozen=True)
class ExportedOutput:
    """A result and the name that it has in the graph."""

    name: str
    value: Argument


@dataclass(frozen=True)
class ExportedProgram:
    """What was exported. ``weights`` gives every parameter, buffer and constant by its target."""

    inputs: tuple[ExportedInput, ...]
    nodes: tuple[ExportedNode, ...]
    outputs: tuple[ExportedOutput, ...]
    weights: Mapping[str, Weight]
    symbols: Mapping[str, Symbol] = field(default_factory=dict)
    """The graph's symbols by the name they have in the exporter's expressions, such as ``s27``."""
    root: str = ""
    """A wrapper's attribute that holds the model, to be left out of names."""


def referenced_names(node: ExportedNode, inner: str) -> list[str]:
    """The names of what a node takes, each once, in order.

    Names within a region start with the region's prefix, which is what ``inner``, the node's own name without it, tells to cut off.
    """
    prefix = node.name.removesuffix(inner)
    found: dict[str, None] = {}
    for argument in node.arguments.values():
        for item in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(item, Reference):
                found[item.name.removeprefix(prefix)] = None
    return list(found)
