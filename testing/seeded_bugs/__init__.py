"""The bugs that cgptc's own suite must notice, and what applies one. `SEEDED_BUGS` has them all, by name."""

from cgptc.testing.seeded_bugs.all import SEEDED_BUGS
from cgptc.testing.seeded_bugs.bug import SeededBug, SeededBugError

__all__ = ["SEEDED_BUGS", "SeededBug", "SeededBugError"]
