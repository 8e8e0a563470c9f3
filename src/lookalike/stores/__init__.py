"""Vector stores: rows with an embedding and metadata, and their search.

``base`` is the interface; ``memory``, ``embedded`` and ``milvus`` implement it, ``snapshots`` has
what they share; ``exact`` is exact nearest-neighbor search in memory and over mapped files:
``quantized`` scores rows in 8 bits, ``candidates`` keeps those that may be among the nearest.
``addresses`` are those of stores outside a gallery's folder, ``registry`` finds their stores, also
those of other packages. ``lance_tables`` reads the rows of galleries of older formats. Stores know
nothing of images.
"""

from lookalike.stores.base import Record, RowReader, Rows, VectorStore

__all__ = ["Record", "RowReader", "Rows", "VectorStore"]
