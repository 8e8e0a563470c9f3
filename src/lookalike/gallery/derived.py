"""Files that are derived from a gallery and saved in its folder: its map, its last evaluation, ….

Each records the state of the gallery that it was computed from, and is stale once that has changed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import write_atomically
from lookalike.errors import ArtifactError, FormatVersionError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.state import GalleryState

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a derived file is from.

    Args:
        state: of the gallery, when the file was computed.
        created_at: the time, in UTC, ISO 8601.
        changes: what happened to the gallery since, for people; empty if nothing did.
    """

    state: GalleryState
    created_at: str
    changes: str = ""

    @classmethod
    def now(cls, state: GalleryState) -> Origin:
        """Return the origin of what is computed from a state now."""
        return cls(state, datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def stale(self) -> bool:
        """Whether the gallery has changed since."""
        return bool(self.changes)


@dataclass(frozen=True, slots=True)
class DerivedFile:
    """A kind of derived file: a JSON document in a gallery's folder.

    Args:
        name: of the file.
        version: of its format.
        again: how to make it again; ``{gallery}`` is the gallery's name.
    """

    name: str
    version: int
    again: str

    def save(self, gallery: Gallery, origin: Origin, fields: Mapping[str, Any]) -> Path:
        """Write the file, completely or not at all; return its path.

        Raises:
            ArtifactError: the gallery is gone, or was replaced since the state of ``origin``.
            StorageError: it could not be written.
        """
        gallery.check_identity(origin.state.identity)
        document = {
            "format": self.version,
            "created_at": origin.created_at,
            "identity": origin.state.identity,
            "revision": origin.state.revision,
            **fields,
        }
        path = gallery.path / self.name
        write_atomically(path, json.dumps(document).encode(), parents=False)
        return path

    def load(self, gallery: Gallery, parse: Callable[[Mapping[str, Any], Origin], T]) -> T | None:
        """Return what ``parse`` makes of the document and its origin; None if there is no file.

        ``parse`` may raise ValueError, TypeError, LookupError or AttributeError.

        Raises:
            FormatVersionError: another version of lookalike wrote the file.
            ArtifactError: the file is damaged.
        """
        # The gallery's name and not its path: clients of the HTTP service read these messages too.
        folder = gallery.path.absolute().name
        place, again = f"{self.name} of {folder}", self.again.format(gallery=folder)
        try:
            document = json.loads((gallery.path / self.name).read_bytes())
            version = document.get("format", 1)
            if isinstance(version, int) and version != self.version:
                age = "an older" if version < self.version else "a newer"
                raise FormatVersionError(f"{place}: written by {age} lookalike; {again}")
            saved = GalleryState(document["identity"], document["revision"])
            changes = gallery.state.changes_since(saved)
            return parse(document, Origin(saved, str(document["created_at"]), changes))
        except FileNotFoundError:
            return None
        except (
            *(OSError, ValueError, TypeError, LookupError, AttributeError),
            RecursionError,
        ) as error:
            raise ArtifactError(f"{place}: damaged ({type(error).__name__}); {again}") from error


def encode_array(values: NDArray[Any]) -> str:
    """Return the numbers of an array as base64, in the order and byte order of its memory."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def decode_array(text: str, dtype: str) -> NDArray[Any]:
    """Return the array ``(n,)`` that :func:`encode_array` wrote, of a type such as ``<f4``."""
    return np.frombuffer(base64.b64decode(text), dtype)
