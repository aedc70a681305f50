"""Precision and sparsity as a user asks for them, made passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches

from cgptc.artifact.canonical import Json
from cgptc.backends.registry import backend
from cgptc.driver.layer_globs import split_globs
from cgptc.driver.sparsity_options import mask_file, parse_sparsity
from cgptc.ir.diagnostics import CompileError, Exit, UsageError
from cgptc.passes.convert import Convert
from cgptc.passes.dead_code import DeadCode
from cgptc.passes.manager import Pass
from cgptc.passes.pick_living import PickLiving
from cgptc.passes.quantize import SAFE_BITS, Quantize
from cgptc.passes.remove_dead import RemoveDead

DTYPES = ("f32", "f16", "bf16")
FORMS = ("int8", "int4")
INT4_BLOCK = 32


@dataclass(frozen=True)
class Shrinking:
    """``sparsity`` as `parse_sparsity` takes it, each in turn; ``dtype`` to compute in; ``quantize`` as `parse_quantize` takes it, a layer
    as the last that names it says, with globs of layers to ``keep`` out of all.
    """

    dtype: str | None = None
    quantize: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    sparsity: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError("bad-value", f"unknown --dtype '{self.dtype}'", fix=f"choose one of {', '.join(DTYPES)}")
        if self.keep and not self.quantize:
            raise UsageError("usage", "--keep names layers that --quantize leaves alone", fix="give --quantize too, or drop --keep")
        self.passes()
        mask_file(self.sparsity)

    def passes(self) -> tuple[Pass, ...]:
        """In the order in which they run. `UsageError` for what is asked in a wrong way."""
        found: list[Pass] = [parse_sparsity(text) for text in self.sparsity]
        if found:
            found += [RemoveDead(), PickLiving(), DeadCode()]
        if self.dtype is not None:
            found.append(Convert(self.dtype))
        found += [parse_quantize(text, self.keep) for text in reversed(self.quantize)]  # the first pass that names a layer takes it
        for text in self.quantize[1:]:
            if not text.partition("@")[2]:
                what = f"--quantize '{text}' names all layers and leaves none to those before it"
                raise UsageError("usage", what, fix="write it first, or name layers behind '@'")
        return tuple(found)

    def require_kernels(self, target: str, provider: str | None) -> None:
        """`CompileError` where the target has no kernels for what is asked."""
        if self.dtype == "bf16" and target == "onnx" and provider == "cpu":
            raise CompileError(
                "no-kernels",
                "onnxruntime's cpu provider multiplies no bf16 matrices",
                exit=Exit.UNSUPPORTED,
                fix="choose --dtype f32 or f16, --quantize int8, or another --ep",
            )


def element_type(target: str, dtype: str | None) -> tuple[str | None, str | None]:
    """``--dtype`` for the passes, and for the target: one that has a ``dtype`` among its options converts for itself."""
    takes_it = dtype is not None and any(option.name == "dtype" for option in fields(backend(target).options))
    return (None, dtype) if takes_it else (dtype, None)


def parse_quantize(text: str, keep: Sequence[str] = ()) -> Quantize:
    """``int8`` is dynamic: 7-bit weights that every x86 processor multiplies exactly, a scale for each output; ``int8:range=full`` takes
    all 8 bits, for processors with VNNI; ``int8:block=B`` and ``int4`` (``:block=32``) have a scale for each block of weights and of
    activations, ``activations=exact`` leaves the latter alone. In ``int4`` the layer that gives the logits has 8 bits, unless ``head=4``
    says otherwise. ``int8@lm_head,h.*.mlp,!h.0`` chooses layers by globs and, after ``!``,
    exempts some.
    """
    what, _, _ = text.partition("@")
    only, exempt = split_globs("--quantize", text)
    form, _, rest = what.partition(":")
    if form not in FORMS:
        close = get_close_matches(form, FORMS, n=1)
        raise UsageError("bad-value", f"unknown --quantize '{form}'", fix=f"did you mean '{close[0]}'?" if close else "choose int8 or int4")
    given = _settings(text, rest)
    block = _block(text, given.pop("block")) if "block" in given else (INT4_BLOCK if form == "int4" else 0)
    activations = given.pop("activations", "blocks" if block else "tensor")
    bits = 4 if form == "int4" else 8 if block or activations != "tensor" else SAFE_BITS
    head = 0
    if form == "int4" and activations == "blocks" and not only:
        head = {"8": 8, "4": 0}.get(given.pop("head", "8"), -1)
        if head < 0:
            raise UsageError("bad-value", f"--quantize '{text}' has a head of other bits", fix="choose head=8 or head=4")
    if form == "int8" and not block and activations == "tensor" and "range" in given:
        bits = {"full": 8, "safe": SAFE_BITS}.get(given.pop("range"), 0)
        if not bits:
            raise UsageError("bad-value", f"--quantize '{text}' has a range that is not known", fix="choose range=safe or range=full")
    if given:
        known = "block, activations, range (of int8 without blocks), head (of int4 for all layers, with integer activations)"
        raise UsageError("bad-value", f"--quantize '{text}' has no setting '{next(iter(given))}' here", fix=f"it takes {known}")
    return Quantize(bits, block, activations, head, only, (*exempt, *keep))


def _settings(text: str, rest: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not value or name in found:
            raise UsageError("bad-value", f"--quantize '{text}' has '{part}'", fix="write int4:block=32, each setting once")
        found[name] = value
    return found


def _block(text: str, value: str) -> int:
    if not value.isdecimal() or len(value) > 6 or int(value) < 1:
        raise UsageError("bad-value", f"--quantize '{text}' has a block that is no size", fix="write a whole number, such as block=32")
    return int(value)


def manifest_entry(shrinking: Shrinking) -> dict[str, Json]:
    """As the manifest holds it."""
    chosen: dict[str, Json] = {name: list(getattr(shrinking, name)) for name in ("quantize", "keep", "sparsity")}
    return {"dtype": shrinking.dtype, **chosen}
