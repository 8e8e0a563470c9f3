"""A collection seen whole: its duplicates, its map, its clusters and what fits nowhere."""

from lookalike.explore.duplicates import RULES, Duplicate, Duplicates, Group, duplicates

__all__ = ["RULES", "Duplicate", "Duplicates", "Group", "duplicates"]
