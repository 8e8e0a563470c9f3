"""The version of lookalike, which every module may import."""

__version__ = "0.1.0"
