"""Layers behind the ``@`` of an option."""

from __future__ import annotations

from cgptc.ir.diagnostics import UsageError


def split_globs(option: str, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The globs that choose layers and, after ``!``, those that exempt some: ``magnitude:0.75@h.*.mlp.*,!h.0``.

    `UsageError` that names ``option`` where nothing is behind the ``@``.
    """
    _, at, globs = text.partition("@")
    names = [glob for glob in globs.split(",") if glob]
    if at and not names:
        raise UsageError("bad-value", f"{option} '{text}' names no layers", fix="write globs after '@', such as @h.*.mlp.*")
    return tuple(glob for glob in names if not glob.startswith("!")), tuple(glob[1:] for glob in names if glob.startswith("!"))
