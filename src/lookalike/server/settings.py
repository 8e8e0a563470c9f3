"""How a service was told to run."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lookalike.errors import InputError, SettingError
from lookalike.server.api_keys import Key
from lookalike.server.limits import Limits
from lookalike.stores.milvus.address import Address, is_address

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What a service may do and for whom.

    Without ``keys`` anybody who reaches it may read, and write if ``write``; with them, who holds
    one, by its rights. ``hosts`` are the names it answers to, all if empty; ``origins`` those of
    pages that may call it from a browser (CORS). ``urls`` lets it fetch images from addresses.
    """

    keys: tuple[Key, ...] = ()
    write: bool = False
    urls: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def check_host(host: str, *, keys: bool) -> None:
    """See that a service without keys is for this machine only.

    Raises:
        SettingError: it is not.
    """
    if not keys and not is_loopback(host):
        raise SettingError(
            f"--host {host}: others than this machine could search, so it needs API keys: make a "
            "file of them with lookalike key add keys.json NAME, and give --keys keys.json"
        )


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def hosts_of(host: str, allowed: Iterable[str]) -> tuple[str, ...]:
    """Return the names that a service answers to which listens at ``host``; all if empty.

    Where there are any, this machine's own are among them: health checks ask by these, and a page
    elsewhere cannot go by one.
    """
    names = tuple(name.lower() for name in allowed)
    return (*LOOPBACK, *names) if names or is_loopback(host) else ()


def named(galleries: Iterable[str]) -> dict[str, str]:
    """Return the paths, or addresses, of galleries by the names that they are served under.

    A gallery is given as its path, and goes by its folder's name without ``.gallery``, or as its
    address, and goes by its collection's; or as NAME=PATH.

    Raises:
        InputError: two have one name, or a name cannot be part of an address.
    """
    found: dict[str, str] = {}
    for text in galleries:
        name, mark, path = text.partition("=")
        if is_address(text):
            path, name = text, Address.parse(text).name
        elif not mark or Path(text).exists():
            path, name = text, Path(text).resolve().name.removesuffix(".gallery")
        if not name or not all(c.isalnum() or c in "-_." for c in name) or not name.isascii():
            raise InputError(
                f"{text}: {name!r} cannot be part of an address; give it as NAME=PATH, the name of "
                "letters, digits, - and _"
            )
        if name in found:
            raise InputError(f"{text}: {found[name]} is called {name!r} too; give one as NAME=PATH")
        found[name] = path
    return found
