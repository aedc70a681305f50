"""Two linear layers with an activation between them, or with a gated product of two layers, on several rows at once.

*Spread*: a linear layer, the activation, a linear layer, as each would be alone. What lies between them is the same on every line of one
direction, so that the activation of every row is computed on all of them.

*In tiles*: each line of PEs takes rows of its own, which it holds already. Both products are of tiles (`Summa`, `Cannon`), the activation
is computed once, and at the end the lines put their rows together. No row is reduced between the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.assembly import join, renamed
from cgptc.backends.wafer.kernels.cannon import Cannon
from cgptc.backends.wafer.kernels.constant import WithConstant
from cgptc.backends.wafer.kernels.elementwise import Elementwise
from cgptc.backends.wafer.kernels.fragment import CHAIN, Fragment, Grid, Kernel, OfRows, Reduction, Slot, buffer, other
from cgptc.backends.wafer.kernels.gated import Gated
from cgptc.backends.wafer.kernels.gemm import Summa
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.kernels.own_rows import Dealt, OwnRows
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine

Product = Literal["summa", "neighbour", "interleaved"]
"""How tiles are multiplied: by panels, or by Cannon on one of its rings."""


def _as_one(name: str, parts: Sequence[Fragment], outputs: tuple[Slot, ...]) -> Fragment:
    """Fragments that run in turn as one, which gives ``outputs``."""
    joined = join(parts)
    taken = tuple(joined.inputs.values()), outputs, tuple(joined.weights.values()), tuple(joined.states.values())
    return Fragment(name, *taken, tuple(joined.buffers.values()), joined.steps)


@dataclass(frozen=True)
class SpreadMlp:
    """``y = down(activation(up(x)))``, or ``down(activation(gate(x)) · up(x))``; x lies along ``up.along``, and so does y.

    Where ``dealt`` is given, each line of PEs activates rows of its own, and they are merged by that reduction.
    """

    up: Linear
    activation: str
    down: Linear
    gate: Linear | None = None
    dealt: Reduction | None = None

    name: ClassVar[str] = "mlp"

    @property
    def linears(self) -> dict[str, Linear]:
        """The layers by the names of their weights."""
        return {**({"gate": self.gate} if self.gate else {}), "up": self.up, "down": self.down}

    @property
    def between(self) -> Kernel:
        """What stands between the layers."""
        layout, form, m, rows = self.up.y_layout, self.up.dtype, self.up.m, self.up.rows
        kind = Gated if self.gate else Elementwise
        if self.dealt is None:
            return kind(self.activation, layout, form, rows=rows)
        along = other(self.up.along)
        dealt = Dealt(m, self.up.grid.lines(self.up.along), along, form, rows)
        own = kind(self.activation, replace(layout, shape=(dealt.rows, self.up.n)), form, rows=dealt.own)
        return OwnRows(own, m, along, form, self.dealt, rows=rows)

    def fragment(self, prefix: str) -> Fragment:
        made = {part: linear.fragment(f"{prefix}.{part}") for part, linear in self.linears.items()}
        leading, *further = (part for part in made if part != "down")
        names = {f"{prefix}.{part}.x": f"{prefix}.x" for part in (leading, *further)}
        names |= {f"{prefix}.between.{role}": f"{prefix}.{part}.y" for role, part in zip("xz", (leading, *further), strict=False)}
        names |= {f"{prefix}.down.x": f"{prefix}.between.y", f"{prefix}.down.y": f"{prefix}.y"}
        down = made.pop("down")
        parts = [renamed(one, names) for one in (*made.values(), self.between.fragment(f"{prefix}.between"), down)]
        return _as_one(self.name, parts, (Slot("y", f"{prefix}.y", self.down.y_layout, rows=self.down.rows),))

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Those of its parts."""
        return sum(one.cycles(machine, scalars) for one in (*self.linears.values(), self.between))


