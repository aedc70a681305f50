"""Which mutants there are, and a sample of them.

cosmic-ray finds and makes the changes. Left out are those that cannot matter, in annotations and decorators, and those that any test
notices or none can, such as ``==`` for ``is``: of a comparison the three others of Kaminski, Ammann and Offutt ("Improving logic-based
testing", 2013) stay, of an arithmetic operation one or two.
"""

from __future__ import annotations

import ast
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
import parso
from benchmarks.mutants.areas import AREAS, ROOT
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.work_item import MutationSpec, WorkItem

CHOSEN = re.compile(
    r"core/ReplaceComparisonOperator_(Eq_(NotEq|LtE|GtE)|NotEq_(Eq|Lt|Gt)|Lt_(LtE|NotEq)|LtE_(Lt|Eq)|Gt_(GtE|NotEq)|GtE_(Gt|Eq)|Is_IsNot|IsNot_Is)"
    r"|core/ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_(Add|FloorDiv)|Div_Mul|FloorDiv_(Mul|Sub)|Mod_(Mul|FloorDiv)|Pow_Mul|BitOr_BitAnd|BitAnd_BitOr"
    r"|LShift_RShift|RShift_LShift)"
    r"|core/ReplaceUnaryOperator_(USub_UAdd|Delete_USub|Delete_Not)"
    r"|core/(AddNot|Replace(TrueWithFalse|FalseWithTrue|AndWithOr|OrWithAnd|BreakWithContinue|ContinueWithBreak)|ExceptionReplacer|NumberReplacer"
    r"|ZeroIterationForLoop)"
    r"|cgptc/\w+"
)


class LeaveOutCall(Operator):  # type: ignore[misc]
    """Leaves out a statement that is a call; cosmic-ray has no such operator."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        if node.type == "simple_stmt" and _is_call(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[0] = parso.parse(node.children[0].get_first_leaf().prefix + "pass")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("check(x)\n", "pass\n"),)


class TurnMembership(Operator):  # type: ignore[misc]
    """``in`` for ``not in``, and the other way round."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        for _, operator in self._memberships(node):
            yield operator.start_pos, operator.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        place, operator = list(self._memberships(node))[index]
        node.children[place] = parso.parse(" in" if "not" in operator.get_code() else " not in")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x in y", "x not in y"), Example("x not in y", "x in y"))

    @staticmethod
    def _memberships(node: Any) -> Iterator[tuple[int, Any]]:
        if node.type == "comparison":
            yield from ((place, child) for place, child in enumerate(node.children) if child.get_code().split() in (["in"], ["not", "in"]))


def _is_call(node: Any) -> bool:
    trailer = node.children[-1] if node.type in ("atom_expr", "power") else None
    return trailer is not None and trailer.type == "trailer" and trailer.children[0].value == "("


cosmic_ray.plugins.OPERATOR_PROVIDERS["cgptc"] = {"LeaveOutCall": LeaveOutCall, "TurnMembership": TurnMembership}


def mutants(path: Path) -> list[MutationSpec]:
    """Every mutant of a file that is worth a test run."""
    source = (ROOT / path).read_text(encoding="utf-8")
    nodes = list(ast_nodes(get_ast(source)))
    silent = _silent_places(ast.parse(source))
    found = []
    for name in filter(CHOSEN.fullmatch, cosmic_ray.plugins.operator_names()):
        operator = cosmic_ray.plugins.get_operator(name)()
        places = (place for node in nodes for place in operator.mutation_positions(node))
        found += [
            MutationSpec(path, name, occurrence, start, end)
            for occurrence, (start, end) in enumerate(places)
            if not any(low <= start < high for low, high in silent)
        ]
    return found


def _silent_places(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where a change changes nothing that is computed: annotations are never evaluated, decorators make a class a frozen one."""
    silent: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            silent.append(node.annotation)
        if isinstance(node, ast.FunctionDef) and node.returns is not None:
            silent.append(node.returns)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            silent += node.decorator_list
    return [((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)) for node in silent]


def sample(everything: Sequence[MutationSpec], count: int, seed: str) -> list[MutationSpec]:
    """Places drawn by a seed, and one of the changes at each: a place with many changes counts as one."""
    places: dict[tuple[Path, tuple[int, int]], list[MutationSpec]] = defaultdict(list)
    for mutant in everything:
        places[mutant.module_path, mutant.start_pos].append(mutant)
    draw = random.Random(seed)
    chosen = draw.sample(sorted(places), min(count, len(places)))
    return [draw.choice(places[place]) for place in sorted(chosen)]


def drawn(count: int, seed: int) -> list[WorkItem]:
    """As many work items of every area."""
    return [
        WorkItem.single(f"{area}-{number:04}", mutant)
        for area, found in AREAS.items()
        for number, mutant in enumerate(
            sample([mutant for path in found.sources() for mutant in mutants(path)], count // len(AREAS), f"{seed} {area}")
        )
    ]
