"""The registry of stores by the scheme of their addresses.

Other packages register a store with an entry point in the group ``lookalike.stores``, named like
the scheme, that refers to a :class:`StoreSpec`. In their ``pyproject.toml``::

    [project.entry-points."lookalike.stores"]
    shelf = "shelf_store:SPEC"

and in ``shelf_store.py``::

    SPEC = StoreSpec("shelf", "rows in a shelf", "shelf://PATH",
                     ShelfStore.create, ShelfStore.open, ShelfStore.find)

Then ``shelf://PATH`` is an address like ``milvus://HOST:PORT/NAME``, in Python and on the command
line. A package is imported only for an address of its scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lookalike.errors import SettingError, UnknownNameError
from lookalike.stores.addresses import (
    AddressedStore,
    PlainAddress,
    StoreAddress,
    is_address,
    scheme_of,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from lookalike.stores.milvus.address import Address
    from lookalike.types import Metric

ENTRY_POINT_GROUP = "lookalike.stores"


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """A store of the registry. Its functions get a :class:`PlainAddress`.

    Args:
        scheme: of its addresses, lower-case letters and digits.
        summary: a short noun phrase.
        example: what its addresses look like, as in ``milvus://HOST:PORT/NAME``.
        create: creates an empty store, given its address, the dimensions of the embeddings, the
            default metric of searches, and JSON values to be kept as its ``description``. Raises
            ArtifactError if there is a store already.
        open: opens a store by its address. Raises ArtifactError if there is none.
        find: opens a store by its address, or returns None if there is none, or an unfinished one.
    """

    scheme: str
    summary: str
    example: str
    create: Callable[[Any, int, Metric, Mapping[str, Any]], AddressedStore]
    open: Callable[[Any], AddressedStore]
    find: Callable[[Any], AddressedStore | None]


def _create_milvus(
    address: Address, dim: int, metric: Metric, description: Mapping[str, Any]
) -> AddressedStore:
    from lookalike.stores.milvus.store import MilvusStore

    return MilvusStore.create(address, dim, metric, description)


def _open_milvus(address: Address) -> AddressedStore:
    from lookalike.stores.milvus.store import MilvusStore

    return MilvusStore.open(address)


def _find_milvus(address: Address) -> AddressedStore | None:
    from lookalike.stores.milvus.store import MilvusStore

    return MilvusStore.find(address)


_MILVUS = StoreSpec(
    "milvus",
    "collection of a Milvus server",
    "milvus://HOST:PORT/NAME",
    _create_milvus,
    _open_milvus,
    _find_milvus,
)
_BUILT_IN = {"milvus": _MILVUS, "milvus+tls": _MILVUS}


def store_schemes() -> list[str]:
    """Return the schemes of all stores, those of other packages among them; loads none."""
    return sorted({*_BUILT_IN, *_entry_points()})


def find_store_spec(scheme: str) -> StoreSpec:
    """Return the store of a scheme.

    Raises:
        UnknownNameError: there is none.
        SettingError: the package that has it cannot be used.
    """
    if scheme in _BUILT_IN:
        return _BUILT_IN[scheme]
    entry_point = _entry_points().get(scheme)
    if entry_point is None:
        raise UnknownNameError("store", scheme, store_schemes())
    place = f"store {scheme!r} ({entry_point.value})"
    try:
        spec = entry_point.load()
    except Exception as error:
        from lookalike.sources.base import failure_reason

        raise SettingError(f"{place}: cannot be imported ({failure_reason(error)})") from error
    if not isinstance(spec, StoreSpec):
        raise SettingError(f"{place}: is a {type(spec).__name__}, not a StoreSpec")
    if spec.scheme != scheme:
        raise SettingError(f"{place}: is the store of another scheme, {spec.scheme!r}")
    return spec


def parse_address(text: str) -> StoreAddress:
    """Parse the address of rows; the package of their store is not imported.

    Raises:
        SettingError: it is no address, or an option is out of range.
        UnknownNameError: there is no store of its scheme, or no such option.
    """
    scheme = scheme_of(text) if isinstance(text, str) else ""
    if not scheme:
        raise SettingError(f"{text}: expected an address such as {_MILVUS.example}")
    if scheme in _BUILT_IN:
        from lookalike.stores.milvus.address import Address

        return Address.parse(text)
    if scheme not in _entry_points():
        raise UnknownNameError("store", scheme, store_schemes())
    return PlainAddress.parse(text)


def create_store(
    address: StoreAddress, dim: int, metric: Metric, description: Mapping[str, Any]
) -> AddressedStore:
    """Create an empty store, see :class:`StoreSpec`."""
    return _spec_of(address).create(address, dim, metric, description)


def open_store(address: StoreAddress) -> AddressedStore:
    """Open a store, see :class:`StoreSpec`."""
    return _spec_of(address).open(address)


def find_store(address: StoreAddress) -> AddressedStore | None:
    """Open a store if there is one, see :class:`StoreSpec`."""
    return _spec_of(address).find(address)


def _spec_of(address: StoreAddress) -> StoreSpec:
    return find_store_spec(scheme_of(address.text or str(address)))


def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # loads the parser of e-mail

    return {each.name: each for each in entry_points(group=ENTRY_POINT_GROUP)}


__all__ = [
    "AddressedStore",
    "PlainAddress",
    "StoreAddress",
    "StoreSpec",
    "create_store",
    "find_store",
    "find_store_spec",
    "is_address",
    "open_store",
    "parse_address",
    "store_schemes",
]
