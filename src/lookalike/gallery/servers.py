"""The addresses that this user has named: folders of others may lead to no others.

A gallery's folder may be of somebody else and hold any address. A Milvus server is connected to
with the token of ``LOOKALIKE_MILVUS_TOKEN`` only if that has been sent there before, for an address
that the user gave; servers on this machine always are. Stores of other packages are opened, and
their packages imported, only for addresses that the user gave before.
"""

from __future__ import annotations

import contextlib
import shlex

from lookalike.artifacts import write_cache
from lookalike.config import settings
from lookalike.errors import ArtifactError
from lookalike.files import read_regular
from lookalike.stores.addresses import StoreAddress

FILE = "milvus-servers.txt"
"""Of Milvus servers, and of the hashes of other addresses."""


def remember_server(address: StoreAddress) -> None:
    """Record the server of an address that the user gave."""
    known = _known()
    if address.server and address.server not in known:
        lines = sorted({*known, address.server})
        write_cache(settings().data / FILE, "".join(f"{line}\n" for line in lines).encode())


def check_server(address: StoreAddress, place: str) -> None:
    """Check that a gallery's folder may lead to an address.

    Raises:
        ArtifactError: the user has not given it before.
    """
    if not address.server or not address.guard or address.server in _known():
        return
    raise ArtifactError(
        f"{place}: {address.guard}, open the gallery once by its address: "
        f"lookalike info {shlex.quote(str(address))}"
    )


def _known() -> set[str]:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return set(read_regular(settings().data / FILE).decode().split())
    return set()
