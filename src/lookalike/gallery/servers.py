"""The Milvus servers that this user has named, which alone are sent the token.

A gallery's folder may be of somebody else and hold any address. Its server is connected to with the
token of ``LOOKALIKE_MILVUS_TOKEN`` only if that has been sent there before, for an address that the
user gave; servers on this machine always are.
"""

from __future__ import annotations

import contextlib
import ipaddress

from lookalike.artifacts import write_cache
from lookalike.config import settings
from lookalike.errors import ArtifactError
from lookalike.files import read_regular
from lookalike.stores.milvus.address import Address

FILE = "milvus-servers.txt"


def remember_server(address: Address) -> None:
    """Record the server of an address that the user gave."""
    known = _known()
    if not _is_local(address) and _name(address) not in known:
        lines = sorted({*known, _name(address)})
        write_cache(settings().data / FILE, "".join(f"{line}\n" for line in lines).encode())


def check_server(address: Address, place: str) -> None:
    """Check that the token may be sent to the server of an address in a gallery's folder.

    Raises:
        ArtifactError: there is a token, which has not been sent there before.
    """
    if settings().milvus_token is None or _is_local(address) or _name(address) in _known():
        return
    raise ArtifactError(
        f"{place}: its rows are on the server {_name(address)}, to which LOOKALIKE_MILVUS_TOKEN "
        "was not sent from here before. If the server is yours, open the gallery once by its "
        f"address: lookalike info {address}"
    )


def _name(address: Address) -> str:
    return f"{address.host}:{address.port}"


def _known() -> set[str]:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return set(read_regular(settings().data / FILE).decode().split())
    return set()


def _is_local(address: Address) -> bool:
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host == "localhost"
