"""Configuration of the service."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lookalike.errors import InputError, SettingError
from lookalike.server.api_keys import Key
from lookalike.server.limits import Limits
from lookalike.server.signatures import new_secret
from lookalike.stores.registry import is_address, parse_address

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Host names of the local machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Access rights and limits of the service.

    Attributes:
        keys: API keys, or a :class:`~lookalike.server.api_keys.KeyFile` that is read again when it
            changes. Without any, every client may read, and write if ``allow_writes``.
        allow_writes: accept writes from clients without a key.
        allow_urls: fetch query images from public URLs.
        allow_webhooks: call public URLs when jobs have ended.
        allow_private_urls: fetch images of rows from private networks too, where that is recorded.
        originals: send image files as they are, with their metadata.
        hosts: accepted ``Host`` headers; empty accepts all.
        origins: origins whose pages may call the API from a browser (CORS).
        trusted_proxies: addresses of reverse proxies, whose ``X-Forwarded-For`` tells the clients
            apart that share the service's capacity.
        url_secret: signs URLs of images, see :mod:`lookalike.server.signatures`; the same for all
            replicas, at random for each process by default.
        url_seconds: how long a signed URL is valid, at least; at most twice as long.
        share_days: how long query images are stored that visitors share; 0 stores none.
        share_folder: where; by default ``shared-queries`` in the cache folder.
        limits: resource limits.
    """

    keys: Sequence[Key] = ()
    allow_writes: bool = False
    allow_urls: bool = False
    allow_webhooks: bool = False
    allow_private_urls: bool = False
    originals: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    url_secret: bytes = field(default_factory=new_secret, repr=False)
    url_seconds: float = 3600.0
    share_days: int = 0
    share_folder: Path | None = None
    limits: Limits = field(default_factory=Limits)


def check_host(host: str, *, keys: bool) -> None:
    """Require API keys for an address that other machines can reach.

    Raises:
        SettingError: ``host`` is not a loopback address and there are no keys.
    """
    if not keys and not is_loopback(host):
        raise SettingError(
            "{host} lets other machines search, which requires API keys; create one with: "
            "lookalike key add keys.json NAME, then set {keys} to keys.json",
            host=host,
            keys=None,
        )


def check_origins(origins: Iterable[str], *, allow_writes: bool, keys: bool) -> None:
    """Refuse a service that any page of the web could write to, through its visitors.

    Raises:
        SettingError: all origins may write without a key.
    """
    if "*" in origins and allow_writes and not keys:
        raise SettingError(
            "{allow_origin} with {write} lets every website change the gallery, which requires "
            "API keys; allow single origins, or create a key with: lookalike key add keys.json "
            "NAME --write, then set {keys} to keys.json",
            allow_origin="*",
            write=None,
            keys=None,
        )


def proxy_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return IP addresses of reverse proxies as connections have them.

    Raises:
        SettingError: one is not an IP address.
    """
    try:
        return tuple(str(ipaddress.ip_address(each.strip("[]"))) for each in addresses)
    except ValueError as error:
        raise SettingError(f"{{trusted_proxy}}: {error}", trusted_proxy=None) from None


def is_loopback(host: str) -> bool:
    """Return whether a host name or address belongs to the local machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def accepted_hosts(host: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the ``Host`` headers to accept when listening at ``host``; empty accepts all.

    The list always includes the loopback names, which health checks use; a website cannot be
    reached under these, so they are safe against DNS rebinding.
    """
    allowed = tuple(name.lower() for name in names)
    return (*LOOPBACK, *allowed) if allowed or is_loopback(host) else ()


def gallery_paths(galleries: Iterable[str]) -> dict[str, str]:
    """Return paths or addresses of galleries by the names to serve them under.

    Each gallery is ``NAME=PATH``, a path (served as the folder's name without ``.gallery``) or an
    address (served as the collection's name).

    Raises:
        InputError: two galleries have the same name, or a name cannot be part of a URL.
    """
    paths: dict[str, str] = {}
    for text in galleries:
        name, separator, path = text.partition("=")
        if is_address(text):
            path, name = text, parse_address(text).name
        elif not separator or Path(text).exists():
            path, name = text, Path(text).resolve().name.removesuffix(".gallery")
        if not name or not all(c.isalnum() or c in "-_." for c in name) or not name.isascii():
            plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-") or "photos"
            raise InputError(
                f"{text}: {name!r} cannot be part of a URL; name it with letters, digits, '-', '_' "
                f"and '.': lookalike serve {shlex.quote(f'{plain}={path}')}"
            )
        if name in paths:
            raise InputError(
                f"{text}: {paths[name]} is already served as {name!r}; rename one with NAME=PATH"
            )
        paths[name] = path
    return paths
