"""The report: its numbers are those of the clock and of the engines, its pictures show every region, and it needs nothing from outside."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.backends.wafer.test_pipeline import gpt

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.program import Entry, Program, Rectangle, Scalar
from cgptc.backends.wafer.report import Figures, floorplan_svg, measure, write_report
from cgptc.backends.wafer.report.colours import heat_colour
from cgptc.backends.wafer.report.figures import default_scalars, kind_of
from cgptc.backends.wafer.report.floorplan import DISCLAIMER, shortened
from cgptc.backends.wafer.report.page import page
from cgptc.backends.wafer.report.picture import heat_picture
from cgptc.backends.wafer.verify import peak_bytes

SCALARS = {"past": 0, "length": 4}


@pytest.fixture(scope="module")
def program() -> Program:
    return gpt("f32")


@pytest.fixture(scope="module")
def figures(program: Program) -> Figures:
    return measure(program, timeline(program, "run", SCALARS), "run", SCALARS)


def test_parts_add_up_to_what_the_clock_counts(figures: Figures) -> None:
    for stage in figures.stages:
        middle = next(one for one in figures.timeline.of(stage.region.name) if one.item == figures.items // 2)
        assert stage.compute + stage.talk == middle.busy == sum(step.cycles for step in stage.steps)


def test_the_cycles_of_a_step_can_be_worked_out_by_hand(figures: Figures) -> None:
    """A product of 1 × 2 with 2 × 8, streamed by rows; two numbers added up by a tree over lines of four, and sent back to all."""
    (block,) = (stage for stage in figures.stages if stage.region.name == "block0")
    steps = [step for step in block.steps if step.part.startswith("0.up")]
    product = next(step for step in steps if step.what.startswith("gemm"))
    assert (product.what, product.turns, product.cycles) == ("gemm of 1×8, 1×2, 2×8 to 1×8 in f32", 1, 35 + 2 * (6 + 8))
    line = next(step for step in steps if "allreduce" in step.what)
    assert line.what == "allreduce by tree along x: 8 words, lines of 4"
    reduce, broadcast = max(2 * 8, 8 * 4 // 3) + 3 + 5 * 2, 8 + 3 + 5
    assert line.cycles == reduce + broadcast


def test_words_over_links_are_those_of_a_run(program: Program) -> None:
    one_item = {"past": 2, "length": 1}
    found = measure(program, timeline(program, "run", one_item), "run", one_item)
    engine = FastEngine(program)
    random = np.random.default_rng(1)
    engine.load({one.tensor: random.normal(size=one.layout.shape) for one in program.bindings if one.role == "weight"})
    account = engine.run("run", {"ids": np.array([[1]], np.int32)}, one_item).account
    for name in ("east", "west", "south", "north"):
        np.testing.assert_array_equal(getattr(found.account, name), getattr(account, name))
    assert sum(part.macs for stage in found.stages for part in stage.parts) == account.macs


def test_no_estimate_is_below_its_bounds(figures: Figures) -> None:
    assert [bound.name for bound in figures.bounds if bound.cycles > figures.interval] == []
    assert all(bound.cycles > 0 for bound in figures.bounds)


def test_memory_by_use_adds_up_to_the_peak(figures: Figures) -> None:
    for stage in figures.stages:
        assert stage.weight_bytes + stage.state_bytes + stage.work_bytes + stage.queue_bytes == stage.peak_bytes


def test_the_floorplan_draws_every_region_where_it_lies(program: Program) -> None:
    tree = ElementTree.fromstring(floorplan_svg(program))
    groups = [one for one in tree.iter() if one.tag.endswith("}g")]
    assert len(groups) == len(program.regions)
    unit = 960 / 8
    for group, region in zip(groups, program.regions, strict=True):
        title, box = group[0].text or "", group[1].attrib
        assert title.startswith(region.name)
        at = (region.rectangle.x, region.rectangle.y, region.rectangle.width, region.rectangle.height)
        assert [float(box[name]) for name in ("x", "y", "width", "height")] == [one * unit for one in at]
    assert DISCLAIMER in "".join(tree.itertext())


def test_what_is_written_on_full_memory_can_be_read(program: Program) -> None:
    limit = max(peak_bytes(program, region) for region in program.regions)
    full = replace(program, machine=replace(program.machine, sram_bytes=program.machine.reserved_bytes + limit))
    text = page(measure(full, timeline(full, "run", SCALARS), "run", SCALARS), full.machine)
    memory = text[text.index("<h2>SRAM</h2>") : text.index("<h2>Links</h2>")]
    fills = re.findall(r'fill="(#\w+)" stroke="#5a6472" stroke-width="0.8"/><text [^>]*fill="(#\w+)"', memory)
    assert (heat_colour(1.0), "#fff") in fills
    assert all(written == "#fff" for drawn, written in fills if int(drawn[3:5], 16) < 0x50)


def test_the_page_is_whole_and_looks_nothing_up(program: Program, tmp_path: Path) -> None:
    path, again = tmp_path / "report.html", tmp_path / "again.html"
    clock = timeline(program, "run", SCALARS)
    for one in (path, again):
        write_report(program, clock, program.machine, one, scalars=SCALARS, title="A <small> GPT")
    text = path.read_text(encoding="utf-8")
    assert text == again.read_text(encoding="utf-8")
    assert "A &lt;small&gt; GPT" in text
    assert DISCLAIMER[1:] in text
    assert not re.search(r"<script|<link|src=\"(?!data:)|href=|https?://(?!www\.w3\.org/2000/svg)", text)
    for region in program.regions:
        assert region.name in text
    assert f"{clock.cycles:,}" in text
    for tag in ("table", "svg", "div", "p", "span", "figure", "tr", "td", "g", "text"):
        assert text.count(f"<{tag} ") + text.count(f"<{tag}>") == text.count(f"</{tag}>"), tag


def test_pictures_show_the_largest_amount_darkest() -> None:
    amounts = np.zeros((3, 2000), np.int64)
    amounts[1, 1999] = 7
    data = base64.b64decode(heat_picture(amounts).partition(",")[2])
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (400, 1)
    at = data.index(b"IDAT")
    size = int.from_bytes(data[at - 4 : at], "big")
    row = zlib.decompress(data[at + 4 : at + 4 + size])[1:]
    brightness = [sum(row[i : i + 3]) for i in range(0, len(row), 3)]
    assert brightness.index(min(brightness)) == width - 1
    assert len(set(brightness[:-1])) == 1


def test_scalars_default_to_the_largest_that_limits_admit() -> None:
    length, past = Scalar("length", 1, 6), Scalar("past", 0, 5)
    room = 6 - var("past") - var("length")
    assert default_scalars(Entry("run", (past, length), limits=(room,))) == {"past": 0, "length": 6}
    assert default_scalars(Entry("run", (length, past), limits=(room,))) == {"past": 5, "length": 1}
    assert default_scalars(Entry("run", (length, past))) == {"past": 5, "length": 6}
    with pytest.raises(ProgramError, match="less than 0"):
        default_scalars(Entry("run", (past, length), limits=(room - 6,)))


def test_equal_kernels_of_layers_have_one_name() -> None:
    assert kind_of("h.3.attn: linear") == kind_of("h.11.attn: linear") == "h.*.attn: linear"


def test_a_module_path_without_room_keeps_its_last_components() -> None:
    assert shortened("transformer.h.12", 16) == "transformer.h.12"
    assert shortened("transformer.h.12", 6) == "…h.12"
    assert shortened("embedding", 5) == "embe…"


@pytest.mark.parametrize("size", [(320, 1), (1, 320), (1000, 3), (2, 2)], ids=str)
def test_a_region_of_any_thickness_is_drawn(size: tuple[int, int], program: Program) -> None:
    machine = small_machine(*size)
    region = replace(program.regions[0], name="transformer.h.0", rectangle=Rectangle(0, 0, *size))
    picture = floorplan_svg(replace(program, machine=machine, regions=(region,), streams=()))
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert ("tspan" in picture) == (size == (2, 2))
