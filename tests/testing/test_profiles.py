"""The profiles of property tests, and where their seed comes from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import settings

from cgptc.testing import plugin, profiles


def test_profiles_have_the_promised_number_of_examples() -> None:
    profiles.register_profiles()
    for name, count in (("dev", 50), ("ci", 200), ("soak", 5000)):
        profile = settings.get_profile(name)
        assert (profile.max_examples, profile.derandomize, profile.deadline) == (count, False, None)


def test_the_environment_decides_the_profile() -> None:
    assert profiles.default_profile({}) == "dev"
    assert profiles.default_profile({"CI": "true"}) == "ci"


def test_the_seed_follows_the_commit() -> None:
    first, second = profiles.commit_seed({"GITHUB_SHA": "abc"}), profiles.commit_seed({"GITHUB_SHA": "abd"})
    assert first != second
    assert first == profiles.commit_seed({"CI_COMMIT_SHA": "abc"})


class Options:
    """The options of pytest's configuration that the plugin reads."""

    def __init__(self, profile: str | None, seed: str | None) -> None:
        self.values = {"--hypothesis-profile": profile, "--hypothesis-seed": seed, "--seeded-bug": None}
        self.option = SimpleNamespace(hypothesis_seed=seed)

    def getoption(self, name: str) -> str | None:
        return self.values[name]


@pytest.mark.parametrize(
    ("environment", "profile", "seed", "expected"),
    [
        ({"CI": "1"}, None, None, "commit"),
        ({"CI": "1"}, None, "7", "7"),
        ({"CI": "1"}, "soak", None, None),
        ({}, "ci", None, "commit"),
        ({}, None, None, None),
    ],
)
def test_only_unseeded_ci_runs_are_seeded_by_the_commit(
    environment: dict[str, str], profile: str | None, seed: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("GITHUB_SHA", "abc")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = Options(profile, seed)
    plugin.pytest_configure(cast(pytest.Config, options))
    assert options.option.hypothesis_seed == (str(profiles.commit_seed()) if expected == "commit" else expected)


def test_the_header_names_profile_and_seed() -> None:
    assert plugin.pytest_report_header(cast(pytest.Config, Options(None, "7"))).endswith("--hypothesis-seed=7")
