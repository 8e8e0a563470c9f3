"""Fetching of images from URLs, protected against server-side request forgery (SSRF).

All URLs of images are fetched here: those of queries to the service, and those of the rows of
manifests. The address is checked when the connection is made, not before: by then a name may
resolve to another machine (DNS rebinding). Fewer addresses count as public than for Python's
``is_global``, which includes NAT64, 6to4 and site-local addresses. Proxies are not used, since they
would connect to any address.

A fetch ends at its deadline, whatever the host does, and when its work is cancelled
(:mod:`lookalike.cancellation`).
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from lookalike.cancellation import check_cancelled, is_cancelled
from lookalike.errors import FetchError, InputError

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_CHUNK = 1 << 16
_POLL_SECONDS = 0.1
"""How often a waiting fetch looks whether it was cancelled."""

_MAX_LOOKUPS = 64
"""Host names that are resolved at a time; each may hang longer than its fetch."""

_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, used by some cloud metadata services
        "168.63.129.16/32",  # Azure's platform services
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",
        "2001::/23",  # Teredo, ORCHID and other protocol assignments
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)

_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
    )
)
_CLOUD_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("100.100.100.200", "fd00:ec2::254", "fd20:ce::254")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """Limits of a fetch.

    Attributes:
        timeout: seconds for everything, redirects included.
        max_bytes: size of the image file.
        max_redirects: redirects to follow.
        is_allowed: decides on an IP address; None allows public addresses only.
        advice: ends the message about a host that is not allowed.
    """

    timeout: float
    max_bytes: int
    max_redirects: int
    is_allowed: Callable[[str], bool] | None = None
    advice: str = "upload the image instead"


def is_public(text: str) -> bool:
    """Return whether an IP address belongs to the public internet."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def is_public_or_private(text: str) -> bool:
    """Return whether an IP address belongs to the public internet, a private network or this host.

    Addresses at which clouds tell machines their credentials do not, nor others of one link.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    private = any(address in network for network in _PRIVATE)
    return is_public(text) or (private and address not in _CLOUD_METADATA)


def host_of(url: str) -> str:
    """Return the host name of a URL in lower case, empty if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def fetch(url: str, options: FetchOptions) -> bytes:
    """Return the body of a URL.

    Raises:
        InputError: not an http or https URL, or its host is not on the public internet.
        FetchError: no successful response within the limits.
        CancelledError: the work was cancelled, or its own time is over.
    """
    deadline = _Deadline(options.timeout)
    try:
        for _ in range(options.max_redirects + 1):
            response = _get(url, options, deadline)
            deadline.check()  # the body may have been cut off
            if isinstance(response, bytes):
                return response
            url = urljoin(url, response)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failure(url, error, deadline, options) from error
    finally:
        deadline.end()
    raise FetchError(f"{url}: redirected more than {options.max_redirects} times")


def _failure(url: str, error: Exception, deadline: _Deadline, options: FetchOptions) -> FetchError:
    """Return the error of a request that failed.

    Raises:
        CancelledError: the work was cancelled.
    """
    check_cancelled()
    if deadline.expired:
        return FetchError(f"{url}: took longer than {options.timeout:g} s")
    return FetchError(f"{url}: {_reason(error)}")


def post(url: str, body: bytes, headers: Mapping[str, str], options: FetchOptions) -> int:
    """Send a body to a URL; return the status of the response. Redirects are not followed.

    Args:
        url: of an http or https server.
        body: to send.
        headers: of the request.
        options: limits; the body of the response is not read.

    Raises:
        InputError: not an http or https URL, or its host is not on the public internet.
        FetchError: no response within the limits.
        CancelledError: the work was cancelled, or its own time is over.
    """
    scheme, host, port, target = _split(url)
    deadline = _Deadline(options.timeout)
    connection = _Connection(host, port, scheme, options, deadline)
    try:
        connection.request("POST", target, body, {"User-Agent": "lookalike", **headers})
        with connection.getresponse() as response:
            deadline.check()
            return response.status
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failure(url, error, deadline, options) from error
    finally:
        connection.close()
        deadline.end()


def check_url(url: str, *, what: str = "an image URL") -> None:
    """Check that a URL can be fetched from or sent to, as far as its text tells.

    Raises:
        InputError: not an http or https URL, or it contains invalid characters or credentials.
    """
    _split(url, what)


def _get(url: str, options: FetchOptions, deadline: _Deadline) -> bytes | str:
    """Return the body of one response, or its redirect target."""
    scheme, host, port, target = _split(url)
    connection = _Connection(host, port, scheme, options, deadline)
    try:
        connection.request("GET", target, headers={"User-Agent": "lookalike", "Accept": "image/*"})
        with connection.getresponse() as response:
            if response.status in _REDIRECTS:
                return response.headers.get("Location", "")
            if response.status != http.client.OK:
                raise FetchError(f"{url}: the server responded {response.status} {response.reason}")
            return _read_body(url, response, options.max_bytes)
    finally:
        connection.close()


