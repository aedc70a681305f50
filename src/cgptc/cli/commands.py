"""Every command, registered by import."""

from __future__ import annotations

from cgptc.cli import (
    benching,
    checking,
    compiling,
    demo,
    differing,
    doctor,
    evaluating,
    inspecting,
    listing,
    new,
    optimising,
    planning,
    replaying,
    reporting,
    running,
    verifying,
)

COMMANDS = (
    benching,
    checking,
    compiling,
    demo,
    differing,
    doctor,
    evaluating,
    inspecting,
    listing,
    new,
    optimising,
    planning,
    replaying,
    reporting,
    running,
    verifying,
)
