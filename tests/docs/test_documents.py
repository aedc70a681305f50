"""What the documents show is run: the tour's commands in an empty folder, README's Python in one namespace."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tests.driver.test_bench import without_care_for_figures

ROOT = Path(__file__).parents[2]


def blocks(file: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / file).read_text(), re.MULTILINE | re.DOTALL)


def commands(file: str) -> list[list[str]]:
    """The arguments of every ``$ cgptc`` line."""
    lines = [line for block in blocks(file, "console") for line in block.splitlines()]
    return [shlex.split(line.removeprefix("$ cgptc ")) for line in lines if line.startswith("$ cgptc ")]


@pytest.mark.parametrize("file", ["README.md", "docs/tour.md"])
def test_the_commands_run(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from cgptc.cli.entry import run

    without_care_for_figures(monkeypatch)
    monkeypatch.chdir(tmp_path)
    found = commands(file)
    assert len(found) >= 4
    for arguments in found:
        assert run(arguments) == 0, (arguments, capsys.readouterr().err)


def test_the_road_from_initialising_to_generating_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every line of the page, the training script's included, in a folder where the examples lie as in the repository."""
    import runpy

    from cgptc.cli.entry import run

    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    lines = [line.removeprefix("$ ") for block in blocks("docs/training.md", "console") for line in block.splitlines()]
    assert len(lines) == 8
    for line in lines:
        program, *arguments = shlex.split(line)
        if program == "python":
            monkeypatch.setattr("sys.argv", arguments)
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            assert program == "cgptc"
            assert run(arguments) == 0, (line, capsys.readouterr().err)
    assert "And the" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["docs/write-an-op.md", "docs/write-a-pass.md"])
def test_the_code_of_a_guide_runs(file: str, tmp_path: Path) -> None:
    import runpy

    from cgptc.ir.op import OPS
    from cgptc.passes.manager import PASSES

    script = tmp_path / "guide.py"
    script.write_text("\n".join(blocks(file, "python")))
    known = dict(OPS), dict(PASSES)
    try:
        values = runpy.run_path(str(script))
        for name, value in values.items():
            if name.startswith("test_"):
                value()
        assert set(OPS) - set(known[0]) or set(PASSES) - set(known[1])  # it declared what it is about
    finally:
        for registry, before in zip((OPS, PASSES), known, strict=True):
            for name in set(registry) - set(before):
                del registry[name]


def test_the_python_of_the_readme_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = "\n".join(blocks("README.md", "python"))
    file = tmp_path / "readme.py"
    file.write_text(script + "\ntest_drawn_graphs_are_valid()\n")
    import runpy

    values = runpy.run_path(str(file))
    assert values["y"].shape == (2, 7, 16)
    assert "as PyTorch in float64" in capsys.readouterr().out


def test_a_class_of_ones_own_compiles_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from cgptc.cli.entry import run

    (tmp_path / "own_bigram.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11))\n"
    )
    module = torch.nn.Sequential(torch.nn.Embedding(11, 6), torch.nn.Linear(6, 11))
    torch.save(module.state_dict(), tmp_path / "model.pt")
    monkeypatch.chdir(tmp_path)
    assert run(["compile", "own_bigram:build", "--weights", "model.pt", "-o", "out", "--cache", "none"]) == 0
    import cgptc

    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(cgptc.load("out").module()(ids), module(ids))


def test_the_examples_of_the_testing_kit_run(tmp_path: Path) -> None:
    found = blocks("docs/testing.md", "python")
    script = "\n".join(found)
    tests = re.findall(r"^def (test_\w+)", script, re.MULTILINE)
    assert len(tests) == 6
    file = tmp_path / "kit.py"
    # Four examples each show that the code is right; that the properties hold is tested where they belong.
    few = "from hypothesis import settings\nsettings.register_profile('few', max_examples=4, deadline=None, database=None)\n"
    file.write_text(few + "settings.load_profile('few')\n" + script + "".join(f"\n{test}()" for test in tests))
    import runpy

    from hypothesis import settings

    before = settings.get_current_profile_name()
    try:
        runpy.run_path(str(file))
    finally:
        settings.load_profile(before)
