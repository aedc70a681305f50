"""Colours of the report: stages in turn, and amounts from light to dark."""

from __future__ import annotations

import colorsys


def stage_colour(stage: int) -> str:
    """A light colour for a stage; neighbours differ, and dark text can be read on all."""
    hue = (0.58 + stage * 0.381966) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.80 if stage % 2 else 0.72, 0.55)
    return _hex(red, green, blue)


def heat_colour(share: float) -> str:
    """From pale yellow (0) to dark red (1)."""
    red, green, blue = heat(share)
    return _hex(red, green, blue)


def heat(share: float) -> tuple[float, float, float]:
    """The same as numbers between 0 and 1."""
    amount = min(max(share, 0.0), 1.0)
    points = ((1.0, 0.97, 0.86), (0.99, 0.78, 0.42), (0.90, 0.36, 0.20), (0.48, 0.05, 0.12))
    place = amount * (len(points) - 1)
    low = min(int(place), len(points) - 2)
    part = place - low
    first, second = points[low], points[low + 1]
    return (
        first[0] + (second[0] - first[0]) * part,
        first[1] + (second[1] - first[1]) * part,
        first[2] + (second[2] - first[2]) * part,
    )


def text_on_heat(share: float) -> str:
    """A colour of text that can be read on `heat_colour`."""
    return "#fff" if share > 0.55 else "#222"


def _hex(*channels: float) -> str:
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in channels)
