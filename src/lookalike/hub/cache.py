"""Models on this machine: the cache of lookalike, and that of other tools, which is only read.

A model's folder ``hub/OWNER/NAME`` in the cache holds ``model.json``, which says the commit of each
revision that was opened and what is known of the files of each commit, absent ones too, and the
files below ``COMMIT/files``. A file stands there only once it is whole and verified; before that
its bytes are in ``COMMIT/incomplete``.

The cache of other tools has folders ``models--OWNER--NAME`` with ``refs/REVISION``, which holds a
commit, and links ``snapshots/COMMIT/PATH`` to ``blobs/SUM``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lookalike.artifacts import sole_writer, write_atomically
from lookalike.config import hub_settings, settings
from lookalike.documents import Fields, read_json
from lookalike.errors import ArtifactError, BusyError, StorageError
from lookalike.files import read_regular
from lookalike.formatting import printable
from lookalike.hub.names import check_path, is_commit
from lookalike.transfer.storage import cache_error, check_space
from lookalike.transfer.sums import RemoteFile, mismatch

log = logging.getLogger(__name__)

_FORMAT = 1
"""Format version of model.json. One of another version is not used, and replaced."""

_LOCK_WAIT_S = 4 * 3600
"""Seconds to wait for another process that downloads files of the same model."""

_RECORD_WAIT_S = 20
_MAX_SIZE = 1 << 50


@dataclass(slots=True)
class CommitRecord:
    """What is known of one commit of a model: its license and files, None for absent ones."""

    license: str | None = None
    files: dict[str, RemoteFile | None] = field(default_factory=dict)


@dataclass(slots=True)
class ModelRecord:
    """What ``model.json`` holds."""

    revisions: dict[str, str] = field(default_factory=dict)
    commits: dict[str, CommitRecord] = field(default_factory=dict)


class ModelCache:
    """The folder of a model in the cache."""

    def __init__(self, repo: str) -> None:
        self._repo = repo
        self.folder = settings().data / "hub" / repo

    def path(self, commit: str, path: str) -> Path:
        """Return where a file is or will be."""
        return self.folder / commit / "files" / check_path(path, self._repo)

    def files(self, commit: str) -> dict[str, Path]:
        """Return the files of a commit that are there, by path."""
        return _files_below(self.folder / commit / "files")

    def incomplete(self, commit: str, path: str) -> Path:
        """Return where the bytes of a file are until it is whole."""
        name = hashlib.sha256(path.encode()).hexdigest()[:32]
        return self.folder / commit / "incomplete" / name

    def has(self, commit: str, path: str, file: RemoteFile) -> bool:
        """Return whether a file is there; a damaged one is deleted."""
        place = self.path(commit, path)
        if not place.is_file():
            return False
        if not (problem := _damage(place, file)):
            return True
        log.warning("%s: damaged (%s); deleted, to be downloaded again", place, problem)
        with contextlib.suppress(OSError):
            place.unlink()
        return False

    def record(self) -> ModelRecord:
        """Return what is known of the model; nothing if it cannot be read."""
        path = self.folder / "model.json"
        try:
            return _parse_record(read_json(path, follow=False), path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except ArtifactError as error:
            log.warning("not used, and replaced: %s", error)
        return ModelRecord()

    def update(self, change: Callable[[ModelRecord], None]) -> None:
        """Change what is known of the model; nothing happens if it cannot be written."""
        try:
            with self._lock("record.lock", wait=_RECORD_WAIT_S):
                record = self.record()
                change(record)
                write_atomically(self.folder / "model.json", _record_bytes(record))
        except StorageError as error:
            log.info("the hub will be asked again the next time: %s", error)

    @contextlib.contextmanager
    def downloading(self) -> Iterator[None]:
        """Be the only one who downloads files of the model; wait for others.

        Raises:
            StorageError: the cache cannot be written.
            BusyError: another process has been downloading for hours.
        """
        with self._lock("download.lock", wait=_LOCK_WAIT_S):
            yield

    @contextlib.contextmanager
    def _lock(self, name: str, *, wait: float) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cache_error(self.folder, error) from error
        path, what = self.folder / name, f"the cache of hub:{self._repo}"
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(sole_writer(path, what=what, wait=wait))
            except BusyError:
                raise
            except StorageError as error:
                cause = error.__cause__
                raise cache_error(path, cause if isinstance(cause, OSError) else "") from error
            yield

    def check_space(self, size: int) -> None:
        """Check that files of so many bytes fit on the disk.

        Raises:
            StorageError: they do not.
        """
        check_space(self.folder, size)


def _files_below(folder: Path) -> dict[str, Path]:
    places = folder.rglob("*") if folder.is_dir() else ()
    return {place.relative_to(folder).as_posix(): place for place in places if place.is_file()}


def _damage(path: Path, file: RemoteFile) -> str:
    """Return what is wrong with the bytes of a file; empty if nothing is."""
    try:
        return mismatch(path, file)
    except OSError as error:
        return error.strerror or str(error)


def _record_bytes(record: ModelRecord) -> bytes:
    return (json.dumps({"format": _FORMAT, **asdict(record)}, indent=1) + "\n").encode()


def _parse_record(values: Any, path: Path) -> ModelRecord:
    """Return the content of ``model.json``.

    Raises:
        ArtifactError: it is none of this version.
    """
    fields = Fields.of(values, str(path))
    fields.integer("format", _FORMAT, _FORMAT)
    revisions = fields.text_mapping("revisions")
    commits = fields.object("commits")
    if not all(map(is_commit, [*revisions.values(), *commits.values])):
        raise ArtifactError(f"{path}: names a commit that is none")
    return ModelRecord(revisions, {name: _commit(commits.object(name)) for name in commits.values})


def _commit(fields: Fields) -> CommitRecord:
    files = fields.object("files")
    return CommitRecord(
        fields.text("license") if fields.has("license") else None,
        {name: _file(files.object(name)) if files.has(name) else None for name in files.values},
    )


def _file(fields: Fields) -> RemoteFile:
    def sum_(name: str, digits: int) -> str | None:
        if not fields.has(name):
            return None
        if not re.fullmatch(f"[0-9a-f]{{{digits}}}", text := fields.text(name)):
            raise fields.invalid(name, f"{digits} hexadecimal digits")
        return text

    size = fields.integer("size", 0, _MAX_SIZE)
    return RemoteFile(size, sum_("sha256", 64), sum_("git_sha1", 40))


class OtherCache:
    """A model in the cache that other tools of the hub share; it is never written."""

    def __init__(self, repo: str) -> None:
        self._repo = repo
        self._folder = hub_settings().cache / f"models--{repo.replace('/', '--')}"

    def commit(self, revision: str) -> str | None:
        """Return the commit of a revision, if files of it are there."""
        commit = revision
        if not is_commit(revision):
            try:
                ref = read_regular(self._folder / "refs" / revision, limit=1000)
            except OSError:
                return None
            commit = ref.decode("utf-8", "replace").strip()
        return commit if is_commit(commit) and self._snapshot(commit).is_dir() else None

    def files(self, commit: str) -> dict[str, Path]:
        """Return the files of a commit that are there, by path."""
        return _files_below(self._snapshot(commit))

    def _snapshot(self, commit: str) -> Path:
        return self._folder / "snapshots" / commit

    def path(self, commit: str, path: str) -> Path:
        """Return where a file is, if it is there."""
        return self._snapshot(commit) / check_path(path, self._repo)

    def file(self, commit: str, path: str) -> RemoteFile | None:
        """Return a file that is there, with the sum that the name of its blob is."""
        place = self.path(commit, path)
        try:
            if not place.is_file():
                return None
            name = place.readlink().name if place.is_symlink() else ""
            return RemoteFile.of_sum(place.stat().st_size, name)
        except OSError:
            return None

    def is_absent(self, commit: str, path: str) -> bool:
        """Return whether another tool found out that a commit has no such file."""
        with contextlib.suppress(OSError):
            return (self._folder / ".no_exist" / commit / check_path(path, self._repo)).is_file()
        return False

    def has(self, commit: str, path: str, file: RemoteFile) -> bool:
        """Return whether a file is there; a damaged one is left to the tool that wrote it."""
        place = self.path(commit, path)
        if not place.is_file():
            return False
        if not (problem := _damage(place, file)):
            return True
        log.warning("%s: not used, since it is damaged (%s)", printable(str(place)), problem)
        return False
