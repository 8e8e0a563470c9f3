"""Images fetched from addresses that strangers name, without lending them this machine's network.

The address is checked when the connection is made, not before: a name may mean another machine by
then (DNS rebinding). What counts as public is stricter than Python's ``is_global``, which holds
NAT64, 6to4 and site-local addresses to be global.
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
_PIECE = 1 << 16
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, where some clouds keep their metadata
        "168.63.129.16/32",  # Azure's own services
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",
        "2001::/23",  # Teredo, ORCHID and other protocol assignments
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)

Resolve = Callable[[str, int], list[str]]
"""Returns the addresses of a host."""


@dataclass(frozen=True, slots=True)
class Fetching:
    """How images may be fetched; ``allowed`` lets addresses through that are not public."""

    seconds: float
    most_bytes: int
    redirects: int
    allowed: Callable[[str], bool] | None = None


def is_public(text: str) -> bool:
    """Tell whether an address belongs to the public internet."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def fetch(url: str, how: Fetching) -> bytes:
    """Return the bytes at an address.

    Raises:
        InputError: not an http or https address, or one of a machine that is not public.
        FetchError: it did not answer in time, with success, or with few enough bytes.
    """
    deadline = _Deadline(how.seconds)
    try:
        for _ in range(how.redirects + 1):
            found = _get(url, how, deadline)
            if deadline.passed:  # what was read may have been cut off
                raise TimeoutError
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if deadline.passed:
            raise FetchError(f"{url}: took longer than {how.seconds:g} s") from None
        raise FetchError(f"{url}: {_said(error)}") from error
    finally:
        deadline.cancel()
    raise FetchError(f"{url}: redirected more than {how.redirects} times")


def _get(url: str, how: Fetching, deadline: _Deadline) -> bytes | str:
    """Return the body of one answer, or where it redirects to."""
    scheme, host, port, target = _parts(url)
    connection = _Connection(host, port, scheme, how, deadline)
    try:
        connection.request("GET", target, headers={"User-Agent": "lookalike", "Accept": "image/*"})
        answer = connection.getresponse()
        if answer.status in _REDIRECTS:
            return answer.headers.get("Location", "")
        if answer.status != http.client.OK:
            raise FetchError(f"{url}: answered {answer.status} {answer.reason}")
        return _body(url, answer, how.most_bytes)
    finally:
        connection.close()


def _parts(url: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and target of an address.

    Raises:
        InputError: it is not one of http or https, or holds what has no place in one.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"{url}: not an address ({error})") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InputError(f"{url}: not an address of an image; it begins with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"{url}: holds a user name or password, which are not sent")
    if not url.isascii() or any(c <= " " for c in url) or "\x7f" in url:
        raise InputError(f"{url!r}: holds spaces or characters that must be percent-encoded")
    if not _HOST.fullmatch(parts.hostname):
        raise InputError(f"{url}: {parts.hostname!r} is no name or address of a host")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, parts.hostname, port or _PORTS[parts.scheme], target


def _body(url: str, answer: http.client.HTTPResponse, most: int) -> bytes:
    said = answer.headers.get("Content-Length", "")
    if said.isdigit() and int(said) > most:
        raise FetchError(f"{url}: has {int(said):,} bytes, more than the {most:,} allowed")
    pieces, size = [], 0
    while piece := answer.read(_PIECE):
        size += len(piece)
        if size > most:
            raise FetchError(f"{url}: has more than the {most:,} bytes allowed")
        pieces.append(piece)
    if answer.length:
        raise http.client.HTTPException(f"sent {answer.length:,} bytes less than it said")
    return b"".join(pieces)


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was checked, over TLS for https."""

    def __init__(
        self, host: str, port: int, scheme: str, how: Fetching, deadline: _Deadline
    ) -> None:
        super().__init__(host, port, timeout=how.seconds)
        self._secure = scheme == "https"
        self._how = how
        self._deadline = deadline

    def connect(self) -> None:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        allowed = self._how.allowed or is_public
        if not all(allowed(str(address[0])) for *_, address in found):
            raise InputError(
                f"{self.host}: is not on the public internet; upload the image instead"
            )
        family, kind, protocol, _, address = found[0]
        self.sock = socket.socket(family, kind, protocol)
        self.sock.settimeout(self.timeout)
        self._deadline.ends(self.sock)
        self.sock.connect(address)
        if self._secure:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self._deadline.ends(self.sock)
            self.sock.do_handshake()


class _Deadline:
    """Ends a connection when the time for all of it is up, however it dawdles."""

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def ends(self, connection: socket.socket) -> None:
        """End this connection then."""
        self._socket = connection
        if self.passed:
            self._end()

    def cancel(self) -> None:
        """End nothing any more."""
        self._timer.cancel()

    def _end(self) -> None:
        self.passed = True
        if self._socket is not None:
            try:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TLS has its own
            except OSError:
                self._socket.close()


def _said(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    if isinstance(error, TimeoutError):
        return "did not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
