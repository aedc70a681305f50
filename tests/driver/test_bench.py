"""``cgptc bench``: what it counts and what it refuses; how long anything takes is nobody's assertion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cgptc
from cgptc.backends.onnx import gemm_peak
from cgptc.backends.onnx.kept_logits import with_kept_logits
from cgptc.cli.entry import run
from cgptc.driver.bench import read_stream
from cgptc.driver.bench.measurement import Plan, Timing, measure
from cgptc.driver.bench.work import cache_bytes_per_token, operations, weight_bytes_per_token
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.ir.diagnostics import UsageError
from cgptc.runtime.compiled import Artifact

CONFIG = preset("tiny").config
MATRICES = CONFIG.layers * (4 * CONFIG.width**2 + 2 * CONFIG.width * CONFIG.ffn_width) + CONFIG.width * CONFIG.vocabulary
"""Elements of every matrix that a token is multiplied with, the tied head included."""


def without_care_for_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine can do is measured in no time, without rests and on little: nobody reads it."""
    monkeypatch.setattr(read_stream, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(read_stream, "BYTES", 1 << 20)
    monkeypatch.setattr(gemm_peak, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(gemm_peak, "SIDE", 64)


@pytest.fixture(autouse=True)
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    without_care_for_figures(monkeypatch)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("bench")
    write_model(preset("tiny"), folder / "model.pt")
    return cgptc.compile(folder / "model.pt", output=folder / "out")


def test_a_token_reads_every_matrix_once_and_no_looked_up_table(artifact: Artifact) -> None:
    vectors = CONFIG.layers * (3 + 1 + 1 + 4) * CONFIG.width + CONFIG.layers * CONFIG.ffn_width + 2 * CONFIG.width
    assert weight_bytes_per_token(artifact.graph) == 4 * (MATRICES + vectors)


def test_a_token_reads_the_keys_and_values_before_it(artifact: Artifact) -> None:
    assert cache_bytes_per_token(artifact.graph, 5) == 4 * 2 * CONFIG.layers * CONFIG.width * 5


def test_a_prefill_multiplies_every_token_with_every_matrix(artifact: Artifact) -> None:
    products = 2 * MATRICES * 3 * 16
    counted = operations(artifact.graph, batch=3, seq=16, past=0)
    assert products < counted < 2 * products  # attention, norms and activations come on top


def test_run_says_where_onnxruntime_placed_the_nodes(artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(artifact.path), "--prompt-ids", "1,2", "--max-new-tokens", "1"]) == 0
    assert "nodes on CPUExecutionProvider" in capsys.readouterr().err


def test_bench_prints_each_length_and_the_shares(artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(artifact.path), "--prompt", "4", "--prompt", "8", "--new-tokens", "3", "--repeat", "2"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "prefill 4",
        "prefill 8",
        "decode after",
        "tokens/s",
        "GB/s",
        "GFLOP/s",
        "%",
        "at the peak",
        "nodes on CPUExecutionProvider",
    ):
        assert part in printed


def test_two_providers_are_measured_in_a_process_each(artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt", "4", "--new-tokens", "2", "--repeat", "1", "--ep", "cpu", "--ep", "cpu", "--json"]
    assert run(["bench", str(artifact.path), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["ep"] for each in found] == ["cpu", "cpu"]
    assert all(each["peak_bytes"] > 0 and len(each["decode"]["seconds"]) == 2 for each in found)


def test_a_provider_that_is_not_installed_is_an_error(artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(artifact.path), "--ep", "cuda"]) == 2
    assert "no-provider" in capsys.readouterr().err
    assert run(["bench", str(artifact.path), "--ep", "openvino"]) == 2
    assert "unknown --ep 'openvino'" in capsys.readouterr().err


@pytest.mark.parametrize("plan", [{"lengths": (0,)}, {"new_tokens": 0}, {"repeats": 0}, {"batch": 0}, {"threads": -1}])
def test_a_plan_that_measures_nothing_is_refused(plan: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Plan(**plan)  # type: ignore[arg-type]


def test_a_prompt_beyond_the_context_is_refused(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="positions"):
        measure(artifact, Plan(lengths=(CONFIG.positions + 1,)))


def test_a_model_without_a_cache_is_refused(tmp_path: Path) -> None:
    write_model(preset("tiny"), tmp_path / "model.pt")
    with pytest.raises(UsageError, match="with a cache"):
        measure(cgptc.compile(tmp_path / "model.pt", output=tmp_path / "out", cache="none"), Plan())


def test_shares_are_of_the_median() -> None:
    timing = Timing((0.1, 0.2, 0.3), tokens=4, work=100, limit=1000.0)
    assert timing.tokens_per_second == pytest.approx(20)
    assert timing.share == pytest.approx(0.5)
    assert Timing.from_json(timing.to_json()) == timing


def test_a_prefill_for_generation_pays_for_one_row_of_logits(artifact: Artifact) -> None:
    kept = with_kept_logits(artifact.graph)
    assert kept is not None
    saved = operations(artifact.graph, 1, 16, 0) - operations(kept[0], 1, 16, 0)
    assert saved > 15 * 2 * CONFIG.width * CONFIG.vocabulary
