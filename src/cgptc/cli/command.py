"""Declaring a command: a function of a `Screen` and its own options; the standard options are added here."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Concatenate, ParamSpec, get_type_hints

import typer

from cgptc.cli.screen import Screen
from cgptc.driver.peak_memory import peak_bytes
from cgptc.version import __version__

P = ParamSpec("P")

app = typer.Typer(
    name="cgptc",
    help="Compiles a PyTorch GPT to ONNX, or to a program for a wafer-scale chip, and checks every step against PyTorch.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cgptc {__version__}")
        raise typer.Exit


@app.callback()
def _application(
    version: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """What stands before a command."""


_STANDARD = {
    "json": Annotated[bool, typer.Option("--json", help="Print the result as JSON.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Print more about what is done.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")],
}


def command(name: str) -> Callable[[Callable[Concatenate[Screen, P], None]], Callable[Concatenate[Screen, P], None]]:
    """Register a function as the command ``name``. Its first parameter is the `Screen`; its docstring is the help text."""

    def register(function: Callable[Concatenate[Screen, P], None]) -> Callable[Concatenate[Screen, P], None]:
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]
        parameters = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters += [inspect.Parameter(key, keyword, default=False, annotation=kind) for key, kind in _STANDARD.items()]

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            screen = Screen(**{key: bool(kwargs.pop(key)) for key in _STANDARD})
            start = time.perf_counter()
            function(screen, *args, **kwargs)
            screen.detail(f"  took {time.perf_counter() - start:.1f} s, peak RSS {peak_bytes() / 1e6:,.0f} MB")

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del run.__wrapped__
        app.command(name)(run)
        return function

    return register
