"""Transfer of files over HTTP: redirects, retries, and downloads that are resumed and verified.

A token is sent to the origin of the first address only; the environment's proxies are used, and
certificates are always verified.
"""

from __future__ import annotations

import email.utils
import errno
import http.client
import logging
import re
import socket
import ssl
import string
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from urllib.error import URLError
from urllib.parse import quote, urljoin, urlsplit

from lookalike._version import __version__
from lookalike.cancellation import check_cancelled
from lookalike.errors import FetchError
from lookalike.formatting import printable, shorten, without_url_secrets
from lookalike.progress import notice
from lookalike.transfer.partial import PartialFile, strong_tag

log = logging.getLogger(__name__)

_TIMEOUT_S = 20
"""Seconds without a byte after which a connection counts as cut."""

_STALL_S = 60
_STALL_BYTES = 100_000
"""A connection that brings fewer bytes in that time counts as cut; one that is cut after fewer
counts as another failure in a row."""

_RETRIES = 4
"""Tries after the first, with next to no bytes in between."""

_BACKOFF_S = 0.5
"""Seconds before the first retry; each further one waits twice as long."""

_LONGEST_WAIT_S = 90
"""Seconds to wait at most because a server says so."""

_SAID_WAIT_S = 3
"""Waits from so many seconds are said."""

MAX_REDIRECTS = 5
REDIRECTS = frozenset((301, 302, 303, 307, 308))
_TRANSIENT = frozenset((408, 429, 500, 502, 503, 504))
_BLOCK = 1 << 18
_PORTS = {"http": 80, "https": 443}


class _TransientError(Exception):
    """A request failed in a way that may be over soon: a cut connection, a busy server.

    ``seconds`` is how long the server asks to wait, None if it does not say.
    """

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.seconds = seconds


