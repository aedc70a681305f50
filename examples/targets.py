"""Writes ``docs/examples.md``: what each textbook example becomes on each target.

python examples/targets.py            from the repository's root
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from types import ModuleType

import cgptc

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "textbook"
PAGE = ROOT / "docs" / "examples.md"
HEAD = """# Textbook examples

Each is one small file under [`examples/textbook`](../examples/textbook): a module, compiled and held against PyTorch in float64. A cell
says that it was verified, or by which error the target refuses it. This page is written by
`python examples/targets.py`, and a test holds it current.

"""


def names() -> list[str]:
    """The examples, by file."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name: str) -> ModuleType:
    """An example's module."""
    spec = importlib.util.spec_from_file_location(f"textbook_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def title(name: str) -> str:
    """The first sentence of an example's docstring, up to a colon."""
    text = (load(name).__doc__ or "").strip().splitlines()[0]
    return text.partition(":")[0].rstrip(".")


def cell(name: str, target: str) -> str:
    """What compiling and verifying an example for a target gives."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            _, found = load(name).main(target)
    except cgptc.CgptcError as error:
        return f"refused: {error.code}"
    return outcome(found)


def outcome(found: cgptc.Verification) -> str:
    """A cell for what an example's ``main`` found."""
    return f"{len(found.failed)} checks differ" if found.failed else "verified"


def row(name: str, cells: list[str]) -> str:
    return f"| [{name}](../examples/textbook/{name}.py) | {title(name)} | {' | '.join(cells)} |"


def page() -> str:
    targets = cgptc.targets()
    lines = [f"| file | what it is | {' | '.join(targets)} |", "| --- | --- |" + " --- |" * len(targets)]
    lines += [row(name, [cell(name, target) for target in targets]) for name in names()]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
