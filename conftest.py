"""Loads the project's Hypothesis profiles for every test."""

import gc

pytest_plugins = ["cgptc.testing.plugin"]


def pytest_collection_finish() -> None:
    """What is there when the first test begins stays, PyTorch's million objects above all: no collection of garbage need walk it again."""
    if not gc.get_freeze_count():
        gc.freeze()
