"""Running a wafer artifact: program, weights and host description alone, never the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.axis_kinds import parts
from cgptc.backends.wafer.boundary import running
from cgptc.backends.wafer.clock import Pricer, timeline
from cgptc.backends.wafer.host import Host, HostCache, read_host
from cgptc.backends.wafer.host_check import check_given, check_host
from cgptc.backends.wafer.hosting import arranged, by_rows, length_of, lengths_of
from cgptc.backends.wafer.interpret.account import Account, Run
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.interpret.pe import PeEngine
from cgptc.backends.wafer.program import Program
from cgptc.backends.wafer.serial import read_program
from cgptc.backends.wafer.verify import check
from cgptc.backends.wafer.weights_file import WeightsFile
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.dtypes import DTYPES, DType, f64

Array = NDArray[Any]
Fidelity = Literal["fast", "pe"]

ENGINES: dict[str, Callable[[Program], FastEngine | PeEngine]] = {"fast": FastEngine, "pe": PeEngine}
"""Engines by name: the same meaning, region by region or PE by PE."""


@dataclass
class Usage:
    """What a session's runs took: items (tokens) and the cycles until the last one was done, and the account of the last run.

    ``prompt_items`` and ``prompt_cycles`` are those of prompts among them, of which ``chunks`` were read at once.
    """

    items: int = 0
    cycles: int = 0
    account: Account | None = None
    prompt_items: int = 0
    prompt_cycles: int = 0
    chunks: int = 0


class WaferSession:
    """A loaded program. Weights stay on the PEs between runs; so do the caches, but each run says how much of them it goes on from."""

    def __init__(self, program: Program, host: Host, weights: Mapping[str, Array], fidelity: Fidelity = "fast") -> None:
        self.program = check(program)
        self.host = check_host(host, program)
        self.engine = ENGINES[fidelity](program)
        self.engine.load(weights)
        self.usage = Usage()
        self._pricer = Pricer(program.machine)

    @classmethod
    def open(cls, folder: Path, fidelity: Fidelity = "fast") -> WaferSession:
        """Load what a folder holds. Raises WaferError."""
        return cls(read_program(folder), read_host(folder), WeightsFile(folder), fidelity)

    @property
    def input_names(self) -> tuple[str, ...]:
        host = self.host
        marks = [mark.mask for mark in host.marks if mark.mask]
        names = [*(one.name for one in host.inputs), *([host.mask] if host.mask else []), *marks]
        return (*dict.fromkeys(names), *(cache.past for cache in host.caches if cache.past))

    @property
    def output_names(self) -> tuple[str, ...]:
        return (*(one.name for one in self.host.outputs), *(cache.present for cache in self.host.caches if cache.present))

    @property
    def dtype(self) -> DType:
        """The narrowest floating-point type of what the program's weights, caches, inputs and outputs are bound to."""
        program = self.program
        found = {DTYPES[program.region(one.region).buffer(one.buffer).dtype] for one in program.bindings}
        return min((dtype for dtype in found if dtype.is_float), key=lambda dtype: dtype.bits, default=f64)

    @property
    def context(self) -> int:
        """The most tokens of a row that the program takes."""
        host = self.host
        return max(one.rows + one.start for one in host.inputs) if host.whole else host.context

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Rows of a batch run one after another, each without its padding; outputs at padding are 0."""
        host = self.host
        with running():
            check_given(host, inputs)
        if host.whole:
            return self._run_whole(inputs)
        given = {one.name: by_rows(inputs[one.name], one.axes) for one in host.inputs}
        rows, time = next(iter(given.values())).shape[:2]
        past = next((inputs[cache.past].shape[2] for cache in host.caches if cache.past in inputs), 0)
        mask = self._mask(inputs, rows, past + time)
        outputs: dict[str, Array] = {}
        for row in range(rows):
            kept = np.flatnonzero(mask[row, :past])
            if past:
                for cache in host.caches:
                    self.set_cache(cache, inputs[cache.past][row][:, kept])
            new = np.flatnonzero(mask[row, past:])
            found = self.read({name: array[row][new] for name, array in given.items()}, len(kept)) if len(new) else {}
            for name, values in found.items():
                whole = outputs.setdefault(name, np.zeros((rows, time, *values.shape[1:]), values.dtype))
                whole[row, new] = values
            places = np.flatnonzero(mask[row])
            for cache in host.caches:
                if cache.present:
                    held = self.cache(cache, len(places))
                    whole = outputs.setdefault(cache.present, np.zeros((rows, cache.heads, past + time, cache.features), held.dtype))
                    whole[row][:, places] = held
        outputs |= {one.name: arranged(outputs[one.name], one.axes, one.features) for one in host.outputs}
        return {name: outputs[name] for name in self.output_names}

    def _run_whole(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every row of a batch as one item, filled up with padding."""
        host = self.host
        lengths = lengths_of(host, inputs)
        items: dict[str, Array] = {}
        rows = 0
        for one in host.inputs:
            _, time = length_of(inputs[one.name], one.axes)
            if time > one.rows:
                what = f"{time} tokens in a row, and the program holds {one.rows}"
                raise UsageError("context", what, fix="give fewer, or compile with a larger --context")
            given = by_rows(inputs[one.name], one.axes)
            given = given.astype(np.int32) if one.ids else given
            rows = len(given)
            items[one.tensor] = np.full((rows, one.rows, *given.shape[2:]), one.filler, given.dtype)
            items[one.tensor][:, : max(0, time - one.start)] = given[:, one.start :]
        for mark in host.marks:
            real = np.zeros((rows, mark.rows), np.float32)
            real[:, : lengths[mark.sequence]] = 1 if not mark.mask else inputs[mark.mask].astype(np.bool_) != mark.inverted
            items[mark.tensor] = real
        with running():
            run: Run = self.engine.run(host.entry, self._everywhere(items), {"length": rows, **self._tokens(lengths)})
        self._count(rows * max(lengths.values()), run)
        outputs: dict[str, Array] = {}
        for output in host.outputs:
            values = run.outputs[output.tensor].astype(_NUMPY[output.dtype])
            kind = next((kind for kind in parts(output.axes.split()) if kind in lengths), "")
            outputs[output.name] = arranged(values[:, : lengths[kind]] if kind else values, output.axes, output.features)
        return outputs

    def _tokens(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """The scalars that say how many tokens a row of each sequence has, those of a part that is longer among them."""
        found: dict[str, int] = {}
        for one in self.program.entry(self.host.entry).scalars:
            family = [one.name, *(part.sequence for part in self.host.parts if part.of == one.name)]
            longest = max((lengths[kind] for kind in family if kind in lengths), default=one.high)
            if one.name in lengths:
                found[one.name] = min(max(longest, one.low), one.high)
        return found

    def _everywhere(self, items: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs for every region that takes them: ``name@region`` after the first."""
        taken = [binding.tensor for binding in self.program.bindings if binding.role == "input"]
        return {name: items[name if name in items else name.split("@")[0]] for name in taken}

    def _count(self, tokens: int, run: Run) -> None:
        self.usage.items += tokens
        self.usage.cycles += run.account.timeline.cycles
        self.usage.account = run.account

    def _mask(self, inputs: Mapping[str, Array], rows: int, total: int) -> Array:
        given = inputs.get(self.host.mask) if self.host.mask else None
        return np.ones((rows, total), np.bool_) if given is None else given.astype(np.bool_)

    def read(self, inputs: Mapping[str, Array], past: int) -> dict[str, Array]:
        """Outputs ``[tokens, features]`` of one row's new tokens, after ``past`` tokens that the caches hold."""
        host = self.host
        length = len(inputs[host.inputs[0].name])
        if past + length > host.context:
            what = f"{past + length} tokens in a row, and the program holds {host.context}"
            raise UsageError("context", what, fix="give fewer, or compile with a larger --context")
        chunks = self._chunks(length, past)
        read = min(length, chunks * host.chunk)
        found: list[dict[str, Array]] = []
        if chunks:
            self.usage.chunks += chunks
            found.append(self._pass(inputs, slice(0, read), host.prefill, host.chunk, {"past": past, "chunks": chunks}))
        if read < length:
            found.append(self._pass(inputs, slice(read, length), host.entry, 1, {"past": past + read, "length": length - read}))
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def _chunks(self, length: int, past: int) -> int:
        """Chunks in which so many tokens are read. The last is filled up where that takes less time than its tokens one by one.

        What fills it up comes after all tokens: none of them sees it, and those that come later replace it in the caches.
        """
        host = self.host
        if not host.prefill:
            return 0
        full, rest = divmod(length, host.chunk)
        if not rest or past + (full + 1) * host.chunk > host.context:
            return full
        one_by_one = self._cycles(host.entry, {"past": past + length - rest, "length": rest})
        in_chunks = self._cycles(host.prefill, {"past": past, "chunks": full}) if full else 0
        filled = self._cycles(host.prefill, {"past": past, "chunks": full + 1})
        return full + 1 if filled < in_chunks + one_by_one else full

    def _cycles(self, entry: str, scalars: Mapping[str, int]) -> int:
        return timeline(self.program, entry, scalars, self._pricer).cycles

    def _pass(self, inputs: Mapping[str, Array], part: slice, entry: str, rows: int, scalars: Mapping[str, int]) -> dict[str, Array]:
        """Outputs ``[tokens, features]`` of some tokens by an entry whose items are ``rows`` tokens."""
        tokens = part.stop - part.start
        items: dict[str, Array] = {}
        for one in self.host.inputs:
            given = inputs[one.name][part]
            filled = np.zeros((-(-tokens // rows) * rows, *given.shape[1:]), np.int32 if one.ids else given.dtype)
            filled[:tokens] = given
            items[one.tensor] = filled.reshape(-1, rows, *given.shape[1:])
        with running():
            run: Run = self.engine.run(entry, self._everywhere(items), scalars)
        self._count(tokens, run)
        return {
            one.name: run.outputs[one.tensor].reshape(-1, run.outputs[one.tensor].shape[-1])[:tokens].astype(_NUMPY[one.dtype])
            for one in self.host.outputs
        }

    def cache(self, cache: HostCache, count: int) -> Array:
        """The first ``count`` tokens of a cache ``[heads, count, features]``."""
        held = self.engine.tensor(cache.tensor)[:count]
        heads: Array = np.swapaxes(held.reshape(count, cache.heads, cache.features), 0, 1)
        return heads[..., np.argsort(cache.order)] if cache.order else heads

    def set_cache(self, cache: HostCache, values: Array) -> None:
        """Write the first tokens of a cache, ``values [heads, count, features]``."""
        count = values.shape[1]
        if cache.order:
            values = values[..., np.array(cache.order)]
        held = self.engine.tensor(cache.tensor).copy()
        held[:count] = np.swapaxes(values, 0, 1).reshape(count, cache.heads * cache.features)
        self.engine.set_state(cache.tensor, held)

    def decoder(self) -> WaferDecoder:
        """A decoder that keeps the caches on the PEs. `UsageError` where the program makes no logits."""
        return WaferDecoder(self)

    def notes(self) -> tuple[str, ...]:
        """What all runs so far took on the modelled machine."""
        if not self.usage.items:
            return ()
        machine, used = self.program.machine, self.usage
        rate = used.items / machine.seconds(used.cycles)
        each = f"{used.cycles:,} cycles, {used.cycles / used.items:,.0f} each"
        whole = f"{machine.name} (modelled): {used.items} tokens in {each}: {rate:,.0f} tokens/s at {machine.clock_hz / 1e9:g} GHz"
        rest, later = used.items - used.prompt_items, used.cycles - used.prompt_cycles
        if not used.prompt_items or not rest:
            return (whole, *([self.host.filled] if self.host.whole else []))
        chunks = f" by {used.chunks} chunk{'s' * (used.chunks > 1)} of {self.host.chunk}" if used.chunks else ""
        prompt = f"prompt: {used.prompt_items} tokens{chunks} in {used.prompt_cycles:,} cycles; then {later / rest:,.0f} cycles per token"
        return (whole, f"{prompt}: {machine.clock_hz * rest / later:,.0f} tokens/s")


class WaferDecoder:
    """Reads rows token by token. One row's cache stays on the PEs; of several, the host swaps them in and out."""

    def __init__(self, session: WaferSession) -> None:
        names = [one.name for one in session.host.outputs]
        if len(session.host.inputs) != 1 or not session.host.inputs[0].ids or "logits" not in names or session.host.whole:
            raise UsageError("no-decoder", "the program does not make logits from ids", fix="use run with --inputs")
        self._session = session
        self._lengths: list[int] = []
        self._caches: list[list[Array]] = []

    def prefill(self, ids: Array, mask: Array) -> Array:
        """Forget everything and read ``ids [batch, seq]``, of which ``mask`` is False on padding; logits after the last token."""
        self._lengths = [0] * len(ids)
        self._caches = [[] for _ in ids]
        used = self._session.usage
        items, cycles = used.items, used.cycles
        logits = np.stack([self._read(row, ids[row][mask[row].astype(np.bool_)]) for row in range(len(ids))])
        used.prompt_items += used.items - items
        used.prompt_cycles += used.cycles - cycles
        return logits

    def step(self, ids: Array) -> Array:
        """One more token per row, ``ids [batch]``; logits after it."""
        return np.stack([self._read(row, ids[row : row + 1]) for row in range(len(ids))])

    def _read(self, row: int, ids: Array) -> Array:
        session, several = self._session, len(self._lengths) > 1
        caches = session.host.caches
        for cache, held in zip(caches, self._caches[row], strict=False):
            session.set_cache(cache, held)
        name = session.host.inputs[0].name
        logits: Array = session.read({name: ids}, self._lengths[row])["logits"][-1]
        self._lengths[row] += len(ids)
        if several:
            self._caches[row] = [session.cache(cache, self._lengths[row]) for cache in caches]
        return logits


_NUMPY: dict[str, type[np.floating[Any]]] = {"f64": np.float64, "f32": np.float32, "f16": np.float16}
