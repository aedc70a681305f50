"""The versions of what cgptc stands on."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from cgptc.version import __version__

LIBRARIES = ("torch", "numpy", "ml_dtypes", "onnx", "onnx-ir", "onnxruntime", "safetensors", "tokenizers")
"""Libraries that a compile's bytes may depend on."""

OPTIONAL = {
    "transformers": "pip install 'cgptc[hf]' to open Hugging Face folders",
    "torch-mlir": "pip install 'cgptc[mlir]' for inspect --mlir",
    "ray": "pip install 'cgptc[ray]' for run --engine ray",
}


@dataclass(frozen=True)
class Finding:
    """One thing that `survey` looked at; ``ok`` is False where cgptc cannot do without it."""

    name: str
    version: str | None
    note: str = ""
    ok: bool = True


def library_versions() -> dict[str, str]:
    """Installed versions by name; what is absent is left out."""
    found = {name: _version(name) for name in ("cgptc", *LIBRARIES)}
    return {name: text for name, text in found.items() if text is not None}


def survey() -> list[Finding]:
    """Python, the system, and every library, required ones first."""
    findings = [
        Finding("python", platform.python_version(), ok=sys.version_info >= (3, 11)),
        Finding("system", f"{platform.system()} {platform.machine()}"),
        Finding("cgptc", _version("cgptc")),
    ]
    for name in LIBRARIES:
        found = _version(name)
        findings.append(Finding(name, found, "" if found else "required: reinstall cgptc", found is not None))
    for name, note in OPTIONAL.items():
        found = _version(name)
        findings.append(Finding(name, found, "" if found else f"optional: {note}"))
    return findings


def _version(name: str) -> str | None:
    if name == "cgptc":
        return __version__
    try:
        return version(name)
    except PackageNotFoundError:
        return None
