"""An encoder and a store for lookalike."""

from lookalike_example.encoder import ColorGrid
from lookalike_example.store import SqliteStore

__all__ = ["ColorGrid", "SqliteStore"]
