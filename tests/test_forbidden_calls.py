"""No source of cgptc calls what could execute code from a model file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src/cgptc", "frontend", "ir", "passes", "backends", "testing")

BUILTINS = {"eval", "exec", "compile", "__import__"}
KEYWORDS = {"trust_remote_code", "allow_pickle"}
METHODS = {"from_pretrained"}
FUNCTIONS = {"torch.load", "torch.export.load", "torch.jit.load", "torch.hub.load", "os.system", "yaml.load"}
ENDINGS = METHODS | {name.rpartition(".")[2] for name in FUNCTIONS}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy"}
UNSAFE = ["frontend/unsafe_pickle.py: torch.load"]
"""The one exception: what ``--unsafe-load-pickle`` asks for."""

WORDS = BUILTINS | KEYWORDS | ENDINGS | MODULES
"""A source without any of these words needs no parsing."""


def forbidden(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each use in a source text; imports under other names are followed."""
    if not any(word in source for word in WORDS):
        return
    nodes = list(ast.walk(ast.parse(source)))
    names: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = alias.name if alias.asname else alias.name.partition(".")[0]
                if alias.name.partition(".")[0] in MODULES:
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.partition(".")[0] in MODULES:
                yield node.lineno, node.module
            for alias in node.names:
                full_name = f"{node.module}.{alias.name}"
                names[alias.asname or alias.name] = full_name
                if full_name in FUNCTIONS:
                    yield node.lineno, full_name
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr in ENDINGS:
            first, _, rest = ast.unparse(node).partition(".")
            full_name = f"{names.get(first, first)}.{rest}"
            if node.attr in METHODS or full_name in FUNCTIONS:
                yield node.lineno, full_name
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
            yield node.lineno, node.func.id
        elif isinstance(node, ast.keyword) and node.arg in KEYWORDS and ast.unparse(node.value) != "False":
            yield node.value.lineno, node.arg


def test_no_source_executes_what_a_model_file_says() -> None:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [f"{path.relative_to(ROOT)}: {name}" for path in paths for _, name in forbidden(path.read_text(encoding="utf-8"))]
    assert len(paths) > 50
    assert found == UNSAFE


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec('x = 1')",
        "import pickle",
        "from pickle import loads",
        "import joblib as j",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x')",
        "from torch import load as read\nread('x')",
        "import torch.export\ntorch.export.load('x')",
        "from torch import export\nexport.load('x')",
        "reader = torch.load",
        "numpy.load('x', allow_pickle=True)",
        "GPT2LMHeadModel.from_pretrained('x')",
        "AutoModel.from_config(config, trust_remote_code=True)",
        "import os\nos.system('x')",
    ],
)
def test_the_check_sees_each_forbidden_use(source: str) -> None:
    assert list(forbidden(source))


def test_the_check_lets_harmless_namesakes_pass() -> None:
    assert not list(
        forbidden(
            "import json\nmodel.eval()\njson.load(file)\nimport pickletools\nre.compile('x')\nload(x)\nnumpy.load(x, allow_pickle=False)"
        )
    )
