"""What the pickle of a state dict may name, as descriptions: storages, tensors over them, element types.

The names are those that ``torch.save`` writes for tensors, parameters and plain data, all versions since 0.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cgptc.frontend.readers.element_types import BY_STORAGE_CLASS, BY_TORCH_NAME, Element
from cgptc.frontend.readers.limits import TENSOR_COUNT
from cgptc.frontend.readers.quoting import quoted
from cgptc.frontend.readers.restricted_pickle import Foreign, Global, PickleError


@dataclass(frozen=True, eq=False)
class StorageRef:
    """A storage by its key in the file; ``element_count`` elements of ``element``."""

    key: str
    element: Element
    element_count: int


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A strided tensor over a storage, as the pickle says; nothing about it is checked yet."""

    storage: StorageRef
    offset: object
    shape: tuple[object, ...]
    strides: tuple[object, ...]
    element: Element


@dataclass(frozen=True, eq=False)
class OddTensor:
    """A tensor of a kind that is not strided memory: ``kind`` says which."""

    kind: str


@dataclass(frozen=True)
class TorchName:
    """An element type or layout that a configuration names, such as ``bfloat16``."""

    name: str


class StorageTable:
    """The storages that persistent ids name, each key once."""

    def __init__(self, field_count: int) -> None:
        self.storages: dict[str, StorageRef] = {}
        self._field_count = field_count

    def find(self, identifier: object) -> object:
        """The storage of ``("storage", class, key, location, element count)``; a class of its own is `Foreign`."""
        if not isinstance(identifier, tuple) or not identifier:
            raise PickleError("a persistent id is no tuple")
        if identifier[0] == "module" and len(identifier) == 4 and isinstance(identifier[1], Foreign):
            return identifier[1]
        if len(identifier) != self._field_count or identifier[0] != "storage":
            raise PickleError("a persistent id is no storage")
        storage_class, key, location, count = identifier[1:5]
        if isinstance(storage_class, Foreign):
            return storage_class
        if any(extra is not None for extra in identifier[5:]):
            raise PickleError("it has views of storages, which torch wrote before version 0.4")
        element = _storage_element(storage_class)
        if not isinstance(key, str) or not isinstance(location, str) or type(count) is not int or count < 0:
            raise PickleError("a storage is described wrongly")
        found = self.storages.setdefault(key, StorageRef(key, element, count))
        if (found.element.size * found.element_count) != element.size * count:
            raise PickleError(f"storage {quoted(key)} has two sizes")
        return found if found.element == element else StorageRef(key, element, count)


def _storage_element(storage_class: object) -> Element:
    if isinstance(storage_class, StorageClass):
        return storage_class.element
    raise PickleError("a storage is of no storage class")


@dataclass(frozen=True)
class StorageClass:
    """One of torch's storage classes."""

    element: Element


class _TensorCounter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        self.count += 1
        if self.count > TENSOR_COUNT:
            raise PickleError(f"it has more than {TENSOR_COUNT} tensors")


