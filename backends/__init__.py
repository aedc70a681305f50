"""Targets: a backend is a folder."""