class _HttpsHandler(urllib.request.AbstractHTTPHandler):
    """Connections whose certificates are verified, also if the process has turned that off."""

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context()  # which takes a while

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Return the response to a request; urllib finds this method by its name."""
        return self.do_open(http.client.HTTPSConnection, request, context=self._context)

    https_request = urllib.request.AbstractHTTPHandler.do_request_


class Transfer(ABC):
    """Requests for the files of one server.

    Args:
        name: what is fetched, for messages.
        address: its origin (scheme, host and port) is sent the token, and no other.
        token: for the server, None if there is none.

    Raises:
        FetchError: the address is none of http or https, or has a user.
    """

    setting = ""
    """The variable that says where requests go."""

    offline_hint = ""
    """What can be done without a connection, as the end of a sentence."""

    def __init__(self, name: str, address: str, token: str | None = None) -> None:
        self.name = name
        if not _is_address(address):
            raise FetchError(
                f"{name}: no address that files are fetched from; check {self.setting}"
            )
        self._origin = _origin(address)
        self._token = token
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            _HttpsHandler(),
        ):
            self._opener.add_handler(handler)

    @abstractmethod
    def check(self, response: http.client.HTTPResponse, url: str, label: str) -> None:
        """Check that a response is a success.

        Args:
            response: to any request but one that is redirected.
            url: that responded.
            label: the file that was asked for.

        Raises:
            FetchError: it is not; the message says why and what to do.
        """

    def is_own(self, url: str) -> bool:
        """Return whether a URL is one of the origin."""
        return _origin(url) == self._origin

    def download(
        self, url: str, label: str, partial: PartialFile, on_bytes: Callable[[int], None]
    ) -> None:
        """Download the bytes of a file that are not there yet, and verify all of them.

        A connection that is cut is resumed, a few times with next to no bytes in between. What came
        stays in ``partial`` if it fails, to be resumed by another call.

        Args:
            url: of the file.
            label: the file, for messages.
            partial: its bytes so far.
            on_bytes: called with the number of bytes that are there.

        Raises:
            FetchError: the server does not answer, refuses, or the bytes are not those of the file;
                wrong bytes are deleted.
            StorageError: the cache cannot be written.
        """
        file = partial.target
        on_bytes(partial.size)
        while True:
            resumed = partial.size > 0
            if partial.size < file.size or not file.size:
                self.retry(
                    lambda: self._get(url, label, partial, on_bytes), lambda: partial.received
                )
            problem = partial.hasher.mismatch
            if not problem:
                return
            resumed = resumed or partial.is_mixed
            partial.restart()
            if not resumed:
                raise FetchError(
                    f"{label}: what {host_of(url)} sent is not this file "
                    f"({problem}); it was deleted. Try again; if that does not help, what lies "
                    f"between ({', '.join(self._between())}) changes files"
                )
            log.warning("%s: what was resumed is wrong; downloaded anew", label)

    def _get(
        self, url: str, label: str, partial: PartialFile, on_bytes: Callable[[int], None]
    ) -> None:
        """Append what one response brings.

        Raises:
            _TransientError: the connection was cut, or the server is busy.
        """
        if not (partial.tag or partial.target.has_sum):
            partial.restart()  # what came before may be of another file, which nobody could tell
        offset = partial.size
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and partial.tag:
            headers["If-Range"] = partial.tag
        for _ in range(MAX_REDIRECTS + 1):
            with self.open("GET", url, headers) as response:
                if response.status in REDIRECTS:
                    url = self.redirect(url, response.headers)
                    continue
                if offset and response.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                    partial.restart()
                    raise _TransientError("the server has no such range", 0)
                self.check(response, url, label)
                self._check_body(response, offset, partial.target.size, label)
                if response.status != http.client.PARTIAL_CONTENT and offset:
                    partial.restart()
                partial.is_mixed = offset > 0 and partial.size > 0
                partial.tag = strong_tag(response.headers.get("ETag", ""))
                self._read(response, partial, on_bytes)
                return
        raise FetchError(f"{label}: redirected more than {MAX_REDIRECTS} times")

    def _check_body(
        self, response: http.client.HTTPResponse, offset: int, size: int, label: str
    ) -> None:
        """Check that a body has the bytes that were asked for, or all of them."""
        headers, problem = response.headers, ""
        length = headers.get("Content-Length", "")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            problem = "it is compressed"
        elif response.status == http.client.PARTIAL_CONTENT:
            text = headers.get("Content-Range", "")
            match = re.fullmatch(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15}|\*)", text)
            if match is None or int(match[1]) != offset or match[2] not in ("*", str(size)):
                problem = f"Content-Range {text or 'is missing'}"
        elif response.status != http.client.OK:
            problem = f"it has status {response.status}"
        elif re.fullmatch("[0-9]{1,15}", length) and int(length) != size:
            problem = f"{int(length):,} bytes, not {size:,}"
        if problem:
            problem = shorten(printable(problem))
            raise FetchError(f"{label}: the answer is not the file that was asked for ({problem})")

    def _read(
        self,
        response: http.client.HTTPResponse,
        partial: PartialFile,
        on_bytes: Callable[[int], None],
    ) -> None:
        size = partial.target.size
        since, before = time.monotonic(), partial.size
        while block := response.read1(_BLOCK):
            check_cancelled()
            if partial.size + len(block) > size:
                partial.append(block[: size + 1 - partial.size])
                return  # which is too long, and refused as such
            partial.append(block)
            on_bytes(partial.size)
            if (now := time.monotonic()) - since > _STALL_S:
                if partial.size - before < _STALL_BYTES:
                    raise _TransientError("the connection brings next to nothing")
                since, before = now, partial.size
        if partial.size < size:
            raise _TransientError("the connection was cut")

    def retry(self, attempt: Callable[[], None], progress: Callable[[], int]) -> None:
        """Make a request again as long as its failure may be over soon.

        Args:
            attempt: makes the request.
            progress: returns the number of bytes that requests have brought.
        """
        failures, before = 0, progress()
        while True:
            check_cancelled()
            try:
                attempt()
            except _TransientError as error:
                after = progress()
                failures = 1 if after - before >= _STALL_BYTES else failures + 1
                before = after
                self._wait(error, failures)
            else:
                return

    def _wait(self, error: _TransientError, failures: int) -> None:
        """Wait before a request is made again.

        Raises:
            FetchError: it was made often enough, or the server asks to wait for too long.
        """
        if error.seconds is not None and error.seconds > _LONGEST_WAIT_S:
            raise FetchError(
                f"{self.name}: {error.reason} and asks to wait for "
                f"{error.seconds:,.0f} s. Try again then; what was downloaded is kept"
            )
        if failures > _RETRIES:
            raise FetchError(
                f"{self.name}: {error.reason}, {failures} times in a row. Try again later; "
                "what was downloaded is kept and resumed"
            )
        seconds = _BACKOFF_S * 2 ** (failures - 1) if error.seconds is None else error.seconds
        if seconds >= _SAID_WAIT_S:
            notice(f"{self.name}: {error.reason}; waiting for {seconds:.0f} s")
        wait(seconds)

    @contextmanager
    def open(
        self, method: str, url: str, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        """Yield a response, whatever its status is.

        Raises:
            _TransientError: the connection failed, also in the block, or the server is busy.
            FetchError: the connection failed for a reason that stays.
        """
        headers = {
            "User-Agent": f"lookalike/{__version__}",
            "Accept-Encoding": "identity",
            **headers,
        }
        if self._token and self.is_own(url):
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(url, headers=headers, method=method)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                if response.status in _TRANSIENT:
                    reason = f"{host_of(url)} answered {status_of(response)}"
                    raise _TransientError(reason, _retry_after(response.headers))
                yield response
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failure(error, url) from error

    def _failure(self, error: Exception, url: str) -> Exception:
        """Return the error of a connection that failed."""
        reason = error.reason if isinstance(error, URLError) else error
        host = host_of(url)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return FetchError(
                f"{self.name}: the certificate of {host} is not trusted "
                f"({reason.verify_message}); if a proxy signs it, name its certificates with "
                "SSL_CERT_FILE"
            )
        if isinstance(reason, socket.gaierror):
            return FetchError(
                f"{self.name}: the address of {host} could not be resolved"
                f"{self._check_connection()}"
            )
        if isinstance(reason, TimeoutError):
            return _TransientError(f"{host} did not answer for {_TIMEOUT_S} s")
        if isinstance(reason, OSError) and reason.errno == errno.ECONNREFUSED:
            return FetchError(f"{self.name}: {host} refuses connections{self._check_connection()}")
        if isinstance(error, ValueError | http.client.InvalidURL):
            return FetchError(f"{self.name}: {host} was not asked: {printable(str(error))}")
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        return _TransientError(f"the connection to {host} failed ({shorten(printable(str(text)))})")

    def _between(self) -> list[str]:
        """Return what may lead requests elsewhere."""
        return ["a proxy", *([self.setting] if self.setting else [])]

    def _check_connection(self) -> str:
        places = " and ".join(self._between())
        return f"; check the connection, {places}{self.offline_hint}"

    def redirect(self, url: str, headers: http.client.HTTPMessage) -> str:
        """Return where a response leads.

        Raises:
            FetchError: nowhere, or where no file may be fetched from.
        """
        location = quote(headers.get("Location", ""), safe=string.punctuation)
        try:
            target = urljoin(url, location)
        except ValueError:
            target = ""
        if not location or not _is_address(target):
            shown = without_url_secrets(shorten(printable(location)))
            raise FetchError(f"{self.name}: {host_of(url)} redirects to {shown!r}, no address")
        scheme, host, _ = _origin(target)
        if urlsplit(url).scheme == "https" and scheme == "http" and not _is_loopback(host):
            raise FetchError(
                f"{self.name}: {host_of(url)} redirects to {host_of(target)} without encryption, "
                "which is refused"
            )
        return target


def wait(seconds: float) -> None:
    """Wait, as long as the current work may go on."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check_cancelled()
        time.sleep(min(left, 0.1))


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL.

    Raises:
        ValueError: its port is none.
    """
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def _is_address(text: str) -> bool:
    """Return whether a text is a URL that files may be fetched from."""
    try:
        scheme, host, _ = _origin(text)
        return scheme in _PORTS and bool(host) and "@" not in urlsplit(text).netloc
    except ValueError:
        return False


def host_of(url: str) -> str:
    """Return host and port of a URL, for messages."""
    return printable(urlsplit(url).netloc.rpartition("@")[2])


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None


def status_of(response: http.client.HTTPResponse) -> str:
    """Return the status of a response, for messages."""
    return f"{response.status} {shorten(printable(response.reason or ''), 40)}".strip()


def entity_tag(text: str) -> str:
    """Return an entity tag without quotes and mark of weakness."""
    return text.strip().removeprefix("W/").strip('"').lower()


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    """Return the seconds that a busy server asks to wait, None if it does not say."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch("[0-9]{1,9}", text):
        return float(text)
    limit = headers.get("RateLimit", "")
    if (match := re.search(r";\s*r=0\s*;\s*t=([0-9]{1,9})", limit)) is not None:
        return float(match[1])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, OSError):
        return None
