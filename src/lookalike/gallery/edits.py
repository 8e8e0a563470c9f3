"""Metadata that people change in a gallery, of images that come from a source.

A changed column keeps its value as long as the image's content stays the same, whatever the source
says: it is *written*, as propagated labels are. Which columns of a row were changed, and what the
source has in them, is in the row itself, in the column ``edited_columns``: it moves, is archived,
copied and exported with the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from lookalike.errors import InputError
from lookalike.types import Metadata

EDITED = "edited_columns"
"""The column with the changed columns of a row: an object of what the source has in each."""


def edit(metadata: Metadata, changes: Metadata, written: Set[str]) -> dict[str, Any]:
    """Return the metadata of a row of a source after changes.

    A value replaces that of the source. None takes a value back that was set here: the source's own
    is there again, and one that was never changed stays.

    Args:
        metadata: of the row.
        changes: values by column.
        written: columns that come from no source.
    """
    values = {name: value for name, value in metadata.items() if name != EDITED}
    own = dict(_edited(metadata))
    for name, value in changes.items():
        if value is not None:
            if name not in written:
                own.setdefault(name, metadata.get(name))
            values[name] = value
        elif name in own:
            values[name] = own.pop(name)
        elif name in written:
            values.pop(name, None)
    values = {name: value for name, value in values.items() if value is not None}
    return {**values, EDITED: own} if own else values


def check_changes(changes: Metadata) -> None:
    """Refuse to change what the gallery itself keeps.

    Raises:
        InputError: a change is of ``edited_columns``.
    """
    if EDITED in changes:
        raise InputError(
            f"metadata: {EDITED} says which columns were changed, and cannot be set; change these "
            "columns, or set them to null to take a change back"
        )


def written_values(metadata: Metadata, written: Set[str]) -> dict[str, Any]:
    """Return the values of a row that come from no source.

    Args:
        metadata: of the row.
        written: columns that come from no source in any row.
    """
    edited = _edited(metadata) if EDITED in written else {}
    return {name: value for name, value in metadata.items() if name in written or name in edited}


def source_metadata(metadata: Metadata) -> Metadata:
    """Return the metadata of a row without the changes: what its source has in these columns."""
    edited = _edited(metadata)
    if not edited:
        return metadata
    values = {**metadata, **edited}
    return {name: value for name, value in values.items() if name != EDITED and value is not None}


def merge_written(own: Metadata, values: Metadata) -> Metadata:
    """Return the metadata of a row: what its source has, and values that come from no source."""
    if not values:
        return own
    edited = _edited(values)
    if edited:
        values = {**values, EDITED: {name: own.get(name) for name in edited}}
    return {**own, **values}


def _edited(metadata: Metadata) -> Mapping[str, Any]:
    """Return what the source has in the columns of a row that were changed."""
    edited = metadata.get(EDITED)
    return edited if isinstance(edited, Mapping) else {}
