"""cgptc compiles GPT-family PyTorch models to ONNX or to a wafer-scale spatial program.

Everything that needs a large library is loaded when it is first used: ``import cgptc`` is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgptc.version import __version__

if TYPE_CHECKING:
    from cgptc.driver.api import capture, compile, load, targets, verify  # noqa: A004
    from cgptc.driver.verification.checks import Verification
    from cgptc.ir.diagnostics import CgptcError
    from cgptc.ir.graph import Graph
    from cgptc.passes.manager import Pipeline
    from cgptc.runtime.compiled import Artifact
    from cgptc.runtime.sampler import Sampling

_HOMES = {
    "Artifact": "cgptc.runtime.compiled",
    "CgptcError": "cgptc.ir.diagnostics",
    "Graph": "cgptc.ir.graph",
    "Pipeline": "cgptc.passes.manager",
    "Sampling": "cgptc.runtime.sampler",
    "Verification": "cgptc.driver.verification.checks",
    "capture": "cgptc.driver.api",
    "compile": "cgptc.driver.api",
    "load": "cgptc.driver.api",
    "targets": "cgptc.driver.api",
    "verify": "cgptc.driver.api",
}

__all__ = [
    "Artifact",
    "CgptcError",
    "Graph",
    "Pipeline",
    "Sampling",
    "Verification",
    "__version__",
    "capture",
    "compile",
    "load",
    "targets",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cgptc' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
