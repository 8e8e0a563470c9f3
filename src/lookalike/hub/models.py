"""Models of the hub, at one commit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from lookalike.config import hub_settings
from lookalike.errors import ArtifactError, FetchError
from lookalike.files import read_regular
from lookalike.hub.cache import CommitRecord, ModelCache, ModelRecord, OtherCache
from lookalike.hub.client import HubClient, MissingRevisionError
from lookalike.hub.model_card import license_of
from lookalike.hub.names import check_path, check_repo, check_revision
from lookalike.progress import current_progress, notice
from lookalike.transfer.partial import PartialFile
from lookalike.transfer.sums import RemoteFile
from lookalike.types import Progress, ignore_progress

log = logging.getLogger(__name__)

_CARD = "README.md"
_PROBES = (_CARD, "config.json")
"""Files by which the commit of a revision is found out."""

_LARGEST_READ = 200_000_000
_LARGEST_CARD = 10_000_000
_SILENT_BYTES = 1_000_000
"""Downloads of up to so many bytes are not shown."""


def open_model(repo: str, revision: str = "main") -> HubModel:
    """Return a model of the hub, at the commit that a revision is.

    The commit is found out once: from then on the same name opens the same commit, without a
    request. To get a newer one, name its commit or delete the model's folder ``hub/OWNER/NAME`` in
    the cache.

    Args:
        repo: OWNER/NAME.
        revision: a branch, a tag or a commit.

    Raises:
        InputError: the name or revision can be none of the hub.
        FetchError: there is no such model or revision, it may not be read, or the hub does not
            answer; the message says what to do.
        StorageError: the cache cannot be written.
    """
    return HubModel(check_repo(repo), check_revision(revision))


class HubModel:
    """A model of the hub at one commit; see :func:`open_model`.

    Attributes:
        repo: OWNER/NAME.
        revision: the branch, tag or commit that it was opened by.
        commit: 40 hexadecimal digits.
        license: as its model card states it, such as ``apache-2.0``; empty if that is unknown.
        hint: ends a message about an absent file: that it may be absent only since the hub may
            not be asked. Empty unless :meth:`find` would have asked.
    """

    def __init__(self, repo: str, revision: str) -> None:
        self.repo = repo
        self.revision = revision
        self.hint = ""
        self._cache = ModelCache(repo)
        self._other = OtherCache(repo)
        self._record = self._cache.record()
        self._opened_client: HubClient | None = None
        self.commit = self._find_commit()
        self.license = self._find_license()

    def __repr__(self) -> str:
        return f"HubModel({self.repo!r}, revision={self.revision!r}, commit={self.commit!r})"

    def find(self, path: str) -> RemoteFile | None:
        """Return the size and sum of a file, None if the model has no such file.

        The hub is asked once; offline, a file that nothing is known of counts as absent (see
        :attr:`hint`).

        Raises:
            FetchError: the hub does not answer or refuses.
            ArtifactError: no file can have that path.
        """
        check_path(path, self.repo)
        known = self._known.files
        if path in known:
            return known[path]
        file = self._other.file(self.commit, path)
        if file is not None or self._other.is_absent(self.commit, path):
            if file is None or file.has_sum:
                self._remember(path, file)
            return file
        if offline := hub_settings().offline:
            self.hint = f" ({offline}: the hub was not asked; only its cached files are used)"
            return None
        try:
            description = self._client().describe(self.commit, path)
        except MissingRevisionError as error:
            raise FetchError(
                f"hub:{self.repo}: commit {self.commit[:12]}, which {self.revision} was once, is "
                f"not there any more; to open the newest, delete {self._cache.folder}"
            ) from error
        if description is None:
            return None
        self._remember(path, description.file)
        return description.file

    def read(self, path: str) -> bytes:
        """Return the verified bytes of a file, which is cached.

        Raises:
            FetchError: it is not there, is larger than 200 MB, or cannot be fetched.
            StorageError: the cache cannot be written.
        """
        file = self.find(path)
        if file is not None and file.size > _LARGEST_READ:
            raise FetchError(
                f"hub:{self.repo}: {path} has {file.size / 1e6:,.0f} MB, which is too large"
            )
        place = self.fetch([path])[path]
        try:
            return read_regular(place, limit=_LARGEST_READ)
        except OSError as error:
            raise ArtifactError(f"{place}: cannot be read ({error.strerror})") from error

    def fetch(self, paths: Sequence[str]) -> dict[str, Path]:
        """Return where files are on this machine, each verified; download those that are not here.

        Before a download of over 1 MB its size and license are said (:func:`lookalike.notice`);
        its progress goes to :func:`lookalike.progress.current_progress`. Of processes that fetch
        the same model one downloads, and the others wait.

        Raises:
            FetchError: a file is not there, cannot be downloaded or has a wrong sum.
            StorageError: the cache cannot be written.
        """
        files = {path: self._existing(path) for path in dict.fromkeys(paths)}
        places = {path: self._place(path, file) for path, file in files.items()}
        missing = {path: file for path, file in files.items() if places[path] is None}
        if missing:
            places |= self._download(missing)
        return {path: place for path in files if (place := places[path]) is not None}

    def _existing(self, path: str) -> RemoteFile:
        file = self.find(path)
        if file is None:
            raise FetchError(
                f"hub:{self.repo}: has no file {path} at commit {self.commit[:12]}{self.hint}"
            )
        return file

    def _place(self, path: str, file: RemoteFile) -> Path | None:
        """Return where a file is on this machine, None if it is not."""
        if self._cache.has(self.commit, path, file):
            return self._cache.path(self.commit, path)
        if self._other.has(self.commit, path, file):
            return self._other.path(self.commit, path)
        return None

    def _download(self, files: dict[str, RemoteFile]) -> dict[str, Path | None]:
        client = self._client(", ".join(files))
        size = sum(file.size for file in files.values())
        if size > _SILENT_BYTES:
            notice(
                f"downloading hub:{self.repo} (commit {self.commit[:12]}): {size / 1e6:,.1f} MB, "
                f"license: {self.license or 'not stated'}"
            )
        places: dict[str, Path | None] = {}
        with self._cache.downloading():
            done = 0
            on_progress = current_progress() if size > _SILENT_BYTES else ignore_progress
            for path, file in files.items():
                place = self._cache.path(self.commit, path)
                if not self._cache.has(self.commit, path, file):  # nor did another process load it
                    before = done

                    def on_bytes(count: int, before: int = before) -> None:
                        task = f"download hub:{self.repo}"
                        on_progress(Progress(task, before + count, size, "bytes"))

                    self._download_file(client, path, file, on_bytes)
                done += file.size
                places[path] = place
        return places

    def _download_file(
        self, client: HubClient, path: str, file: RemoteFile, on_bytes: Callable[[int], None]
    ) -> None:
        if not file.has_sum:
            endpoint = hub_settings().endpoint
            notice(
                f"hub:{self.repo}: {endpoint} states no sum of {path}; only its size is verified"
            )
        with PartialFile(self._cache.incomplete(self.commit, path), file) as partial:
            self._cache.check_space(file.size - partial.size)
            try:
                address, label = client.url(self.commit, path), client.label(path)
                client.download(address, label, partial, on_bytes)
            except FetchError:
                self._forget(path)  # what the hub said of it may be what is wrong
                raise
            sha256 = partial.hasher.sha256
            partial.finish(self._cache.path(self.commit, path))
        self._remember(path, RemoteFile(file.size, sha256, file.git_sha1))

    def _client(self, missing: str = "") -> HubClient:
        """Return the client, with which files that are missing may be fetched.

        Raises:
            FetchError: that is forbidden.
        """
        config = hub_settings()
        if config.offline:
            name = f"hub:{self.repo}" + ("" if self.revision == "main" else f"@{self.revision}")
            raise FetchError(
                f"{name}: {missing and f'{missing}: '}not in the cache, and {config.offline} "
                "forbids to download it. Open it once with a connection, or copy the folder "
                f"{self._cache.folder} from a machine that has it"
            )
        if self._opened_client is None:
            self._opened_client = HubClient(config, self.repo)
        return self._opened_client

    @property
    def _known(self) -> CommitRecord:
        return self._record.commits.setdefault(self.commit, CommitRecord())

    def _remember(self, path: str, file: RemoteFile | None) -> None:
        def change(record: ModelRecord) -> None:
            record.commits.setdefault(self.commit, CommitRecord()).files[path] = file

        change(self._record)
        self._cache.update(change)

    def _forget(self, path: str) -> None:
        def change(record: ModelRecord) -> None:
            record.commits.setdefault(self.commit, CommitRecord()).files.pop(path, None)

        change(self._record)
        self._cache.update(change)

    def _find_commit(self) -> str:
        revision = self.revision
        if (commit := self._record.revisions.get(revision)) is not None:
            return commit
        commit = self._other.commit(revision)
        files: dict[str, RemoteFile | None] = {}
        if commit is None:
            commit, files = self._ask_commit()

        def change(record: ModelRecord) -> None:
            record.revisions.setdefault(revision, commit)
            record.commits.setdefault(commit, CommitRecord()).files.update(files)

        change(self._record)
        self._cache.update(change)
        return commit

    def _ask_commit(self) -> tuple[str, dict[str, RemoteFile | None]]:
        """Return the commit of the revision, and what was found out about its files."""
        client = self._client()
        for path in _PROBES:
            description = client.describe(self.revision, path)
            if description is not None:
                return description.commit, {path: description.file}
        raise FetchError(
            f"hub:{self.repo}: {hub_settings().endpoint} has no such model, or no revision "
            f"{self.revision!r} of it"
        )

    def _find_license(self) -> str:
        if self._known.license is None:
            try:
                card = self.find(_CARD)
                if card is None and _CARD not in self._known.files:
                    return ""  # to be found out another time
                small = card is not None and card.size <= _LARGEST_CARD
                text = license_of(self.read(_CARD)) if small else ""
            except FetchError as error:
                log.info("the license is unknown: %s", error)
                return ""

            def change(record: ModelRecord) -> None:
                record.commits.setdefault(self.commit, CommitRecord()).license = text

            change(self._record)
            self._cache.update(change)
        return self._known.license or ""
