"""How a model's inputs and outputs become a program's: what stands beside a program, so that it runs without the graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cgptc.backends.wafer.faults import ProgramError

HOST_FILE = "host.json"
MAX_HOST_BYTES = 1 << 24


@dataclass(frozen=True)
class HostInput:
    """The model's input ``name [batch, time]`` of ids, or ``[batch, time, features]``, is the program's ``tensor`` item by item."""

    name: str
    tensor: str
    ids: bool


@dataclass(frozen=True)
class HostOutput:
    """The model's output ``name [batch, time, features]`` in elements of ``dtype`` is the program's ``tensor`` item by item;
    ``[batch, features]`` where ``picked``.
    """

    name: str
    tensor: str
    dtype: str
    picked: bool = False


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

    Where ``padding`` is not empty an item is a whole row of ``context`` tokens, and that tensor says which of them are real.
    """

    inputs: tuple[HostInput, ...]
    outputs: tuple[HostOutput, ...]
    caches: tuple[HostCache, ...]
    mask: str
    context: int
    entry: str
    padding: str = ""


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
        host["padding"],
    )


_ORDER = "tuple[int, ...]"
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
    return kind(**{name: _places(content) if declared == _ORDER else content[name] for name, declared in known.items()})


def _places(cache: Mapping[str, Any]) -> tuple[int, ...]:
    """The order of a cache's features: empty, or each feature once."""
    order = _list(cache["order"])
    if order and (any(type(place) is not int for place in order) or sorted(map(int, map(str, order))) != list(range(cache["features"]))):
        raise ProgramError("host-file", f"'{HOST_FILE}': an order must name each of {cache['features']} features once")
    return tuple(int(str(place)) for place in order)


def _list(content: object) -> list[object]:
    if not isinstance(content, list):
        raise ProgramError("host-file", f"'{HOST_FILE}': expected a list, got {type(content).__name__}")
    return content
