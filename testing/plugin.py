"""A pytest plugin that loads cgptc's Hypothesis profiles: ``pytest_plugins = ["cgptc.testing.plugin"]`` in a root ``conftest.py``.

``--hypothesis-profile=soak`` and ``--hypothesis-seed`` work as ever; the seed of profile ``ci`` comes from the commit and is printed.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

from cgptc.testing.profiles import commit_seed, default_profile, load_default_profile

load_default_profile()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Seed profile ``ci`` from the commit unless a seed was given, before Hypothesis's own plugin reads its options."""
    profile = config.getoption("--hypothesis-profile") or default_profile()
    if profile == "ci" and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(commit_seed())


def pytest_report_header(config: pytest.Config) -> str:
    """The profile and its seed, to repeat the run with."""
    seed = config.getoption("--hypothesis-seed")
    return f"cgptc: hypothesis profile {settings.get_current_profile_name()}, --hypothesis-seed={'random' if seed is None else seed}"
