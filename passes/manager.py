"""Passes and pipelines.

A pass is a frozen dataclass whose fields are its options; a pipeline is a tuple of passes, parsed from the same string that it prints:
``canonicalize,fuse-attention,prune{sparsity=0.75 block=1x16}``.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, get_args, get_origin, get_type_hints

from cgptc.ir.cost import CostModel
from cgptc.ir.diagnostics import UsageError, Warnings
from cgptc.ir.graph import Graph, Node
from cgptc.ir.loc import UNKNOWN, Location
from cgptc.ir.op import Op
from cgptc.ir.weights import Weight

PASSES: dict[str, type[Pass]] = {}
"""Every pass by its name."""

ROUNDED = "rewrites of rounded constants"
"""What a pass counts where a constant of the model is a pattern's only to the precision of its type, such as GELU's 0.79788456."""


@dataclass(frozen=True)
class Event:
    """Something that a pass did, or nearly did, that ``explain`` can show.

    ``kind`` is "done" or "missed"; ``subject`` what was looked for, such as "attention" or the name of a rewrite; ``reason`` the
    predicate that failed, with what it saw. ``node`` is what was made, or where the look began: once a miss's node is gone, something else
    took it in, and it counts no more.
    """

    kind: str
    pass_name: str
    subject: str
    location: Location
    reason: str = ""
    node: Node | None = field(default=None, compare=False, repr=False)


@dataclass
class PassContext:
    """What a pass may know beyond the graph, and where it leaves word.

    ``legal`` are the op classes that the target lowers, for `legalise`; ``rewrites_left`` bounds how many rewrites may still be applied
    (bisection); ``masks`` are those of a mask file, by the names of the tensors.
    """

    target: str = ""
    legal: Collection[type[Op]] | None = None
    cost_model: CostModel | None = None
    warnings: Warnings = field(default_factory=Warnings)
    rewrites_left: int | None = None
    masks: Mapping[str, Weight] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    current: str = ""
    last_rewrite: str = ""
    _events: dict[tuple[str, str, Hashable], Event] = field(default_factory=dict)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter of work done, such as nodes visited."""
        self.counters[name] = self.counters.get(name, 0) + amount

    def done(self, subject: str, location: Location, reason: str = "", *, node: Node | None = None, of: Collection[Node] = ()) -> None:
        """Something was fused to ``node`` from the nodes ``of``: what had been fused to one of those is a part of it now."""
        for part in of:
            self._events.pop(("done", subject, part), None)
        self._note(Event("done", self.current, subject, location, reason, node))

    def missed(self, subject: str, location: Location, reason: str, *, node: Node | None = None) -> None:
        """Something was nearly fused at ``node``, but for ``reason``; of several reasons at one node the last one counts."""
        self._note(Event("missed", self.current, subject, location, reason, node))

    def _note(self, event: Event) -> None:
        key = event.node if event.node is not None else len(self._events)
        self._events[event.kind, event.subject, key] = event

    @property
    def events(self) -> list[Event]:
        """What passes said, in order."""
        return list(self._events.values())

    def findings(self, kind: str) -> list[Event]:
        """The events of a kind that still stand: of misses, those whose node was not taken in by something else."""
        return [each for each in self.events if each.kind == kind and (kind == "done" or each.node is None or each.node.alive)]

    def take_rewrite(self, what: str = "", where: Location = UNKNOWN) -> bool:
        """Whether one more rewrite may be applied; counts it, and keeps its name for who bisects."""
        if self.rewrites_left is not None:
            if self.rewrites_left <= 0:
                return False
            self.rewrites_left -= 1
        self.count("rewrites")
        self.last_rewrite = f"'{what or self.current}' of '{self.current}'" + (f" at {where}" if where else "")
        return True


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes. ``optional`` passes may run in any order and subset without changing meaning; ``lossy`` ones trade some of the
    model's numbers for speed or size, and are measured rather than checked.
    """

    name: ClassVar[str]
    optional: ClassVar[bool] = True
    lossy: ClassVar[bool] = False

    def __init_subclass__(cls, name: str | None = None, optional: bool = True, lossy: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        if name in PASSES and PASSES[name].__qualname__ != cls.__qualname__:
            first = PASSES[name]
            raise TypeError(f"pass '{name}' is already defined by {first.__module__}.{first.__qualname__}")
        cls.name = name
        cls.optional = optional
        cls.lossy = lossy
        PASSES[name] = cls

    @abstractmethod
    def run(self, graph: Graph, context: PassContext) -> bool:
        """Change the graph in place and tell whether anything changed."""

    def __str__(self) -> str:
        options = " ".join(
            f"{option.name}={_print_option(getattr(self, option.name))}"
            for option in dataclasses.fields(self)
            if getattr(self, option.name) != option.default
        )
        return f"{self.name}{{{options}}}" if options else self.name


class Instrument(Protocol):
    """Looks at the graph around every pass of a pipeline."""

    def before(self, pass_: Pass, index: int, graph: Graph, context: PassContext) -> None: ...

    def after(self, pass_: Pass, index: int, graph: Graph, context: PassContext, changed: bool) -> None: ...


@dataclass(frozen=True)
class Pipeline:
    """Passes in order."""

    passes: tuple[Pass, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """The pipeline that prints as ``text``. Raises `UsageError` naming the place and the nearest known name."""
        return cls(tuple(_parse_pass(name, options) for name, options in _split(text)))

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    def without(self, names: Iterable[str]) -> Pipeline:
        """The pipeline less the passes of these names. Raises `UsageError` for a name that is no pass."""
        dropped = set(names)
        for name in dropped:
            pass_class(name)
        return Pipeline(tuple(pass_ for pass_ in self.passes if pass_.name not in dropped))

    def run(self, graph: Graph, context: PassContext | None = None, instruments: Sequence[Instrument] = ()) -> Graph:
        """Run every pass on ``graph`` in place and give it back."""
        context = context if context is not None else PassContext()
        for index, pass_ in enumerate(self.passes):
            context.current = pass_.name
            for instrument in instruments:
                instrument.before(pass_, index, graph, context)
            changed = pass_.run(graph, context)
            for instrument in instruments:
                instrument.after(pass_, index, graph, context, changed)
        return graph


def pass_class(name: str) -> type[Pass]:
    """The pass of that name. Raises `UsageError` with the nearest names."""
    import cgptc.passes.library  # noqa: F401  (registers every pass)

    if name not in PASSES:
        near = difflib.get_close_matches(name, PASSES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "'cgptc list passes' shows them all"
        raise UsageError("unknown-pass", f"there is no pass '{name}'", fix=hint)
    return PASSES[name]


_NAME = re.compile(r"\s*([a-z][a-z0-9-]*)\s*")
_OPTION = re.compile(r"""\s*([a-z_][a-z0-9_]*)=("(?:[^"\\]|\\.)*"|[^\s{}"]+)\s*""")


def _split(text: str) -> Iterable[tuple[str, Mapping[str, str]]]:
    place = 0
    while text[place:].strip():
        match = _NAME.match(text, place)
        if match is None:
            raise UsageError("bad-pipeline", f"expected a pass name at column {place + 1} of '{text}'")
        name, place = match.group(1), match.end()
        options: dict[str, str] = {}
        if place < len(text) and text[place] == "{":
            place += 1
            while place < len(text) and text[place] != "}":
                option = _OPTION.match(text, place)
                if option is None:
                    raise UsageError("bad-pipeline", f"expected 'option=value' at column {place + 1} of '{text}'")
                if option.group(1) in options:
                    raise UsageError("bad-pipeline", f"option '{option.group(1)}' of '{name}' is given twice")
                options[option.group(1)] = option.group(2)
                place = option.end()
            if place >= len(text):
                raise UsageError("bad-pipeline", f"'{{' after '{name}' is never closed", fix="end the options with '}'")
            place += 1
        yield name, options
        rest = text[place:].lstrip()
        if rest and not rest.startswith(","):
            raise UsageError("bad-pipeline", f"expected ',' at column {place + 1} of '{text}', got '{rest[0]}'")
        place = len(text) - len(rest) + 1 if rest else len(text)


def _parse_pass(name: str, options: Mapping[str, str]) -> Pass:
    cls = pass_class(name)
    hints = get_type_hints(cls)
    fields = {option.name: option for option in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for option, text in options.items():
        if option not in fields:
            near = difflib.get_close_matches(option, fields, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it takes: {', '.join(fields) or 'no options'}"
            raise UsageError("unknown-option", f"pass '{name}' has no option '{option}'", fix=hint)
        values[option] = _parse_option(name, option, hints[option], text)
    return cls(**values)


def _parse_option(name: str, option: str, kind: Any, text: str) -> Any:
    raw = text
    try:
        raw = json.loads(text) if text.startswith('"') else text
        if kind is bool:
            return {"true": True, "false": False}[raw]
        if kind in (int, float, str):
            return kind(raw)
        if get_origin(kind) is tuple:
            return tuple(get_args(kind)[0](item) for item in raw.split(";")) if raw else ()
        if type(None) in get_args(kind):
            (inner,) = (arg for arg in get_args(kind) if arg is not type(None))
            return None if raw == "none" else inner(raw)
    except (KeyError, ValueError):
        pass
    expected = kind.__name__ if isinstance(kind, type) else str(kind)
    raise UsageError("bad-option", f"option '{option}' of '{name}' takes {expected}, got '{raw}'")


def _print_option(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = ";".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if text and not re.search(r'[\s{}"]', text) else json.dumps(text)
