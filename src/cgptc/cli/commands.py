"""Every command, registered by import."""

from __future__ import annotations

from cgptc.cli import checking, compiling, demo, doctor, evaluating, inspecting, listing, new, optimising, running, verifying

COMMANDS = (checking, compiling, demo, doctor, evaluating, inspecting, listing, new, optimising, running, verifying)
