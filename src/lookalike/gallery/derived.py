"""Files that are derived from a gallery and saved in its folder: its map, its last evaluation, ….

Each records the state of the gallery that it was computed from, and is stale once that has changed.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import with_checksum, write_atomically
from lookalike.documents import LARGE, Fields, read_json
from lookalike.errors import ArtifactError, FormatVersionError
from lookalike.gallery.state import GalleryState

if TYPE_CHECKING:
    from lookalike.gallery.gallery import Gallery

EVALUATION, LABELING, MAP = "evaluation.json", "labeling.json", "map.json"
"""Names of all derived files."""


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saved:
    """What was computed from a gallery and is saved in it; maps, evaluations, … extend it.

    ``origin``: the state of the gallery that it was computed from, and what changed since.
    """

    origin: Origin

    @property
    def created_at(self) -> str:
        """When it was computed, in UTC, ISO 8601."""
        return self.origin.created_at

    @property
    def revision(self) -> str:
        """The revision of the gallery that it was computed from."""
        return self.origin.state.revision

    @property
    def stale(self) -> bool:
        """Whether the gallery has changed since."""
        return self.origin.stale

    @property
    def changes(self) -> str:
        """What happened to the gallery since, for people; empty if nothing did."""
        return self.origin.changes


S = TypeVar("S", bound=Saved)


@dataclass(frozen=True, slots=True)
class DerivedFile(Generic[S]):
    """A kind of derived file: a JSON document in a gallery's folder.

    Args:
        name: of the file.
        version: of its format.
        again: how to make it again; ``{gallery}`` is the gallery's name.
        encode: returns the fields of the document, without those of its origin.
        decode: returns what is in a document; what it finds wrong with a field it raises as
            ArtifactError or ValueError.
    """

    name: str
    version: int
    again: str
    encode: Callable[[S], Mapping[str, Any]]
    decode: Callable[[Fields, Origin], S]

    def document(self, value: S) -> dict[str, Any]:
        """Return the document of a value, with its origin."""
        origin = value.origin
        return {
            "format": self.version,
            "created_at": origin.created_at,
            "identity": origin.state.identity,
            "revision": origin.state.revision,
            **self.encode(value),
        }

    def save(self, gallery: Gallery, value: S) -> Path:
        """Write the file, completely or not at all; return its path.

        Raises:
            ArtifactError: the gallery is gone, or was replaced since the value was computed.
            StorageError: it could not be written.
        """
        gallery.check_identity(value.origin.state.identity)
        document = self.document(value)
        path = gallery.path / self.name
        write_atomically(path, json.dumps(with_checksum(document)).encode(), parents=False)
        return path

    def load(self, gallery: Gallery) -> S | None:
        """Return what is saved in a gallery; None if there is no file.

        Raises:
            FormatVersionError: another version of lookalike wrote the file.
            ArtifactError: the file is damaged.
        """
        # The gallery's name and not its path: clients of the HTTP service read these messages too.
        folder = gallery.path.absolute().name
        place, again = f"{self.name} of {folder}", self.again.format(gallery=folder)
        path = gallery.path / self.name
        try:
            document = read_json(path, place=place, hint=again, limit=LARGE, follow=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        fields = Fields.of(document, place, hint=again)
        version = fields.integer("format", 1, 1 << 62, 1)
        if version != self.version:
            age = "an older" if version < self.version else "a newer"
            raise FormatVersionError(f"{place}: written by {age} lookalike; {again}")
        saved = GalleryState(fields.text("identity"), fields.text("revision"))
        created_at = fields.text("created_at")
        try:
            datetime.fromisoformat(created_at)
            origin = Origin(saved, created_at, gallery.state.changes_since(saved))
            return self.decode(fields, origin)
        except ValueError as error:
            reason = " ".join(str(error).split())[:100]
            raise ArtifactError(f"{place}: damaged ({reason}); {again}") from error


def delete_outdated(folder: Path, state: GalleryState) -> None:
    """Delete the derived files of another state: they have ids and metadata of rows of then.

    Args:
        folder: of the gallery.
        state: its state now.
    """
    for path in (folder / name for name in (EVALUATION, LABELING, MAP)):
        try:
            document = read_json(path, limit=LARGE, follow=False)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ArtifactError:  # damaged, but who knows what is left in it
            document = {}
        fields = document if isinstance(document, dict) else {}
        if (fields.get("identity"), fields.get("revision")) != (state.identity, state.revision):
            with contextlib.suppress(OSError):
                path.unlink()


def keep_current(folder: Path, before: GalleryState, now: GalleryState) -> None:
    """Let derived files of one state be of the next, which has the same rows.

    Args:
        folder: of the gallery.
        before: a state.
        now: the state that only its files differ by.

    Raises:
        StorageError: one cannot be written.
    """
    if before == now:
        return
    for path in (folder / name for name in (EVALUATION, LABELING, MAP)):
        try:
            document = read_json(path, limit=LARGE, follow=False)
        except (OSError, ArtifactError):  # there is none, or it is damaged
            continue
        fields = document if isinstance(document, dict) else {}
        if (fields.get("identity"), fields.get("revision")) == (before.identity, before.revision):
            current = with_checksum({**fields, "revision": now.revision})
            write_atomically(path, json.dumps(current).encode(), parents=False)


def encode_array(values: NDArray[Any]) -> str:
    """Return the numbers of an array as base64, in the order and byte order of its memory."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def decode_array(
    fields: Fields, name: str, dtype: str, *, count: int, below: int | None = None
) -> NDArray[Any]:
    """Return the array that :func:`encode_array` wrote into a field.

    Args:
        fields: of the document.
        name: of the field.
        dtype: such as ``<f4``.
        count: of its numbers; the result is ``(count,)``.
        below: the numbers are smaller than this; floating-point ones are finite in any case.

    Raises:
        ArtifactError: it is not such an array.
    """
    try:
        values = np.frombuffer(base64.b64decode(fields.text(name), validate=True), dtype)
    except ValueError:
        raise fields.invalid(name, "an array in base64") from None
    if len(values) != count:
        raise fields.invalid(name, f"an array of {count:,} numbers")
    if below is not None and count and values.max() >= below:
        raise fields.invalid(name, f"an array of numbers below {below:,}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise fields.invalid(name, "an array of finite numbers")
    return values
