"""Mutation testing of passes, verifiers and routing: how many small changes of the source do the tests notice?

    python benchmarks/mutation_score.py --count 150

A fixed seed draws mutants of the chosen files: comparisons moved by one or turned round, sums and products exchanged, conditions negated,
constants changed, statements left out. Each is put in place in a process of its own, a fork of one that has the heavy libraries loaded, by
the import system: no file changes. The tests of its part run until one fails. A mutant that no test notices survives; some survivors are
equivalent (no input tells them apart), which is for a reader to say.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Area:
    """Files to mutate, and the tests that are to notice; those named like the file run first."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


WAFER = "tests/backends/wafer"
AREAS = {
    "passes": Area(
        ("passes/*.py",), ("tests/passes/test_*.py", "tests/testing/test_preservation.py", "tests/backends/onnx/test_kept_logits.py")
    ),
    "verifiers": Area(
        ("ir/verify.py", "backends/wafer/verify/*.py"),
        (
            "tests/ir/test_verify.py",
            f"{WAFER}/test_verify.py",
            f"{WAFER}/test_drawn_programs.py",
            f"{WAFER}/test_streams.py",
            f"{WAFER}/test_inflow.py",
        ),
    ),
    "routing": Area(
        ("backends/wafer/routes.py", "backends/wafer/collectives.py", "backends/wafer/resolve.py"),
        (f"{WAFER}/test_streams.py", f"{WAFER}/test_collectives.py", f"{WAFER}/test_verify.py", f"{WAFER}/test_drawn_programs.py"),
    ),
}
LEFT_OUT = {"test_large_graphs.py"}
"""Minutes in all, and about time only."""

FIRST = {
    "normalize_masks": ("fuse_attention",),
    "table_entries": ("fuse_rotary",),
    "positions": ("fuse_rotary", "fuse_embedding"),
    "hidden_features": ("sparsity",),
    "feature_sources": ("sparsity",),
    "sparsify": ("sparsity",),
    "remove_dead": ("sparsity",),
    "weight_names": ("quantize", "sparsity"),
    "stage_chain": ("stage_partition",),
    "stage_assignment": ("stage_partition",),
    "fuse_norms": ("rewrites",),
    "fuse_linear": ("rewrites",),
    "fuse_activations": ("rewrites",),
    "pattern": ("rewrites",),
    "rewrite": ("rewrites",),
    "last_token_logits": ("kept_logits",),
}
"""Which tests most likely notice a change of a file whose name does not say."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """Change ``number`` of a file, which stands on ``line``."""

    area: str
    file: str
    number: int
    line: int
    what: str


class Mutator(ast.NodeTransformer):
    """Walks a module and counts what could be changed; makes change ``chosen`` where one is given."""

    def __init__(self, chosen: int | None = None) -> None:
        self.chosen = chosen
        self.found: list[tuple[int, str]] = []

    def _here(self, node: ast.AST, what: str) -> bool:
        self.found.append((getattr(node, "lineno", 0), what))
        return self.chosen == len(self.found) - 1

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        for place, op in enumerate(node.ops):
            other = SWAPS[type(op)]
            if self._here(node, f"{type(op).__name__} → {other.__name__}"):
                node.ops[place] = other()  # type: ignore[call-overload]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        other = SWAPS.get(type(node.op))
        if other is not None and self._here(node, f"{type(node.op).__name__} → {other.__name__}"):
            node.op = other()  # type: ignore[assignment]
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        other = SWAPS[type(node.op)]
        if self._here(node, f"{type(node.op).__name__} → {other.__name__}"):
            node.op = other()  # type: ignore[assignment]
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return node.operand if isinstance(node.op, ast.Not) and self._here(node, "not x → x") else node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if self._here(node, "if x → if not x"):
            node.test = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool):
            return ast.copy_location(ast.Constant(not node.value), node) if self._here(node, f"{node.value} → {not node.value}") else node
        if isinstance(node.value, int) and self._here(node, f"{node.value} → {node.value + 1}"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant):
            return node  # a docstring
        self.generic_visit(node)
        return ast.copy_location(ast.Pass(), node) if self._here(node, "statement left out") else node

    def visit_Continue(self, node: ast.Continue) -> ast.AST:
        return ast.copy_location(ast.Break(), node) if self._here(node, "continue → break") else node

    def _without_annotations(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    visit_AnnAssign = _without_annotations  # noqa: N815

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = [self.visit(statement) for statement in node.body]
        node.args.defaults = [self.visit(default) for default in node.args.defaults]
        return node


def mutants() -> Iterator[Mutant]:
    """Every mutant of every area, in order."""
    for name, area in AREAS.items():
        for pattern in area.files:
            for path in sorted(ROOT.glob(pattern)):
                mutator = Mutator()
                mutator.visit(ast.parse(path.read_text(encoding="utf-8")))
                for number, (line, what) in enumerate(mutator.found):
                    yield Mutant(name, str(path.relative_to(ROOT)), number, line, what)


def sample(everything: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """As many of each area, by a fixed seed."""
    draw = random.Random(seed)
    chosen = []
    for area in AREAS:
        of_area = [mutant for mutant in everything if mutant.area == area]
        chosen += sorted(draw.sample(of_area, min(len(of_area), count // len(AREAS))), key=lambda mutant: (mutant.file, mutant.number))
    return chosen


def put_in_place(mutant: Mutant) -> None:
    """From now on this process imports the file with the change."""
    path = (ROOT / mutant.file).resolve()
    compiled = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
        if Path(loader.path).resolve() != path:
            return compiled(loader, name)
        changed = Mutator(mutant.number).visit(ast.parse(path.read_text(encoding="utf-8")))
        return compile(ast.fix_missing_locations(changed), str(path), "exec", dont_inherit=True)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def targeted(mutant: Mutant) -> list[str]:
    """The area's test files, those that are about the file first."""
    stem = Path(mutant.file).stem
    likely = (stem, *FIRST.get(stem, ()))
    files = [path for pattern in AREAS[mutant.area].tests for path in sorted(ROOT.glob(pattern)) if path.name not in LEFT_OUT]
    return [str(path) for path in sorted(files, key=lambda path: path.stem.removeprefix("test_") not in likely)]


