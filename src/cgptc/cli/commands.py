"""Every command, registered by import."""

from __future__ import annotations

from cgptc.cli import compiling, doctor, inspecting, listing, new, running, verifying

COMMANDS = (compiling, doctor, inspecting, listing, new, running, verifying)
