"""Prints the names of all seeded bugs, one a line: ``for bug in $(python -m cgptc.testing.seeded_bugs)``."""

import sys

from cgptc.testing.seeded_bugs import SEEDED_BUGS

sys.stdout.write("".join(f"{name}\n" for name in SEEDED_BUGS))
