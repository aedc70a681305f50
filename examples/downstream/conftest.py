"""Hypothesis profiles of cgptc: 50 examples of each property here, 200 in CI, 5,000 with ``--hypothesis-profile=soak``."""

pytest_plugins = ["cgptc.testing.plugin"]