def run_tests(mutant: Mutant | None, tests: Sequence[str], seconds: int) -> str:
    """ "killed", "survived" or "timeout", in a process of its own."""
    process = os.fork()
    if process == 0:
        silent = os.open(os.devnull, os.O_RDWR)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os.setpgid(0, 0)
        code = 1
        try:
            import pytest

            if mutant is not None:
                put_in_place(mutant)
            options = ["-x", "-q", "--no-header", "--no-summary", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist"]
            code = pytest.main([*options, "--hypothesis-profile=ci", "--hypothesis-seed=0", f"--rootdir={ROOT}", *tests])
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        time.sleep(0.05)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "timeout"


def main() -> None:
    """Run a sample and print what survives and the score of each area."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=int, default=240, help="seconds for the tests of one mutant")
    parser.add_argument("--only", help="areas to run, such as passes,routing")
    parser.add_argument("--part", default="1/1", help="such as 2/10: the second tenth of the sample")
    parser.add_argument("--output", type=Path, help="write one JSON line for each mutant")
    given = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    sys.dont_write_bytecode = True
    import hypothesis  # noqa: F401  (these take seconds to load, once)
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import pytest  # noqa: F401
    import torch  # noqa: F401

    areas = given.only.split(",") if given.only else list(AREAS)
    results: dict[str, list[str]] = {area: [] for area in areas}
    part, parts = map(int, given.part.split("/"))
    chosen = [mutant for mutant in sample(list(mutants()), given.count, given.seed) if mutant.area in areas]
    for mutant in chosen[part - 1 :: parts]:
        began = time.monotonic()
        outcome = run_tests(mutant, targeted(mutant), given.timeout)
        results[mutant.area].append(outcome)
        if outcome != "killed":
            print(f"{outcome}: {mutant.file}:{mutant.line}: {mutant.what}", flush=True)
        if given.output is not None:
            with given.output.open("a") as file:
                file.write(json.dumps({**vars(mutant), "outcome": outcome, "seconds": round(time.monotonic() - began, 1)}) + "\n")
    for area, outcomes in results.items():
        noticed = sum(outcome != "survived" for outcome in outcomes)
        print(f"{area}: {noticed} of {len(outcomes)} noticed ({outcomes.count('timeout')} by a timeout)")


if __name__ == "__main__":
    main()