@dataclass(frozen=True)
class TiledMlp(OfRows):
    """``y [m, n] = activation(x [m, k] @ up + up_bias) @ down + down_bias``, x and y along x, all between in tiles ``[rows, features]``.

    Where ``gated``, it is ``activation(x @ gate + gate_bias) · (x @ up + up_bias)`` that is multiplied by ``down``.

    Rows are dealt out to the grid's lines (`Dealt`). Raises ProgramError where the grid's tiles of one product are not those of the next.
    """

    m: int
    k: int
    hidden: int
    n: int
    activation: str
    grid: Grid
    product: Product = "summa"
    dtype: str = "f32"
    accumulate: str = "f32"
    up_bias: bool = True
    down_bias: bool = True
    reduction: Reduction = CHAIN
    gated: bool = False
    gate_bias: bool = False

    name: ClassVar[str] = "mlp-tiles"

    def __post_init__(self) -> None:
        up, down = self.products
        tiled = self.grid.tiled((self.m, self.k), 0, 1)
        if up.a_layout != tiled or up.y_layout != down.a_layout:
            raise ProgramError("kernel", f"panels on {self.grid.height} × {self.grid.width} PEs are no tiles of {self.k} and {self.hidden}")

    @cached_property
    def products(self) -> tuple[Summa | Cannon, Summa | Cannon]:
        """From x to what is between, and from there to y."""
        up, down = (self.m, self.k, self.hidden, self.grid), (self.m, self.hidden, self.n, self.grid)
        kind, own = (self.dtype, self.accumulate), self._dealt.own
        if self.product == "summa":
            return Summa(*up, *kind, rows=own), Summa(*down, *kind, rows=own)
        return Cannon(*up, self.product, *kind, rows=own), Cannon(*down, self.product, *kind, rows=own)

    @property
    def spread(self) -> SpreadMlp:
        """The layers, each as it would be alone; their reductions are no choice."""
        kind = self.dtype, self.accumulate
        up = Linear(self.m, self.k, self.hidden, self.grid, "x", *kind, bias=self.up_bias)
        down = Linear(self.m, self.hidden, self.n, self.grid, "y", *kind, bias=self.down_bias)
        return SpreadMlp(up, self.activation, down, replace(up, bias=self.gate_bias) if self.gated else None)

    @property
    def _dealt(self) -> Dealt:
        return Dealt(self.m, self.grid.height, "x", self.dtype, self.rows)

    @property
    def x_layout(self) -> Layout:
        return self.grid.spread((self.m, self.k), "x")

    @property
    def y_layout(self) -> Layout:
        return self.grid.spread((self.m, self.n), "x")

    @property
    def _first(self) -> dict[str, bool]:
        """The layers that x goes through, by the names of their weights, and whether they have a bias; the activation is of the first."""
        return {**({"gate": self.gate_bias} if self.gated else {}), "up": self.up_bias}

    @property
    def _activation(self) -> Elementwise | Gated:
        return (Gated if self.gated else Elementwise)(self.activation, self.products[0].y_layout, self.dtype, rows=self._dealt.own)

    def _biases(self, product: Summa | Cannon, *, present: bool) -> list[Kernel]:
        """What is added to the tiles of a product."""
        return [WithConstant("add", product.y_layout, None, self.dtype, rows=self._dealt.own)] if present else []

    def fragment(self, prefix: str) -> Fragment:
        up, down = self.products
        result = f"{prefix}.rows"
        parts = [self._taken(prefix, up)]
        made: list[str] = []
        for part, bias in self._first.items():
            made.append(f"{prefix}.{part}.tiles")
            parts.append(_weighted(up.fragment(f"{prefix}.{part}"), f"{prefix}.{part}", f"{prefix}.own", made[-1]))
            parts += [_in_place(one, f"{prefix}.{part}", made[-1]) for one in self._biases(up, present=bias)]
        parts += [
            _in_place(self._activation, f"{prefix}.between", *made),
            _weighted(down.fragment(f"{prefix}.down"), f"{prefix}.down", made[0], result),
            *(_in_place(one, f"{prefix}.down", result) for one in self._biases(down, present=self.down_bias)),
            self._given(prefix, down),
        ]
        return _as_one(f"{self.name}-{self.product}", parts, (Slot("y", f"{prefix}.y", self.y_layout, rows=self.rows),))

    def _taken(self, prefix: str, up: Summa | Cannon) -> Fragment:
        """Each line's rows of x, which every PE of a column holds."""
        rows, local = up.a_layout.local_shape
        x, own = buffer(f"{prefix}.x", self.dtype, self.m, local), buffer(f"{prefix}.own", self.dtype, rows, local)
        numbers, places, steps = self._dealt.numbers(prefix)
        steps.append(self._dealt.taken(x.name, own.name, numbers, local))
        slots = (Slot("x", x.name, self.x_layout),), (Slot("own", own.name, up.a_layout),)
        return Fragment(self.name, *slots, (), (), (x, own, numbers, places), tuple(steps))

    def _given(self, prefix: str, down: Summa | Cannon) -> Fragment:
        """All rows on every line."""
        rows, local = down.y_layout.local_shape
        result, y = buffer(f"{prefix}.rows", self.dtype, rows, local), buffer(f"{prefix}.y", self.dtype, self.m, local)
        _, places, _ = self._dealt.numbers(prefix)
        steps = self._dealt.given(result.name, y.name, places, local, self.reduction)
        slots = (Slot("rows", result.name, down.y_layout),), (Slot("y", y.name, self.y_layout),)
        return Fragment(self.name, *slots, (), (), (result, y, places), tuple(steps))

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Those of its parts, and of taking rows apart and putting them together."""
        up, down = self.products
        kernels: list[Kernel] = [self._activation, down, *self._biases(down, present=self.down_bias)]
        for bias in self._first.values():
            kernels += [up, *self._biases(up, present=bias)]
        parts = sum(one.cycles(machine, scalars) for one in kernels)
        dealt, taken, given = self._dealt, up.a_layout.local_shape[1], down.y_layout.local_shape[1]
        apart = dealt.numbers_cycles(machine, scalars) + dealt.taken_cycles(taken, machine, scalars)
        return parts + apart + dealt.given_cycles(given, self.reduction, machine, scalars)


def _weighted(product: Fragment, prefix: str, left: str, result: str) -> Fragment:
    """A product of tiles whose right side is a weight."""
    found = renamed(product, {f"{prefix}.a": left, f"{prefix}.b": f"{prefix}.weight", f"{prefix}.y": result})
    a, b = found.inputs
    return replace(found, inputs=(a,), weights=(replace(b, role="weight"),))


def _in_place(kernel: Kernel, prefix: str, tiles: str, others: str = "") -> Fragment:
    """An element-wise kernel that writes where it reads, with a second operand from ``others``; its weight is a bias."""
    made = kernel.fragment(f"{prefix}.each")
    names = {f"{prefix}.each.{role}": tiles for role in "xy"} | {f"{prefix}.each.z": others}
    return renamed(made, {**names, f"{prefix}.each.weight": f"{prefix}.bias"})


def in_tiles(spread: SpreadMlp) -> Iterator[TiledMlp]:
    """The same in tiles, by every product that the grid and the blocks of its neighbours admit; reductions are left to the caller."""
    up, down = spread.up, spread.down
    for product in ("summa", "neighbour", "interleaved"):
        try:
            made = TiledMlp(
                up.m, up.k, up.n, down.n, spread.activation, up.grid, product, up.dtype, up.accumulate, up.bias, down.bias,
                gated=spread.gate is not None, gate_bias=spread.gate is not None and spread.gate.bias, rows=up.rows,
            )  # fmt: skip
        except ProgramError:
            continue
        if (up.x_layout, down.y_layout) == (made.x_layout, made.y_layout):
            yield made
