"""What is traced once: PyTorch takes a second or two for each module, however small. For tests that are about what comes behind.

What an exported program becomes is worked out each time anew. The tests of `frontend` trace whatever they capture.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from cgptc.frontend import capture
from cgptc.frontend.dynamic_sizes import Leaf
from cgptc.frontend.gpt import Gpt


@contextmanager
def remembered(key_of: Callable[[torch.nn.Module], Hashable | None]) -> Iterator[None]:
    """Meanwhile modules that have a key are traced once for each key and sizes of their inputs."""
    trace = capture._export
    traced: dict[Hashable, tuple[torch.nn.Module, torch.export.ExportedProgram]] = {}

    def export(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: Sequence[Leaf]) -> Any:
        own = key_of(module)
        if own is None:
            return trace(module, args, kwargs, leaves)
        key = own, tuple((leaf.name, str(getattr(leaf.value, "shape", leaf.value)), tuple(leaf.axes.items())) for leaf in leaves)
        if key not in traced:
            traced[key] = module, trace(module, args, kwargs, leaves)
        return traced[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "_export", export)
        yield


@pytest.fixture(scope="session", autouse=True)
def gpts_are_traced_once() -> Iterator[None]:
    """A GPT without weights is all in its configuration."""

    def configuration(module: torch.nn.Module) -> Hashable | None:
        parameter = next(module.parameters(), None)
        return (module.config, parameter.dtype) if isinstance(module, Gpt) and parameter is not None and parameter.is_meta else None

    with remembered(configuration):
        yield


@pytest.fixture(scope="module", autouse=True)
def modules_are_traced_once() -> Iterator[None]:
    """What is compiled is verified right after, the same module, which nobody changes."""
    with remembered(lambda module: (id(module), module.training)):
        yield
