"""Every command, by the module that declares it. Importing a module registers its command, in this order."""

from __future__ import annotations

from importlib import import_module

MODULES = (
    "benching",
    "checking",
    "compiling",
    "demo",
    "differing",
    "doctor",
    "evaluating",
    "inspecting",
    "listing",
    "new",
    "optimising",
    "planning",
    "replaying",
    "reporting",
    "running",
    "verifying",
)


def register() -> None:
    """Give the application every command."""
    for name in MODULES:
        import_module(f"cgptc.cli.{name}")
