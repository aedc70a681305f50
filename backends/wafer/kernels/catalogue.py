"""Every kernel there is, read from the modules of this package: no list of them is kept by hand."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

import cgptc.backends.wafer.kernels as package
from cgptc.backends.wafer.kernels.fragment import Kernel


def kernels() -> dict[str, type]:
    """By name of module and class, such as ``norm.Norm``: what offers a fragment and its cycles, as `Kernel` says."""
    needed = [name for name, member in vars(Kernel).items() if inspect.isfunction(member) and not name.startswith("_")]
    found: dict[str, type] = {}
    for module in pkgutil.iter_modules(package.__path__):
        members = vars(import_module(f"{package.__name__}.{module.name}"))
        for name, member in members.items():
            is_own = isinstance(member, type) and member is not Kernel and member.__module__.endswith(f".{module.name}")
            if is_own and all(callable(getattr(member, method, None)) for method in needed):
                found[f"{module.name}.{name}"] = member
    return found
