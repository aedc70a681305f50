"""How a model's inputs and outputs become a program's: what stands beside a program, so that it runs without the graph."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cgptc.backends.wafer.faults import ProgramError

HOST_FILE = "host.json"
MAX_HOST_BYTES = 1 << 24


@dataclass(frozen=True)
class HostInput:
    """The model's input ``name`` is the program's ``tensor`` item by item: indices, or vectors of features, or numbers where not ``exact``.

    ``axes`` are the kinds of its axes (`cgptc.backends.wafer.axis_kinds`), a space between them. An item that is a whole row has ``rows``
    tokens from token ``start`` of the row on, of which those that the row lacks are ``filler``.
    """

    name: str
    tensor: str
    ids: bool
    axes: str
    rows: int
    filler: int = 0
    start: int = 0


@dataclass(frozen=True)
class HostMark:
    """The program's ``tensor`` says which of a row's ``rows`` tokens are real: those that the model's input ``mask`` tells (its zeros
    where ``inverted``), or all that the row has where that is empty. ``sequence`` is the kind of their axis.
    """

    tensor: str
    sequence: str
    rows: int
    mask: str
    inverted: bool


@dataclass(frozen=True)
class HostPart:
    """A sequence that has ``difference`` more tokens in a row than the sequence ``of``, which is an input's: mostly fewer."""

    sequence: str
    of: str
    difference: int


@dataclass(frozen=True)
class HostOutput:
    """The model's output ``name`` in elements of ``dtype`` is the program's ``tensor`` item by item.

    ``axes`` are the kinds of its axes, ``features`` the sizes of the feature kinds among them. Without an axis of tokens it is that of
    the last token, without one of rows that of the last item.
    """

    name: str
    tensor: str
    dtype: str
    axes: str
    features: tuple[int, ...]


@dataclass(frozen=True)
class HostCache:
    """Keys or values ``[batch, heads, time, features]``: the program's state ``tensor [context, heads · features]``.

    ``past`` and ``present`` are the model's names for it, empty where the model has none. ``order`` gives for each place of a head the
    model's feature there, empty for the model's own order.
    """

    tensor: str
    heads: int
    features: int
    past: str
    present: str
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Host:
    """All of it. ``mask`` is the padding mask's name, empty where the model has none; ``context`` the most tokens of a row.

    Where ``whole`` an item is a whole row, ``marks`` say which of its tokens are real, and ``parts`` how long sequences are that are no
    input's. ``prefill`` is the entry whose items are ``chunk`` tokens, empty where the program has none.
    """

    inputs: tuple[HostInput, ...]
    outputs: tuple[HostOutput, ...]
    caches: tuple[HostCache, ...]
    mask: str
    context: int
    entry: str
    whole: bool = False
    marks: tuple[HostMark, ...] = ()
    parts: tuple[HostPart, ...] = ()
    prefill: str = ""
    chunk: int = 1

    @property
    def filled(self) -> str:
        """What is to be known of the cycles of items that are whole rows; empty where items are tokens."""
        return "a row takes the cycles of the longest one of its batch" if self.whole else ""


def write_host(host: Host, folder: Path) -> None:
    """Write `HOST_FILE` into a folder; the same host always gives the same bytes."""
    text = json.dumps(asdict(host), sort_keys=True, indent=1, ensure_ascii=True) + "\n"
    (folder / HOST_FILE).write_text(text, encoding="ascii")


def read_host(folder: Path) -> Host:
    """What `write_host` wrote. Raises ProgramError for anything else."""
    path = folder / HOST_FILE
    if path.stat().st_size > MAX_HOST_BYTES:
        raise ProgramError("host-file", f"'{HOST_FILE}' is larger than {MAX_HOST_BYTES} bytes")
    try:
        content = json.loads(path.read_text(encoding="ascii"))
    except (ValueError, RecursionError) as error:
        raise ProgramError("host-file", f"'{HOST_FILE}' is not JSON ({error})") from None
    host = _record(Host, content)
    return Host(
        tuple(_record(HostInput, each) for each in _list(host["inputs"])),
        tuple(_record(HostOutput, each) for each in _list(host["outputs"])),
        tuple(_record(HostCache, each) for each in _list(host["caches"])),
        host["mask"],
        host["context"],
        host["entry"],
        host["whole"],
        tuple(_record(HostMark, each) for each in _list(host["marks"])),
        tuple(_record(HostPart, each) for each in _list(host["parts"])),
        host["prefill"],
        host["chunk"],
    )


_NUMBERS = "tuple[int, ...]"
_ONE_KIND = r"(batch|time(\.\d+)?|feature|one)"
_KIND = re.compile(rf"{_ONE_KIND}(\*{_ONE_KIND})*")
_KINDS: dict[str, type] = {"str": str, "int": int, "bool": bool}


def _record(kind: Any, content: object) -> Any:
    """The checked fields of a record: the record itself where all of them are plain."""
    known = {entry.name: str(entry.type) for entry in fields(kind)}
    if not isinstance(content, Mapping) or set(content) != set(known):
        raise ProgramError("host-file", f"'{HOST_FILE}' has a {kind.__name__} without exactly the fields {sorted(known)}")
    for name, declared in known.items():
        if declared in _KINDS and type(content[name]) is not _KINDS[declared]:
            raise ProgramError("host-file", f"'{HOST_FILE}': '{name}' must be {declared}, got {content[name]!r}")
    if kind is Host:
        return dict(content)
    made = kind(**{name: _whole_numbers(content[name]) if declared == _NUMBERS else content[name] for name, declared in known.items()})
    if isinstance(made, HostCache) and made.order and (len(made.order) != made.features or set(made.order) != set(range(made.features))):
        raise ProgramError("host-file", f"'{HOST_FILE}': an order must name each of {made.features} features once")
    if isinstance(made, (HostInput, HostOutput)) and not all(_KIND.fullmatch(axis) for axis in made.axes.split()):
        raise ProgramError("host-file", f"'{HOST_FILE}': '{made.axes}' are no axes")
    return made


def _whole_numbers(content: object) -> tuple[int, ...]:
    found = _list(content)
    if any(type(one) is not int or one < 0 for one in found):
        raise ProgramError("host-file", f"'{HOST_FILE}': expected numbers of at least 0, got {found!r}")
    return tuple(int(str(one)) for one in found)


def _list(content: object) -> list[object]:
    if not isinstance(content, list):
        raise ProgramError("host-file", f"'{HOST_FILE}': expected a list, got {type(content).__name__}")
    return content
