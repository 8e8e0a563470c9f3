"""Sources of images, as sequences of items.

``open_source`` opens a folder, a manifest (CSV, JSON Lines or Parquet with paths or URLs), tar or
Parquet shards, an IDX pair or ``dataset:NAME/SPLIT``; ``open_items`` opens single items by URI.
Each kind has a module: ``folder``, ``manifest``, ``shards``, ``arrays``. ``base`` defines the
interface, ``options`` what is taken, ``skipping`` counts what is not; ``inputs`` reads the images
that users pass, ``tables`` reads tables, ``urls`` downloads images, ``sampling`` reads evenly
spaced samples in threads.
"""

from lookalike.sources.arrays import DATASET_PREFIX, ArraySource
from lookalike.sources.base import Item, ItemSource, Source
from lookalike.sources.folder import FolderSource
from lookalike.sources.manifest import ManifestSource
from lookalike.sources.opening import open_items, open_source
from lookalike.sources.options import SourceOptions
from lookalike.sources.shards import ShardSource
from lookalike.sources.skipping import Skipped

__all__ = [
    "DATASET_PREFIX",
    "ArraySource",
    "FolderSource",
    "Item",
    "ItemSource",
    "ManifestSource",
    "ShardSource",
    "Skipped",
    "Source",
    "SourceOptions",
    "open_items",
    "open_source",
]