def known_globals() -> dict[str, object]:
    """The table of accepted globals for one pickle."""
    counter = _TensorCounter()

    def tensor(
        storage: object,
        offset: object,
        shape: object,
        strides: object,
        element: Element | None,
        metadata: object,
    ) -> object:
        if isinstance(storage, Foreign):
            return storage
        if not isinstance(storage, StorageRef) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise PickleError("a tensor is described wrongly")
        counter.add()
        if metadata:
            return OddTensor("a conjugated or negated view")
        return TensorRef(storage, offset, shape, strides, element or storage.element)

    def rebuild_v1(storage: object, offset: object, shape: object, strides: object) -> object:
        return tensor(storage, offset, shape, strides, None, None)

    def rebuild_v2(
        storage: object,
        offset: object,
        shape: object,
        strides: object,
        requires_grad: object,
        hooks: object,
        metadata: object = None,
    ) -> object:
        return tensor(storage, offset, shape, strides, None, metadata)

    def rebuild_v3(
        storage: object,
        offset: object,
        shape: object,
        strides: object,
        requires_grad: object,
        hooks: object,
        dtype: object,
        metadata: object = None,
    ) -> object:
        if not isinstance(dtype, TorchName) or dtype.name not in BY_TORCH_NAME:
            raise PickleError("a tensor has no element type")
        return tensor(storage, offset, shape, strides, BY_TORCH_NAME[dtype.name], metadata)

    table: dict[str, object] = {
        "torch._utils._rebuild_tensor": rebuild_v1,
        "torch._utils._rebuild_tensor_v2": rebuild_v2,
        "torch._utils._rebuild_tensor_v3": rebuild_v3,
    }

    def rebuild_from_type(function: object, kind: object, arguments: object, state: object) -> object:
        """A tensor with attributes of its own, which are left out."""
        if isinstance(function, Foreign) or isinstance(kind, Foreign):
            return function if isinstance(function, Foreign) else kind
        own = isinstance(function, Global) and function.name.startswith("torch._utils.")  # never itself
        rebuild = table[function.name] if isinstance(function, Global) and own else None
        if not callable(rebuild) or not isinstance(arguments, tuple):
            raise PickleError("a tensor is described wrongly")
        return rebuild(*arguments)

    table["torch._tensor._rebuild_from_type_v2"] = rebuild_from_type
    table["torch._utils._rebuild_parameter"] = _parameter
    table["torch._utils._rebuild_parameter_with_state"] = _parameter
    table |= {f"torch._utils.{name}": _odd(kind) for name, kind in _ODD_TENSORS.items()}
    table |= _PLAIN
    return table


def _parameter(data: object, requires_grad: object, hooks: object, state: object = None) -> object:
    if not isinstance(data, TensorRef | OddTensor | Foreign):
        raise PickleError("a parameter is described wrongly")
    return data


def _odd(kind: str) -> Callable[..., object]:
    def rebuild(*arguments: object) -> object:
        return OddTensor(kind)

    return rebuild


_ODD_TENSORS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor on the meta device, without bytes",
    "_rebuild_device_tensor_from_numpy": "a tensor of another device, saved as a numpy array",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
}


def _ordered_dict(pairs: object = ()) -> object:
    items = list(pairs) if isinstance(pairs, list | tuple) else None
    if items is None or not all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
        raise PickleError("an ordered dictionary is described wrongly")
    if not all(isinstance(key, str | int | float) for key, _ in items):
        raise PickleError("a dictionary's key is neither text nor a number")
    return dict(items)


def _set(values: object = ()) -> object:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str | int | float | bytes) for value in values):
        raise PickleError("a set holds something other than text and numbers")
    return set(values)


def _encode(text: object, encoding: object = "utf-8") -> object:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise PickleError("bytes are described wrongly")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise PickleError("bytes are described wrongly") from None


def _size(sizes: object = ()) -> object:
    if not isinstance(sizes, tuple):
        raise PickleError("a size is described wrongly")
    return sizes


def _device(kind: object, index: object = None) -> object:
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise PickleError("a device is described wrongly")
    return kind if index is None else f"{kind}:{index}"


def _layout(name: object) -> object:
    if not isinstance(name, str):
        raise PickleError("a layout is described wrongly")
    return TorchName(name.removeprefix("torch."))


_PLAIN: dict[str, object] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
    "_codecs.encode": _encode,
    "torch.Tensor": TorchName("Tensor"),
    "torch.nn.parameter.Parameter": TorchName("Parameter"),
}
_PLAIN |= {f"{module}.set": _set for module in ("builtins", "__builtin__")}
_PLAIN |= {f"torch.{name}": TorchName(name) for name in BY_TORCH_NAME}
_PLAIN |= {
    f"torch.{name}": TorchName(name)
    for name in ("strided", "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric")
}
_PLAIN |= {
    f"{module}.{name}": StorageClass(element)
    for name, element in BY_STORAGE_CLASS.items()
    for module in ("torch", "torch.storage", "torch.cuda")
}
