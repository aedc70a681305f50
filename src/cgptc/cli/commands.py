"""Every command, registered by import."""

from __future__ import annotations

from cgptc.cli import doctor, inspect, listing, new, run

COMMANDS = (doctor, inspect, listing, new, run)
