"""Which sizes symbols have: solved from the shapes of a graph's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cgptc.ir.diagnostics import UsageError
from cgptc.ir.dims import Dim, Expr, Symbol, bounds, solve, substitute, symbols
from cgptc.ir.graph import Value
from cgptc.ir.lexer import did_you_mean


def bind_symbols(inputs: Iterable[Value], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The size of every symbol in the inputs' types, for inputs of these shapes.

    Raises `UsageError` for a missing or unknown input, a wrong rank, sizes that contradict each other or a symbol's bounds, and for
    shapes that leave a symbol undetermined; it names the input with the expected and the given shape.
    """
    expected = {value.name: value for value in inputs}
    _same_names(expected, shapes)
    for name, value in expected.items():
        if len(shapes[name]) != value.type.rank:
            raise _wrong_shape(value, shapes[name], f"it must have {value.type.rank} dimensions")
    pending = [(value, dim, size) for value in expected.values() for dim, size in zip(value.type.shape, shapes[value.name], strict=True)]
    known: dict[str, int] = {}
    while pending:
        waiting = []
        for value, dim, size in pending:
            solved = solve(dim, size, known)
            if solved is not None:
                _check_bounds(value, shapes[value.name], solved, symbols([dim]))
                known |= solved
            elif isinstance(substitute(dim, known), int) or _is_linear(substitute(dim, known)):
                raise _wrong_shape(value, shapes[value.name], f"'{dim}' cannot be {size}{_where(dim, known)}")
            else:
                waiting.append((value, dim, size))
        if len(waiting) == len(pending):
            value, dim, size = waiting[0]
            unknown = ", ".join(f"'{name}'" for name in symbols([dim]) if name not in known)
            raise _wrong_shape(value, shapes[value.name], f"'{dim}' = {size} does not determine {unknown}")
        pending = waiting
    return known


def determined_symbols(dims: Iterable[Dim]) -> set[str]:
    """Names of the symbols that sizes of these dimensions determine, one after the other, by `dims.solve`."""
    pending = [dim for dim in dims if isinstance(dim, Expr)]
    known: set[str] = set()
    while pending:
        waiting = []
        for dim in pending:
            unknown = [name for name in symbols([dim]) if name not in known]
            if len(unknown) == 1 and _degree(dim, unknown[0]) == 1:
                known.add(unknown[0])
            elif unknown:
                waiting.append(dim)
        if len(waiting) == len(pending):
            break
        pending = waiting
    return known


def _degree(dim: Expr, name: str) -> int:
    """The degree of a symbol in a polynomial; 2 where it stands inside an opaque term, which nothing solves."""
    degree = 0
    for monomial, _ in dim.terms:
        count = 0
        for atom in monomial:
            if isinstance(atom, Symbol):
                count += atom.name == name
            elif name in symbols([atom.left, atom.right]):
                return 2
        degree = max(degree, count)
    return degree


def _is_linear(dim: Dim) -> bool:
    """Whether `solve` would have found the one unknown of ``dim`` if it had an integer value."""
    return isinstance(dim, Expr) and len(symbols([dim])) == 1 and _degree(dim, next(iter(symbols([dim])))) == 1


def _same_names(expected: Mapping[str, Value], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name in shapes:
        if name not in expected:
            hint = did_you_mean(name, expected) or f"it has {', '.join(expected) or 'none'}"
            raise UsageError("unknown-input", f"the model has no input '{name}'", fix=hint)
    missing = [value for name, value in expected.items() if name not in shapes]
    if missing:
        raise UsageError("missing-input", f"input '{missing[0].name}' is missing", fix=f"give it as {missing[0].type}")


def _check_bounds(value: Value, shape: tuple[int, ...], solved: Mapping[str, int], found: Mapping[str, Symbol]) -> None:
    for name, size in solved.items():
        low, high = bounds(found[name].dim)
        if not low <= size <= high:
            raise _wrong_shape(value, shape, f"'{name}' would be {size}, outside of {low}..{high}")


def _where(dim: Dim, known: Mapping[str, int]) -> str:
    names = [name for name in symbols([dim]) if name in known]
    return f" where {', '.join(f'{name} = {known[name]}' for name in names)}" if names else ""


def _wrong_shape(value: Value, shape: tuple[int, ...], why: str) -> UsageError:
    return UsageError("input-shape", f"input '{value.name}' must be {value.type}, got the shape {list(shape)}: {why}")
