"""Finds the state dict and its configuration in what a ``.pt`` file holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cgptc.frontend.readers.limits import JSON_DEPTH, PLAIN_VALUES
from cgptc.frontend.readers.plain_json import JsonObject, JsonValue
from cgptc.frontend.readers.quoting import listed, quoted
from cgptc.frontend.readers.restricted_pickle import Foreign, Unpickled
from cgptc.frontend.readers.torch_objects import OddTensor, TensorRef, TorchName
from cgptc.ir.diagnostics import CompileError, MalformedError, UnsafeError

_OWN_CLASS = "cgptc compile package.module:callable --weights model.pt"
_STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict", "module", "weights", "net", "params")
_CONFIG_KEYS = ("model_args", "model_config", "config", "hparams", "hyper_parameters")


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, the configuration beside them, and what was left out."""

    tensors: dict[str, TensorRef]
    config: JsonObject | None
    notes: tuple[str, ...]


def require_plain(pickle: Unpickled, label: str) -> None:
    """Refuse a pickle that names anything but tensors and plain data: `UnsafeError` with the names."""
    if not pickle.foreign:
        return
    root = pickle.value
    safe = "torch.save(model.state_dict(), 'model.pt')"
    if isinstance(root, Foreign):
        raise UnsafeError(
            "pickled-object",
            f"a pickled object of class {quoted(root.name)}: opening it could run code",
            file=label,
            fix=f"re-save it where you trust it with {safe}, then {_OWN_CLASS}",
            details=_names(pickle.foreign),
        )
    raise UnsafeError(
        "pickled-object",
        f"{_where(root)}{listed(list(pickle.foreign))}: opening it could run code",
        file=label,
        fix=f"re-save without it, where you trust it: {safe}; a model of your own class: {_OWN_CLASS}",
        details=_names(pickle.foreign),
    )


def _where(root: object) -> str:
    for key, value in root.items() if isinstance(root, dict) else ():
        if isinstance(value, Foreign):
            return f"entry {quoted(str(key))} is a pickled object; the file names "
    return "it holds pickled objects: "


def _names(foreign: Iterable[str], limit: int = 20) -> tuple[str, ...]:
    names = list(foreign)
    rest = [f"  … and {len(names) - limit} more"] if len(names) > limit else []
    return tuple(f"  names {quoted(name)}" for name in names[:limit]) + tuple(rest)


def find_state_dict(root: object, label: str) -> StateDict:
    """The state dict that ``root`` is, or holds under one of its keys.

    `CompileError` where there is none or more than one.
    """
    if not isinstance(root, dict):
        raise _no_state_dict("a single tensor" if isinstance(root, TensorRef) else _kind(root), label)
    inner = {key: value for key, value in root.items() if isinstance(value, dict) and _has_tensor(value)}
    key = next((key for key in _STATE_DICT_KEYS if key in inner), None)
    if key is not None:
        chosen = inner[key]  # whatever lies beside it: nanoGPT keeps a loss there, as a tensor
    elif _has_tensor(root) and not inner:
        chosen = root
    elif len(inner) == 1 and not _has_tensor(root):
        (chosen,) = inner.values()
    else:
        names = listed(list(map(str, inner)))
        what = f"tensors, or several dictionaries of them ({names})" if inner else "no tensors by name"
        raise _no_state_dict(what, label)
    tensors: dict[str, TensorRef] = {}
    dropped = []
    for name, value in chosen.items():
        if isinstance(value, OddTensor):
            raise CompileError(
                "unsupported-tensor",
                f"tensor {quoted(str(name))} is {value.kind}",
                file=label,
                fix="make it dense (tensor.to_dense(), .dequantize(), .resolve_conj()) and save again",
            )
        if not isinstance(value, TensorRef):
            dropped.append(str(name))
        elif not isinstance(name, str):
            raise MalformedError("malformed-state-dict", "a tensor's name is not text", file=label)
        else:
            tensors[name] = value
    config = next((_plain_config(root[key], label) for key in _CONFIG_KEYS if isinstance(root.get(key), dict)), None)
    dropped = [name for name in dropped if name not in _CONFIG_KEYS] if chosen is root else dropped
    notes = (f"{label}: entries of the state dict that are no tensors are left out: {listed(dropped)}",) if dropped else ()
    return StateDict(tensors, config, notes)


def _no_state_dict(what: str, label: str) -> CompileError:
    return CompileError(
        "no-state-dict",
        f"it holds {what}, not one state dict",
        file=label,
        fix="save with torch.save(model.state_dict(), 'model.pt'), or torch.save({'model': model.state_dict(), 'config': {…}}, 'model.pt')",
    )


def _kind(root: object) -> str:
    match root:
        case OddTensor():
            return root.kind
        case list() | tuple() | set():
            return f"a {type(root).__name__}"
    return "a plain value"


def _has_tensor(entries: dict[object, object]) -> bool:
    return any(isinstance(value, TensorRef | OddTensor) for value in entries.values())


def _plain_config(value: object, label: str) -> JsonObject:
    """The configuration as JSON has it: tuples as lists, element types by name; what is no plain data is left out."""
    budget = [PLAIN_VALUES]
    result = _plain(value, JSON_DEPTH, budget, label)
    assert isinstance(result, dict)
    return result


def _plain(value: object, depth: int, budget: list[int], label: str) -> JsonValue:
    # A pickle can share one list a thousand times at each of many levels: what it expands to is counted.
    budget[0] -= 1
    if budget[0] < 0 or depth == 0:
        raise MalformedError(
            "malformed-config",
            "the configuration is too large, or nests too deep",
            file=label,
            fix="save a smaller one",
        )
    match value:
        case dict():
            return {
                str(key): _plain(part, depth - 1, budget, label)
                for key, part in value.items()
                if isinstance(key, str | int | float) and not _is_opaque(part)
            }
        case list() | tuple():
            return [_plain(part, depth - 1, budget, label) for part in value if not _is_opaque(part)]
        case set() | frozenset():
            return [_plain(part, depth - 1, budget, label) for part in sorted(value, key=repr) if not _is_opaque(part)]
        case TorchName():
            return value.name
        case None | bool() | int() | float() | str():
            return value
    raise AssertionError(type(value))


def _is_opaque(value: object) -> bool:
    """Whether JSON has nothing for it: tensors, bytes, functions."""
    return not isinstance(value, dict | list | tuple | set | frozenset | TorchName | int | float | str | None)
