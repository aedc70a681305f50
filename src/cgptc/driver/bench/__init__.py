"""Measuring a compiled model against the limits of the machine that it runs on."""
