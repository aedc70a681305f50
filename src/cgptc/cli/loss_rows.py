"""Rows about precision and sparsity: one line at a compile, a table in ``explain``."""

from __future__ import annotations

from collections.abc import Mapping

from cgptc.artifact.canonical import Json

PRECISION = ("quantize", "convert")
NOT_FINITE = "not_finite"
HEADER = ("pass", "matrix", "pattern", "zeros", "bytes", "of dense", "decode", "prefill", "output error")


def compile_rows(losses: Mapping[str, Json]) -> list[tuple[str, ...]]:
    """What a compile prints of its losses: nothing where there are none."""
    if not losses:
        return []
    rows = matrices(losses, None)
    errors = [error for row in rows if isinstance(error := row.get("output_error"), float)]
    found = [f"{len(rows)} matrices changed"]
    if errors:
        found.append(f"their outputs off by up to {_percent(max(errors))}")
    found += [text for text in map(_output, _outputs(losses).items()) if text]
    return [("losses", " · ".join(found))]


def explain_rows(losses: Mapping[str, Json], topic: str) -> list[tuple[str, ...]]:
    """A row for each matrix that the topic's passes changed, then the outputs."""
    rows: list[tuple[str, ...]] = []
    for row in matrices(losses, topic):
        cells = [str(row.get(name, "")) for name in ("pass", "where", "pattern")]
        cells += [
            _share(row.get("zeros")),
            str(row.get("bytes")),
            _share(_ratio(row)),
            *(_gain(row.get(name)) for name in ("decode", "prefill")),
        ]
        error = row.get("output_error")
        rows.append((*cells, _percent(error) if isinstance(error, float) else "-"))
    outputs: list[tuple[str, ...]] = [("output", text) for text in map(_output, _outputs(losses).items()) if text]
    return [HEADER, *rows, *outputs] if rows else outputs


def matrices(losses: Mapping[str, Json], topic: str | None) -> list[dict[str, Json]]:
    """The matrices of the report: of passes that change the precision, of those that make zeros, or all."""
    found = losses.get("matrices")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    if topic is None:
        return rows
    return [row for row in rows if (row.get("pass") in PRECISION) == (topic == "precision")]


def _outputs(losses: Mapping[str, Json]) -> dict[str, Json]:
    found = losses.get("outputs")
    return found if isinstance(found, dict) else {}


def _output(item: tuple[str, Json]) -> str:
    name, error = item
    if not isinstance(error, dict):
        return ""
    if NOT_FINITE in error:
        whose = "the model's own numbers are not" if error[NOT_FINITE] == "model" else "not"
        return f"{name}: {whose} finite, so there is no error to tell"
    relative = error.get("relative")
    share = f" ({_percent(relative)})" if isinstance(relative, float) else ""
    return f"{name} off by {error.get('rms')} rms{share}, {error.get('largest')} at most, from float64"


def _ratio(row: Mapping[str, Json]) -> float | None:
    count, dense = row.get("bytes"), row.get("dense_bytes")
    return count / dense if isinstance(count, int) and isinstance(dense, int) and dense else None


def _percent(value: float) -> str:
    """To two digits, however small."""
    return f"{100 * value:.2g}%"


def _share(value: Json) -> str:
    return f"{value:.1%}" if isinstance(value, float) else "-"


def _gain(value: Json) -> str:
    if not isinstance(value, float):
        return "-"
    return f"{value:.2f} x" if value > 1 else "no gain"
