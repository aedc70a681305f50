"""Stages on a real Ray: the same tokens, and an error that names a stage that dies or stands still. Starting Ray takes its time, so this is
one test, in a profile of its own. How long each error took is in the report (``--junitxml``).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgptc
from cgptc.cli.entry import run
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.ir.diagnostics import Exit, UsageError
from cgptc.runtime.compiled import Artifact
from cgptc.runtime.ray_stages import RayEngine
from cgptc.runtime.stage_worker import StageError

WATCHDOG_SECONDS = 50.0
"""Ten times what an error may take."""


def test_without_ray_the_engine_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.driver.test_stage_engines import CHAIN

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="Ray is not installed") as caught:
        RayEngine(tmp_path, "onnx", None, CHAIN)
    assert "cgptc[ray]" in caught.value.fix


def engine_of(artifact: Artifact) -> RayEngine:
    session: Any = artifact.session
    engine = session._engine
    assert isinstance(engine, RayEngine)
    return engine


def call_again_and_again(artifact: Artifact) -> None:
    end = time.monotonic() + WATCHDOG_SECONDS
    while time.monotonic() < end:
        artifact.run(input_ids=np.array([[1, 2, 3]]))


def seconds_until_named(artifact: Artifact, stage: int, number: signal.Signals, code: str) -> float:
    """How long after the signal calls end with the error that names the stage."""
    import ray

    process = ray.get(engine_of(artifact).actors[stage].ping.remote())
    start = time.monotonic()
    os.kill(process, number)
    with pytest.raises(StageError) as caught:
        call_again_and_again(artifact)
    assert (caught.value.code, caught.value.stage, caught.value.exit) == (code, stage, Exit.IO)
    return time.monotonic() - start


@pytest.mark.slow
def test_actors_give_the_same_tokens_and_a_lost_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: pytest.RecordProperty
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'cgptc[ray]'")
    write_model(preset("tiny"), tmp_path / "model.pt")
    whole = cgptc.compile(tmp_path / "model.pt")
    staged = cgptc.compile(tmp_path / "model.pt", output=tmp_path / "staged", stages=4)
    prompts = [[7, 8, 9, 10], [3], [100, 200]]
    expected = whole.generate_batch(prompts, max_new_tokens=8)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        with staged.running_on("ray", micro_batches=2) as running:
            assert running.generate_batch(prompts, max_new_tokens=8) == expected
            killed = seconds_until_named(running, 1, signal.SIGKILL, "dead-stage")
        with staged.running_on("ray") as running:
            frozen = seconds_until_named(running, 2, signal.SIGSTOP, "stalled-stage")
        capsys.readouterr()  # Ray tells of the lost actor
        for engine in ("local", "ray"):
            assert run(["run", str(tmp_path / "staged"), "--prompt-ids", "7,8,9,10", "--max-new-tokens", "8", "--engine", engine]) == 0
            assert capsys.readouterr().out.strip() == ",".join(map(str, expected[0].ids))
        record_property("seconds until a killed and a frozen stage are named", f"{killed:.2f} {frozen:.2f}")
    finally:
        ray.shutdown()
