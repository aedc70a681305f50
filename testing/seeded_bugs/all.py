"""Every seeded bug by name: one module for each part of the compiler."""

from collections.abc import Mapping

from cgptc.testing.seeded_bugs.bug import SeededBug
from cgptc.testing.seeded_bugs.importer import IMPORTER_BUGS
from cgptc.testing.seeded_bugs.onnx import ONNX_BUGS
from cgptc.testing.seeded_bugs.ops import OPS_BUGS
from cgptc.testing.seeded_bugs.passes import PASS_BUGS
from cgptc.testing.seeded_bugs.wafer import WAFER_BUGS

SEEDED_BUGS: Mapping[str, SeededBug] = {bug.name: bug for bug in (*OPS_BUGS, *PASS_BUGS, *IMPORTER_BUGS, *ONNX_BUGS, *WAFER_BUGS)}
