"""What a user asks of a compile."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from cgptc.artifact.canonical import Json
from cgptc.driver.shrinking import Shrinking, manifest_entry
from cgptc.frontend.source import Request
from cgptc.ir.diagnostics import UsageError
from cgptc.passes.manager import Instrument

CACHES = ("none", "dynamic")
VERIFY_EACH = ("ir", "numeric", "off")
LEVELS = (0, 1, 2)
SYMBOLS = ("batch", "seq")

Bounds = tuple[int, int]


@dataclass(frozen=True)
class CompileOptions:
    """``source`` is what the user says of the model; ``cache`` None means dynamic for causal language models and none for others;
    ``shrinking`` is the precision and sparsity asked for; ``passes`` is a pipeline instead of the target's own for ``level``: 0 does what
    the target needs, 2 all that pays. ``required_fusions`` are subjects that must be whole everywhere; ``bisect_limit`` stops rewriting
    after so many rewrites; ``stages`` is "auto" or their number, None for a model in one piece, and ``stage_memory`` the bytes that
    each may take; ``instruments`` watch the passes, and leave no trace in what is compiled; ``target_options`` are the target's.
    """

    target: str = "onnx"
    source: Request = field(default_factory=Request)
    cache: str | None = None
    shrinking: Shrinking = field(default_factory=Shrinking)
    passes: str | None = None
    disabled_passes: tuple[str, ...] = ()
    level: int = 2
    required_fusions: tuple[str, ...] = ()
    bisect_limit: int | None = None
    verify_each: str = "ir"
    stages: str | None = None
    stage_memory: int | None = None
    instruments: tuple[Instrument, ...] = ()
    target_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cache is not None:
            require_choice("--cache", self.cache, CACHES)
        require_choice("--verify-each", self.verify_each, VERIFY_EACH)
        if self.stages is not None and self.stages != "auto" and not re.fullmatch("[1-9][0-9]{0,3}", self.stages):
            raise UsageError("bad-value", f"--stages {self.stages} is no number of stages", fix="give auto, or 1 or more")
        if self.stage_memory is not None and self.stages is None:
            raise UsageError("usage", "--stage-memory limits stages, and there are none", fix="add --stages, such as --stages auto")
        if self.level not in LEVELS:
            raise UsageError("bad-value", f"-O {self.level} is no level", fix="give 0, 1 or 2")
        if self.bisect_limit is not None and self.bisect_limit < 0:
            raise UsageError("bad-value", f"--bisect-limit {self.bisect_limit} is no number of rewrites", fix="give 0 or more")
        source = self.source
        if source.preset is not None and source.config is not None:
            raise UsageError("usage", "--preset and --config exclude each other", fix="give one of them")
        for name in (*source.dynamic, *source.fixed):
            require_choice("size", name, SYMBOLS)
        for name in sorted(set(source.dynamic) & set(source.fixed)):
            raise UsageError("bad-value", f"'{name}' is given both as fixed and as dynamic", fix=f"drop --{name} or its part of --dynamic")
        for name, size in source.fixed.items():
            if size < 1:
                raise UsageError("bad-value", f"--{name} {size} is not a size", fix="give 1 or more")

    def to_json(self, resolved_target_options: object) -> dict[str, Json]:
        """As the manifest holds them: what was asked, and under the target's name its options with their defaults filled in."""
        resolved: Any = resolved_target_options
        return {
            "preset": self.source.preset,
            "cache": self.cache,
            "dynamic": {name: list(bounds) for name, bounds in self.source.dynamic.items()},
            "fixed": dict(self.source.fixed),
            **manifest_entry(self.shrinking),
            "passes": self.passes,
            "disabled_passes": list(self.disabled_passes),
            "stages": self.stages,
            **({"stage_memory": self.stage_memory} if self.stage_memory is not None else {}),
            **({"unsafe_load_pickle": True} if self.source.unsafe_load_pickle else {}),
            "level": self.level,
            "required_fusions": list(self.required_fusions),
            "bisect_limit": self.bisect_limit,
            self.target: asdict(resolved),
        }


def require_choice(what: str, word: str, known: tuple[str, ...]) -> None:
    """`UsageError` with the nearest known word unless ``word`` is one."""
    if word not in known:
        close = get_close_matches(word, known, n=1)
        fix = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(known)}"
        raise UsageError("bad-value", f"unknown {what} '{word}'", fix=fix)


def parse_bytes(text: str) -> int:
    """A number of bytes, with kB, MB or GB behind it for a thousand, a million or a thousand millions. `UsageError` for anything else."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?(k|M|G|)B?", text)
    size = round(float(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[2]]) if match is not None else 0
    if size < 1:
        raise UsageError("bad-value", f"'{text}' is no number of bytes", fix="write bytes, or a size such as 64MB")
    return size


def make_target_options(target: str, kind: type[Any], given: Mapping[str, Any]) -> Any:
    """The target's options from what was given. `UsageError` for one that it does not have."""
    known = [option.name for option in fields(kind)]
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            fix = f"did you mean '{close[0]}'?" if close else f"it takes: {', '.join(known) or 'none'}"
            raise UsageError("unknown-option", f"the target '{target}' has no option '{name}'", fix=fix)
    return kind(**given)


def parse_dynamic(text: str) -> dict[str, Bounds]:
    """``batch=1..8,seq=1..2048`` as bounds by name. `UsageError` names the part that is wrong."""
    found: dict[str, Bounds] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"([A-Za-z_]+)=(\d{1,9})\.\.(\d{1,9})", part)
        if match is None:
            raise UsageError("bad-value", f"--dynamic has '{part}'", fix="write a name and bounds, such as seq=1..2048")
        name, low, high = match[1], int(match[2]), int(match[3])
        require_choice("size", name, SYMBOLS)
        if not 1 <= low <= high:
            raise UsageError("bad-value", f"--dynamic has '{part}', whose bounds are not 1 or more in ascending order", fix="seq=1..2048")
        if name in found:
            raise UsageError("bad-value", f"--dynamic gives '{name}' twice", fix="give it once")
        found[name] = (low, high)
    if not found:
        raise UsageError("bad-value", "--dynamic is empty", fix="write names and bounds, such as batch=1..8,seq=1..2048")
    return found
