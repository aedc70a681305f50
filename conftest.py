"""Loads the project's Hypothesis profiles for every test."""

pytest_plugins = ["cgptc.testing.plugin"]
