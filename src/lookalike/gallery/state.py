"""The state of a gallery: which one it is, and its last commit. The key of everything derived."""

from __future__ import annotations

from dataclasses import dataclass

from lookalike.formatting import format_count
from lookalike.stores.base import RowReader, revision_number


@dataclass(frozen=True, slots=True)
class GalleryState:
    """What a gallery contains, as two texts: all that is computed from it is valid for one state.

    Args:
        identity: of the gallery: no other one has it, nor a later one at the same place.
        revision: changes with every commit to its rows: images, metadata or labels.
    """

    identity: str
    revision: str

    @classmethod
    def of(cls, store: RowReader) -> GalleryState:
        """Return the state of a store.

        Raises:
            ReplacedError: another store was put in its place.
            ArtifactError: it is missing or broken.
        """
        revision = store.revision  # may give an identity to a store of an older format
        return cls(store.identity, revision)

    def changes_since(self, earlier: GalleryState) -> str:
        """Return what happened since an earlier state, for people; empty if nothing did."""
        if self == earlier:
            return ""
        if self.identity != earlier.identity:
            return "another gallery"
        commits = revision_number(self.revision) - revision_number(earlier.revision)
        return format_count(commits, "commit") if commits > 0 else "changed"
