"""Numbers as people read them: counts with their nouns, distances; without numpy."""

from __future__ import annotations


def format_count(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: "1 row", "1,200 rows"; ``plural`` where no s is added."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def format_distance(distance: float) -> str:
    """Return a distance for people: four decimals, and no minus sign before zero.

    The distance of an image to itself is zero only up to rounding, such as -2e-15. JSON and CSV
    have the unrounded distance.
    """
    return f"{distance:z.4f}"
