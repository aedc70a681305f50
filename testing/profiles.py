"""Hypothesis profiles: ``dev`` (50 examples), ``ci`` (200, not derandomised, no database), ``soak`` (5,000).

With CI set, Hypothesis would choose a profile of its own that replays the same examples in every run. `load_default_profile` chooses ``ci``
there, whose seed comes from the commit, so that each commit tries new examples and any run can be repeated.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping

from hypothesis import HealthCheck, settings

EXAMPLES = {"dev": 50, "ci": 200, "soak": 5000}


def register_profiles() -> None:
    """Make the profiles known to Hypothesis. None has a deadline: durations say nothing on a shared machine."""
    for name, count in EXAMPLES.items():
        profile = settings(max_examples=count, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
        if name != "dev":
            profile = settings(profile, derandomize=False, database=None)
        settings.register_profile(name, profile)


def default_profile(environment: Mapping[str, str] = os.environ) -> str:
    """``ci`` where the environment says so, else ``dev``."""
    return "ci" if environment.get("CI") else "dev"


def load_default_profile() -> None:
    """Register all profiles and load the one that fits where this runs."""
    register_profiles()
    settings.load_profile(default_profile())


def commit_seed(environment: Mapping[str, str] = os.environ) -> int:
    """A seed made from the commit that is tested: the CI's variable, else what git says, else 0."""
    commit = environment.get("GITHUB_SHA") or environment.get("CI_COMMIT_SHA") or _git_head()
    return int.from_bytes(hashlib.sha256(commit.encode()).digest()[:4], "big") if commit else 0


def _git_head() -> str:
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""  # no git, so no commit: the seed is 0 and is printed as such
    return found.stdout.strip() if found.returncode == 0 else ""
