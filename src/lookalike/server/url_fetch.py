"""Fetching of images from URLs in requests, protected against server-side request forgery (SSRF).

The address is checked when the connection is made, not before: by then a name may resolve to
another machine (DNS rebinding). Fewer addresses count as public than for Python's ``is_global``,
which includes NAT64, 6to4 and site-local addresses.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from lookalike.errors import FetchError, InputError

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_CHUNK = 1 << 16
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """Limits of a fetch.

    Attributes:
        timeout: seconds for everything, redirects included.
        max_bytes: size of the image file.
        max_redirects: redirects to follow.
        is_allowed: decides on an IP address; None allows public addresses only.
    """

    timeout: float
    max_bytes: int
    max_redirects: int
    is_allowed: Callable[[str], bool] | None = None


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


def fetch(url: str, options: FetchOptions) -> bytes:
    """Return the body of a URL.

    Raises:
        InputError: not an http or https URL, or its host is not on the public internet.
        FetchError: no successful response within the limits.
    """
    deadline = _Deadline(options.timeout)
    try:
        for _ in range(options.max_redirects + 1):
            response = _get(url, options, deadline)
            if deadline.expired:  # the body may have been cut off
                raise TimeoutError
            if isinstance(response, bytes):
                return response
            url = urljoin(url, response)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if deadline.expired:
            raise FetchError(f"{url}: took longer than {options.timeout:g} s") from None
        raise FetchError(f"{url}: {_reason(error)}") from error
    finally:
        deadline.cancel()
    raise FetchError(f"{url}: redirected more than {options.max_redirects} times")


def _get(url: str, options: FetchOptions, deadline: _Deadline) -> bytes | str:
    """Return the body of one response, or its redirect target."""
    scheme, host, port, target = _split(url)
    connection = _Connection(host, port, scheme, options, deadline)
    try:
        connection.request("GET", target, headers={"User-Agent": "lookalike", "Accept": "image/*"})
        response = connection.getresponse()
        if response.status in _REDIRECTS:
            return response.headers.get("Location", "")
        if response.status != http.client.OK:
            raise FetchError(f"{url}: the server responded {response.status} {response.reason}")
        return _read_body(url, response, options.max_bytes)
    finally:
        connection.close()


def _split(url: str) -> tuple[str, str, int, str]:
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
        raise InputError(f"{url}: not an image URL; it must start with http:// or https://")
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
        self._deadline = deadline

    def connect(self) -> None:
        addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        if not all(self._is_allowed(str(address[0])) for *_, address in addresses):
            raise InputError(
                f"{self.host}: is not on the public internet; upload the image instead"
            )
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
    """Closes a connection after a total time; socket timeouts only limit single operations."""

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, connection: socket.socket) -> None:
        """Close this connection when the deadline expires."""
        self._socket = connection
        if self.expired:
            self._expire()

    def cancel(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        if self._socket is not None:
            try:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # not the TLS shutdown
            except OSError:
                self._socket.close()


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name could not be resolved"
    if isinstance(error, TimeoutError):
        return "the connection timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
