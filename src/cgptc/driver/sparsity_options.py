"""``--sparsity`` as it is written, made passes."""

from __future__ import annotations

import re
from pathlib import Path

from cgptc.driver.layer_globs import split_globs
from cgptc.ir.diagnostics import UsageError
from cgptc.passes.manager import Pass
from cgptc.passes.sparsify import ApplyMasks, FindZeros, PruneHeads, PruneNeurons, Sparsify

EXAMPLES = "magnitude:0.75, 2:4, block:16x16:0.5, heads:4, neurons:0.5, from-zeros or mask:FILE, then @globs"
MASK = "mask:"


def parse_sparsity(text: str) -> Pass:
    """One pass of what ``text`` says: ``magnitude:0.75@h.*.mlp.*,!h.0`` with globs to choose and, after ``!``, to exempt.

    ``heads:4`` and ``neurons:0.5`` say how much goes; a number of heads below 1 is a fraction. `UsageError` for anything else.
    """
    if text.startswith(MASK):
        return ApplyMasks()
    what, _, _ = text.partition("@")
    only, keep = split_globs("--sparsity", text)
    form, _, rest = what.partition(":")
    if what == "from-zeros":
        return FindZeros(only, keep)
    if form == "magnitude":
        return Sparsify("element", _number(text, rest), only, keep)
    if form == "block":
        block, _, fraction = rest.partition(":")
        return Sparsify(block, _number(text, fraction), only, keep)
    if form == "neurons":
        return PruneNeurons(_number(text, rest), only, keep)
    if form == "heads":
        amount = _number(text, rest)
        if amount < 1:
            return PruneHeads(0, amount, only, keep)
        if amount != int(amount):
            raise UsageError("bad-value", f"--sparsity '{text}' has no whole number of heads", fix="heads:4, or heads:0.5 for half of them")
        return PruneHeads(int(amount), only=only, keep=keep)
    if re.fullmatch(r"\d+:\d+", what):
        return Sparsify(what, only=only, keep=keep)
    raise UsageError("bad-value", f"unknown --sparsity '{text}'", fix=f"write {EXAMPLES}")


def mask_file(texts: tuple[str, ...]) -> Path | None:
    """The mask file that is asked for. `UsageError` for two."""
    files = [text.removeprefix(MASK) for text in texts if text.startswith(MASK)]
    if len(files) > 1 or "" in files:
        raise UsageError("bad-value", "--sparsity takes one mask file", fix="write mask:FILE once")
    return Path(files[0]) if files else None


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise UsageError("bad-value", f"--sparsity '{text}' has no amount", fix=f"write {EXAMPLES}")
    return number
