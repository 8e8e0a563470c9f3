"""Where images come from: folders, manifests, shards, IDX pairs, data sets; sequences of items."""

from lookalike.sources.arrays import DATASET_PREFIX, ArraySource
from lookalike.sources.base import Item, ItemSource, Source
from lookalike.sources.folder import FolderSource
from lookalike.sources.manifest import ManifestSource
from lookalike.sources.opening import open_items, open_source
from lookalike.sources.shards import ShardSource

__all__ = [
    "DATASET_PREFIX",
    "ArraySource",
    "FolderSource",
    "Item",
    "ItemSource",
    "ManifestSource",
    "ShardSource",
    "Source",
    "open_items",
    "open_source",
]
