"""Single files at public addresses, fetched as those of the hub are: resumed, and by one process.

Whoever publishes a file by itself states no sum of it. Its size is checked before the download, and
the caller keeps its SHA-256.
"""

from __future__ import annotations

import http.client
import re
from pathlib import Path

from lookalike.artifacts import sole_writer
from lookalike.errors import FetchError
from lookalike.formatting import without_url_secrets
from lookalike.progress import current_progress, notice
from lookalike.transfer.client import MAX_REDIRECTS, REDIRECTS, Transfer, host_of, status_of
from lookalike.transfer.partial import PartialFile
from lookalike.transfer.storage import cache_error, check_space
from lookalike.transfer.sums import RemoteFile
from lookalike.types import Progress

_LOCK_WAIT_S = 4 * 3600
_TOLERANCE = 0.1


def fetch_file(address: str, path: Path, *, size: int, license_: str) -> None:
    """Download a file; afterwards it stands whole at ``path``.

    Its address, size and license are said before (:func:`lookalike.notice`); progress goes to
    :func:`lookalike.progress.current_progress`. A download that was cut is resumed, also by the
    next process. Of processes that fetch the same file one downloads, and the others wait.

    Args:
        address: http or https.
        path: where it shall stand.
        size: in bytes, to ten percent; a file of another size is refused.
        license_: of the file.

    Raises:
        FetchError: the server does not answer, refuses, or has a file of another size.
        StorageError: the file cannot be written.
    """
    name = without_url_secrets(address)
    transfer = FileTransfer(name, address)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_error(path.parent, error) from error
    with sole_writer(path.with_name(f".{path.name}.lock"), what=path.name, wait=_LOCK_WAIT_S):
        if path.is_file():  # another process fetched it
            return
        file = RemoteFile(transfer.size(address))
        if abs(file.size - size) > _TOLERANCE * size:
            raise FetchError(
                f"{name}: has {file.size:,} bytes, not about {size:,}; it is another file"
            )
        notice(f"downloading {name}: {file.size / 1e6:,.1f} MB, license: {license_}")
        on_progress = current_progress()

        def on_bytes(count: int) -> None:
            on_progress(Progress(f"download {path.name}", count, file.size, "bytes"))

        with PartialFile(path.parent / "incomplete" / path.name, file) as partial:
            check_space(path.parent, file.size - partial.size)
            transfer.download(address, name, partial, on_bytes)
            partial.finish(path)


class FileTransfer(Transfer):
    """Transfer of one file, without a token."""

    setting = "LOOKALIKE_MIRROR"

    def size(self, url: str) -> int:
        """Return the size of the file.

        Raises:
            FetchError: the server does not say it, does not answer, or has no such file.
        """
        sizes: list[int] = []
        self.retry(lambda: sizes.append(self._ask_size(url)), lambda: 0)
        return sizes[0]

    def _ask_size(self, url: str) -> int:
        for _ in range(MAX_REDIRECTS + 1):
            with self.open("HEAD", url, {}) as response:
                if response.status in REDIRECTS:
                    url = self.redirect(url, response.headers)
                    continue
                self.check(response, url, self.name)
                length = response.headers.get("Content-Length", "")
                if not re.fullmatch("[0-9]{1,15}", length):
                    raise FetchError(f"{self.name}: the server does not say its size")
                return int(length)
        raise FetchError(f"{self.name}: redirected more than {MAX_REDIRECTS} times")

    def check(self, response: http.client.HTTPResponse, url: str, label: str) -> None:
        """Check that a response is a success; see :meth:`Transfer.check`."""
        if response.status == http.client.NOT_FOUND:
            raise FetchError(f"{label}: there is no such file")
        if response.status >= http.client.MULTIPLE_CHOICES:
            raise FetchError(f"{label}: {host_of(url)} answered {status_of(response)}")