def _split(url: str, what: str = "an image URL") -> tuple[str, str, int, str]:
    """Return scheme, host, port and target of a URL.

    Raises:
        InputError: not an http or https URL, or it contains invalid characters or credentials.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"{url}: not a URL ({error})") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InputError(f"{url}: not {what}; it must start with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"{url}: a URL with a user name or password is not accepted")
    if not url.isascii() or any(c <= " " for c in url) or "\x7f" in url:
        raise InputError(f"{url!r}: contains characters that must be percent-encoded")
    if not _HOST.fullmatch(parts.hostname):
        raise InputError(f"{url}: {parts.hostname!r} is not a valid host")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, parts.hostname, port or _PORTS[parts.scheme], target


def _read_body(url: str, response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise FetchError(f"{url}: the file has {int(length):,} bytes; the limit is {max_bytes:,}")
    chunks, size = [], 0
    while chunk := response.read(_CHUNK):
        size += len(chunk)
        if size > max_bytes:
            raise FetchError(f"{url}: the file has more than {max_bytes:,} bytes, the limit")
        chunks.append(chunk)
    if response.length:
        raise http.client.HTTPException(f"the response is {response.length:,} bytes short")
    return b"".join(chunks)


class _Connection(http.client.HTTPConnection):
    """A connection to a checked address, with TLS for https."""

    def __init__(
        self, host: str, port: int, scheme: str, options: FetchOptions, deadline: _Deadline
    ) -> None:
        super().__init__(host, port, timeout=options.timeout)
        self._secure = scheme == "https"
        self._is_allowed = options.is_allowed or is_public
        self._advice = options.advice
        self._deadline = deadline

    def connect(self) -> None:
        addresses = _resolve(self.host, self.port, self._deadline)
        if not all(self._is_allowed(str(address[0])) for *_, address in addresses):
            raise InputError(f"{self.host}: is not on the public internet; {self._advice}")
        family, kind, protocol, _, address = addresses[0]
        self.sock = socket.socket(family, kind, protocol)
        self.sock.settimeout(self.timeout)
        self._deadline.watch(self.sock)
        self.sock.connect(address)
        if self._secure:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self._deadline.watch(self.sock)
            self.sock.do_handshake()


class _Deadline:
    """Closes a connection after a total time, or once the work of this thread is cancelled.

    Socket timeouts would only limit single operations.
    """

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._end = time.monotonic() + seconds
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        watch = copy_context().run
        threading.Thread(target=watch, args=(self._watch,), name="fetch", daemon=True).start()

    def watch(self, connection: socket.socket) -> None:
        """Close this connection when the deadline expires."""
        with self._lock:
            self._socket = connection
            if self.expired:
                self._shut()

    def wait_for(self, event: threading.Event) -> None:
        """Wait for an event.

        Raises:
            TimeoutError: the deadline expired before.
        """
        while not event.wait(_POLL_SECONDS):
            self.check()

    def check(self) -> None:
        """Return if there is time left.

        Raises:
            TimeoutError: the deadline has expired.
        """
        if self.expired:
            raise TimeoutError

    def end(self) -> None:
        """Close nothing any more."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(max(0.0, min(_POLL_SECONDS, self._end - time.monotonic()))):
            if is_cancelled() or time.monotonic() >= self._end:
                with self._lock:
                    self.expired = True
                    self._shut()
                return

    def _shut(self) -> None:
        if self._socket is not None:
            try:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # not the TLS shutdown
            except OSError:
                self._socket.close()


_lookups = threading.BoundedSemaphore(_MAX_LOOKUPS)


def _resolve(host: str, port: int, deadline: _Deadline) -> list[Any]:
    """Return the addresses of a host.

    The system's call cannot be interrupted and may take minutes, so a thread of its own waits.

    Raises:
        OSError: it cannot be resolved, or not before the deadline.
    """
    while not _lookups.acquire(timeout=_POLL_SECONDS):
        deadline.check()
    results: list[list[Any] | Exception] = []
    resolved = threading.Event()

    def look_up() -> None:
        try:
            results.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001 - raised in the thread that waits
            results.append(error)
        finally:
            _lookups.release()
            resolved.set()

    threading.Thread(target=look_up, name="fetch-resolve", daemon=True).start()
    deadline.wait_for(resolved)
    (result,) = results
    if isinstance(result, Exception):
        raise result
    return result


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name could not be resolved"
    if isinstance(error, TimeoutError):
        return "the connection timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
