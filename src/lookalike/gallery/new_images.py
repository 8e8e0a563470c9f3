"""The arguments of ``add``, checked: images, and the id and metadata of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from lookalike.gallery.ids import upload_ids
from lookalike.metadata import check_metadata, metadata_rows
from lookalike.sources.inputs import InputImages, as_images


@dataclass(frozen=True, slots=True)
class NewImages:
    """What is added: the images, and what was passed with them.

    Args:
        images: as they were passed.
        ids: of the rows; None to make them from the contents.
        metadata: of each image.
    """

    images: InputImages
    ids: Sequence[str] | None
    metadata: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, images: object, ids: object, metadata: object) -> Self:
        """Check the arguments of :meth:`BaseGallery.add`.

        Raises:
            InputError: something is no image, the number of the others is wrong, an id is invalid
                or repeated, or metadata cannot be stored.
        """
        inputs = as_images(images)
        if inputs.single:  # one of each, without a list around it
            ids = [ids] if isinstance(ids, str) else ids
            metadata = [metadata] if isinstance(metadata, Mapping) else metadata
        rows = metadata_rows(metadata, len(inputs), of="images")
        for number, row in enumerate(rows):
            check_metadata(row, what=f"metadata[{number}]")
        chosen = None if ids is None else upload_ids(ids, [""] * len(inputs))
        return cls(inputs, chosen, rows)

    def final_ids(self, hashes: Sequence[str]) -> list[str]:
        """Return the ids of the rows, given the content hashes of the images."""
        return upload_ids(self.ids, hashes)
