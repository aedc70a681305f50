"""A pytest plugin that loads cgptc's Hypothesis profiles: ``pytest_plugins = ["cgptc.testing.plugin"]`` in a root ``conftest.py``.

``--hypothesis-profile=soak`` and ``--hypothesis-seed`` work as ever; the seed of profile ``ci`` comes from the commit and is printed.
``--seeded-bug=NAME`` runs with one of `cgptc.testing.seeded_bugs` in place, which some test must notice.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import settings

from cgptc.testing.profiles import commit_seed, default_profile, load_default_profile

load_default_profile()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that applies a seeded bug."""
    parser.addoption("--seeded-bug", metavar="NAME", help="run with a bug of cgptc.testing.seeded_bugs in place")


def _apply_bug(config: pytest.Config, name: str) -> None:
    from cgptc.testing.seeded_bugs import SEEDED_BUGS

    if name not in SEEDED_BUGS:
        raise pytest.UsageError(f"no seeded bug is named '{name}': python -m cgptc.testing.seeded_bugs lists them")
    bug = ExitStack()
    bug.enter_context(SEEDED_BUGS[name].applied())
    config.add_cleanup(bug.close)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Seed profile ``ci`` from the commit unless a seed was given, before Hypothesis's own plugin reads its options."""
    profile = config.getoption("--hypothesis-profile") or default_profile()
    if profile == "ci" and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(commit_seed())
    if name := config.getoption("--seeded-bug"):
        _apply_bug(config, name)


def pytest_report_header(config: pytest.Config) -> str:
    """The profile and its seed, to repeat the run with."""
    seed = config.getoption("--hypothesis-seed")
    return f"cgptc: hypothesis profile {settings.get_current_profile_name()}, --hypothesis-seed={'random' if seed is None else seed}"
