"""Errors and warnings are lines whatever names stand in them."""

from __future__ import annotations

from cgptc.ir.diagnostics import MalformedError, Warnings

WILD = "a\x1b[2J\nb\u202e\ud800"
TAME = r"a\x1b[2J\nb\u202e\ud800"


def test_nothing_in_an_error_moves_the_cursor_of_a_terminal() -> None:
    error = MalformedError("code", f"'{WILD}' is wrong", file=WILD, fix=f"drop {WILD}", details=(WILD, "größe 模型 → ✓"))
    assert error.line() == f"error[code]: {TAME}: '{TAME}' is wrong: drop {TAME}"
    assert str(error).splitlines() == [error.line(), TAME, "größe 模型 → ✓"]


def test_nor_in_a_warning() -> None:
    warnings = Warnings()
    warnings.add("code", WILD)
    assert warnings.lines == [f"warning[code]: {TAME}"]
