"""Wrong uses of the command line, in the project's own form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

import typer

from cgptc.ir.diagnostics import UsageError


def _click_usage_error() -> type[Exception]:
    # Typer carries click inside, or depends on it, by version; the class is reached through the one name that both export.
    (found,) = (base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
    assert issubclass(found, Exception)
    return found


CLICK_USAGE_ERROR = _click_usage_error()


def suggestion(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the known word most like ``word``, else ""."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, word: str, known: Iterable[str], *, file: str = "") -> UsageError:
    """The error for a word that is none of the known ones; it suggests one, or lists them."""
    names = list(known)
    fix = suggestion(word, names) or f"known: {', '.join(names)}"
    return UsageError(f"unknown-{kind}", f"unknown {kind} '{word}'", file=file, fix=fix)


def from_click(error: Exception) -> UsageError:
    """A parsing error of the option parser as ours: lower case, one line, with the next step."""
    context = getattr(error, "ctx", None)
    command = str(context.command_path) if context is not None else "cgptc"
    message = " ".join(str(error.format_message()).split()) if hasattr(error, "format_message") else str(error)
    help_step = f"'{command} --help' lists what it takes"
    name = type(error).__name__
    if name == "NoSuchOption":
        word = str(getattr(error, "option_name", ""))
        known = [spelled for parameter in context.command.params for spelled in parameter.opts] if context is not None else []
        fix = suggestion(word, [option for option in known if option.startswith("--")]) or help_step
        return UsageError("unknown-option", f"unknown option '{word}'", file=command, fix=fix)
    found = re.search(r"No such command '([^']*)'", message)
    if found:
        commands = sorted(context.command.commands) if context is not None else []
        fix = suggestion(found.group(1), commands) or help_step
        return UsageError("unknown-command", f"unknown command '{found.group(1)}'", file=command, fix=fix)
    if name == "NoArgsIsHelpError" or message.startswith("Missing command"):
        return UsageError("missing-command", "no command was given", file=command, fix=help_step)
    codes = {"MissingParameter": "missing-argument", "BadParameter": "bad-value", "BadOptionUsage": "bad-option"}
    message = message.rstrip(".")
    return UsageError(codes.get(name, "usage"), message[:1].lower() + message[1:], file=command, fix=help_step)
