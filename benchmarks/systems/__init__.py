"""The systems that `peers.py` times, by name: this module imports none of them."""

from __future__ import annotations

from importlib import import_module

from systems.peer import Peer

PLACES = {
    "cgptc": "systems.ours:Cgptc",
    "torch-eager": "systems.on_torch:TorchEager",
    "torch-compile": "systems.on_torch:TorchCompile",
    "torch-onnx": "systems.on_onnxruntime:TorchOnnx",
    "optimum": "systems.on_onnxruntime:Optimum",
    "openvino": "systems.on_openvino:OpenVino",
    "ctranslate2": "systems.on_ctranslate2:CTranslate2",
    "llama.cpp": "systems.on_llama_cpp:LlamaCpp",
}

FORMS = {
    "cgptc": ("f32", "int8", "int4"),
    "torch-eager": ("f32",),
    "torch-compile": ("f32",),
    "torch-onnx": ("f32",),
    "optimum": ("f32", "int8"),
    "openvino": ("f32", "int8", "int4"),
    "ctranslate2": ("f32", "int8"),
    "llama.cpp": ("f32", "int8", "int4"),
}
"""The precisions of the weights that each system is timed in: all that it offers for this model on a CPU."""

NAMES = tuple(f"{system}-{form}" for system, forms in FORMS.items() for form in forms)
"""``SYSTEM-FORM``, as `peers.py` calls them."""


def split(name: str) -> tuple[str, str]:
    """System and form of a name."""
    system, _, form = name.rpartition("-")
    return system, form


def load(system: str) -> type[Peer]:
    """A system's class; ImportError where it is not installed here may come later, when it is used."""
    module, _, name = PLACES[system].partition(":")
    found: type[Peer] = getattr(import_module(module), name)
    return found
