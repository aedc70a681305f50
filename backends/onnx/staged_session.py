"""Running the models of stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cgptc.backends.onnx.interface_names import PAST_PREFIX, present_of
from cgptc.backends.onnx.session import OnnxSession, Port, complete, empty_past
from cgptc.backends.onnx.single_steps import run_in_single_steps
from cgptc.backends.onnx.staged_files import stage_file
from cgptc.backends.onnx.tensors import to_array, to_value
from cgptc.ir.diagnostics import MalformedError
from cgptc.ir.op import Array
from cgptc.ir.stage_plan import PLAN_FILE, StagePlan

if TYPE_CHECKING:
    import onnxruntime


def read_plan(folder: Path) -> StagePlan:
    """The plan of the stages in a folder. `MalformedError` where it is none."""
    try:
        value = json.loads((folder / PLAN_FILE).read_bytes())
    except (ValueError, RecursionError):
        raise MalformedError("stages", f"'{PLAN_FILE}' is not JSON", file=str(folder), fix="compile the model again") from None
    return StagePlan.from_json(value, str(folder))


class OnnxStage:
    """One stage, with the caches of its layers."""

    def __init__(self, session: OnnxSession) -> None:
        self.session = session
        self._pasts: dict[int, dict[str, onnxruntime.OrtValue]] = {}
        self._presents = [present_of(port.name) for port in session.pasts]

    @classmethod
    def open(cls, folder: Path, index: int, provider: str) -> OnnxStage:
        """Load stage ``index``; the errors are those of `OnnxSession.open`."""
        return cls(OnnxSession.open(folder / stage_file(index), provider=provider))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs from all inputs, pasts and presents included."""
        return self.session.run_once(inputs)

    def read(self, slot: int, rows: int, fresh: bool, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs but for presents, from the inputs but for pasts, for ``rows`` rows: the stage keeps those under ``slot``, and
        forgets them first where ``fresh``. The cache stays inside onnxruntime.
        """
        session = self.session
        if fresh:
            self._pasts[slot] = {port.name: to_value(empty_past(port, rows, 0), port.dtype) for port in session.pasts}
        pasts = self._pasts.get(slot, {})
        feeds = {**pasts, **{name: session.value(name, array) for name, array in inputs.items()}}
        names = [name for name in session.output_names if name not in self._presents]
        values = session.call([*names, *self._presents], feeds)
        self._pasts[slot] = dict(zip(pasts, values[len(names) :], strict=True))
        return {name: to_array(value) for name, value in zip(names, values, strict=False)}


class StagedOnnxSession:
    """The stages of a model one after the other. `run` takes and gives numpy arrays, as that of a model in one piece."""

    def __init__(self, plan: StagePlan, stages: list[OnnxStage]) -> None:
        self.plan = plan
        self.stages = stages

    @classmethod
    def open(cls, folder: Path, provider: str) -> StagedOnnxSession:
        """Load every stage."""
        plan = read_plan(folder)
        return cls(plan, [OnnxStage.open(folder, index, provider) for index in range(len(plan.stages))])

    @property
    def input_names(self) -> tuple[str, ...]:
        return self.plan.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.plan.outputs

    @cached_property
    def inputs(self) -> tuple[Port, ...]:
        """The model's inputs."""
        ports = {port.name: port for stage in self.stages for port in stage.session.inputs}
        return tuple(ports[name] for name in self.plan.inputs if name in ports)

    @cached_property
    def outputs(self) -> tuple[Port, ...]:
        """The model's outputs."""
        ports = {port.name: port for stage in self.stages for port in stage.session.outputs}
        return tuple(ports[name] for name in self.plan.outputs)

    @cached_property
    def pasts(self) -> tuple[Port, ...]:
        """The inputs that hold cached keys and values."""
        return tuple(port for port in self.inputs if port.name.startswith(PAST_PREFIX))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name; see `OnnxSession.run`."""
        given = complete(self.inputs, inputs)
        if any(stage.session.refuses(given) for stage in self.stages):
            return run_in_single_steps(self, given)
        return self.run_once(given)

    def run_once(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call of each stage with every input given."""
        known = dict(inputs)
        for planned, stage in zip(self.plan.stages, self.stages, strict=True):
            known |= stage.run({name: known[name] for name in planned.inputs})
        return {name: known[name] for name in self.plan.outputs}
