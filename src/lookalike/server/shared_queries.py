"""Query images that are kept for some days, so that a link to their results works for others.

Each is a file of a folder, which several processes may share. Its name is the ID, of a random part
that nobody can guess and the time until which it is kept, and a digest of its gallery's name. What
a client sends never becomes part of a path unless it is such an ID.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Self

from lookalike.config import settings as machine
from lookalike.errors import ImageError, SettingError, StorageError
from lookalike.files import open_regular
from lookalike.formatting import printable
from lookalike.images.decode import decode
from lookalike.images.formats import HEADER_BYTES, detect_format
from lookalike.images.metadata_stripping import open_parts, strip_metadata
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from lookalike.server.settings import ServeSettings

_ID = re.compile(r"([0-9a-f]{8})-[0-9a-f]{32}")
_FILE = re.compile(rf"({_ID.pattern})\.[0-9a-f]{{16}}")
_NEW = ".new"
"""Suffix of a file that is being written."""

_ABANDONED_S = 3_600
"""Age of such a file that nobody writes any more."""

_DAY_S = 86_400
_LATEST = 0xFFFF_FFFF
"""The last time that an ID can have, in 2106."""

SHARING_DISABLED = (
    "queries are not shared here: search with the image itself, or start the service with: "
    "lookalike serve GALLERY --share-queries 30"
)
"""What to do where no queries are stored."""


class UnknownQueryError(ImageError):
    """There is no shared query with an ID, or not any more."""


class ExpiredQueryError(ImageError):
    """The time of a shared query is over."""


@dataclass(frozen=True, slots=True)
class StoredQuery:
    """A query image that was stored: its ID, and until when it is kept, in seconds since 1970."""

    id: str
    expires: int

    @property
    def expires_at(self) -> str:
        """Until when it is kept, as ISO 8601 in UTC."""
        return datetime.fromtimestamp(self.expires, UTC).isoformat()


@dataclass(frozen=True, slots=True)
class SharedImage:
    """A shared query as the image of an example, which is read when it is needed."""

    queries: SharedQueries
    gallery: str
    id: str
    uri: str | None = None
    item_id: str | None = None
    field: ClassVar = "shared"
    """What it is called in a request."""

    @property
    def name(self) -> str:
        """Names it in results and messages."""
        return f"shared query {self.id}"

    def image(self, *, full_size: bool = False) -> ImageArray:
        """Return it decoded, ``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            ImageError: there is none, or not any more.
        """
        return decode(self.file_bytes(), name=self.name, full_size=full_size)

    def file_bytes(self) -> bytes:
        """Return its file.

        Raises:
            ImageError: there is none, or not any more.
        """
        with self.queries.open(self.gallery, self.id) as file:
            return file.read()


class SharedQueries:
    """The folder of shared queries.

    Nothing else in it is read, changed or removed. Its files are those of the owner only.

    Args:
        folder: made if it does not exist.
        days: how long an image is kept.
        max_images: images of all galleries; the oldest one goes when there is one more.
        max_bytes: their size together.

    Raises:
        SettingError: the folder cannot be written.
    """

    def __init__(self, folder: Path, days: float, max_images: int, max_bytes: int) -> None:
        self.days = days
        self._folder = folder
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._adding = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.remove_expired()
            with self._new_file():
                pass
        except OSError as error:
            raise SettingError(
                f"{{share_folder}} cannot be written ({error.strerror or error})",
                share_folder=printable(str(folder)),
            ) from error

    @classmethod
    def of(cls, settings: ServeSettings) -> Self | None:
        """Return the shared queries of a service; None if it stores none.

        Raises:
            SettingError: the folder cannot be written.
        """
        if not settings.share_days:
            return None
        folder = settings.share_folder or machine().data / "shared-queries"
        limits = settings.limits
        return cls(folder, settings.share_days, limits.shared_images, limits.shared_bytes)

    def add(self, gallery: str, image: bytes) -> StoredQuery:
        """Store an image of a gallery; expired ones, and the oldest if there are too many, go.

        Raises:
            StorageError: it cannot be written.
        """
        expires = min(int(time.time() + self.days * _DAY_S), _LATEST)
        query = StoredQuery(f"{expires:08x}-{secrets.token_hex(16)}", expires)
        try:
            with self._adding:
                self._make_room(len(image))
                with self._new_file() as new:
                    new.write_bytes(image)
                    new.replace(self._path(gallery, query.id))
        except OSError as error:
            reason = error.strerror or error
            raise StorageError(f"the image cannot be stored ({reason})") from error
        return query

    def open(self, gallery: str, query_id: str) -> BinaryIO:
        """Open the image of a shared query.

        Raises:
            UnknownQueryError: there is none with this ID in this gallery.
            ExpiredQueryError: its time is over.
        """
        match = _ID.fullmatch(query_id)
        if match is None:
            raise UnknownQueryError(
                f"{query_id[:80]!r} is no ID of a shared query; is the link complete?"
            )
        if int(match[1], 16) <= time.time():
            raise ExpiredQueryError(
                f"the image of this link was stored for {self.days:g} days, which are over; "
                "search with the image again"
            )
        try:
            return open_regular(self._path(gallery, query_id), follow=False)
        except OSError:
            raise UnknownQueryError(
                "no image is stored under this ID; it may have made room for others: search with "
                "the image again"
            ) from None

    def open_image(self, gallery: str, query_id: str) -> tuple[str, BinaryIO]:
        """Return the media type and the open file of a shared query; errors as :meth:`open`."""
        file = self.open(gallery, query_id)
        kind = detect_format(file.read(HEADER_BYTES))
        file.seek(0)
        return "application/octet-stream" if kind is None else kind.media_type, file

    def remove_expired(self) -> None:
        """Remove the images whose time is over, and what was never written to its end."""
        self._make_room(None)

    def _make_room(self, size: int | None) -> None:
        """Remove what has expired, and the oldest images if one more, of a size, has no room.

        Raises:
            OSError: the folder cannot be read, or the image is larger than all together may be.
        """
        now, rest = time.time(), list[tuple[str, float, int, Path]]()
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another process has removed it
                    match = _FILE.fullmatch(entry.name)
                    status = entry.stat(follow_symlinks=False)
                    is_new = entry.name.endswith(_NEW) and _FILE.fullmatch(entry.name[: -len(_NEW)])
                    path = self._folder / entry.name
                    is_abandoned = is_new and status.st_mtime < now - _ABANDONED_S
                    if is_abandoned or (match and int(match[2], 16) <= now):
                        path.unlink()
                    elif match:
                        rest.append((match[2], status.st_mtime, status.st_size, path))
        if size is None:
            return
        if size > self._max_bytes:
            raise OSError("it is larger than all shared queries together may be")
        held = sum(each[2] for each in rest)
        rest.sort(reverse=True)
        while rest and (len(rest) >= self._max_images or held + size > self._max_bytes):
            *_, oldest_size, path = rest.pop()
            held -= oldest_size
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _new_file(self) -> Iterator[Path]:
        """Yield an empty file, which is removed unless it was renamed."""
        path = self._path("", f"{0:08x}-{secrets.token_hex(16)}")
        path = path.with_name(path.name + _NEW)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _path(self, gallery: str, query_id: str) -> Path:
        digest = hashlib.blake2b(gallery.encode(), digest_size=8).hexdigest()
        return self._folder / f"{query_id}.{digest}"


def without_metadata(image: bytes) -> bytes | None:
    """Return the file of an image without EXIF, GPS and comments.

    None if browsers do not show it, or its metadata cannot be told from the image.
    """
    kind = detect_format(image)
    if kind is None or not kind.web:
        return None
    file = io.BytesIO(image)
    parts = strip_metadata(file, kind.name)
    if parts is None:
        return None
    with open_parts(file, parts) as stripped:
        return stripped.read()
