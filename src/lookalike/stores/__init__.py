"""Vector stores: rows with an embedding and metadata, and their search.

``base`` is the interface; ``memory``, ``lance`` and ``milvus`` implement it; ``exact`` is exact
nearest-neighbor search in memory, with ``quantized`` rows for speed. Stores know nothing of images.
"""

from lookalike.stores.base import Record, RowReader, Rows, VectorStore

__all__ = ["Record", "RowReader", "Rows", "VectorStore"]
