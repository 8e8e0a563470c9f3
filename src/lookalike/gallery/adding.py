"""Adding images that users pass: all are read, decoded and encoded before one is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder
from lookalike.errors import ImageError
from lookalike.gallery.new_images import NewImages
from lookalike.gallery.uploads import Upload, check_takes_uploads, put_all
from lookalike.gallery.writing import WritableGallery
from lookalike.images.decode import content_hash, decode
from lookalike.sources.inputs import InputImage, InputImages
from lookalike.sources.sampling import thread_map
from lookalike.types import ImageArray, Progress, ProgressCallback

_CHUNK = 32
"""Images that a thread reads, decodes and encodes together."""

_KEPT_BYTES = 256 << 20
"""Bytes of files that are kept until they are written; the others are read again."""


def add_images(
    gallery: WritableGallery,
    images: object,
    ids: object,
    metadata: object,
    on_progress: ProgressCallback,
) -> list[str]:
    """Add images to a gallery; return their ids. See :meth:`BaseGallery.add`."""
    gallery.check_writable()
    check_takes_uploads(gallery)
    new = NewImages.of(images, ids, metadata)
    fingerprint, total = gallery.fingerprint, len(new.images)
    encoded = list(_encode(new.images, gallery.encoder, on_progress))
    own = new.final_ids([each.content_hash for each in encoded])
    uploads = [
        Upload(row_id, each.content_hash, each.read, each.embedding, fields)
        for row_id, each, fields in zip(own, encoded, new.metadata, strict=True)
    ]
    put_all(
        gallery,
        uploads,
        fingerprint,
        lambda done: on_progress(Progress("write", done, total, "images")),
    )
    return own


@dataclass(frozen=True, slots=True)
class _Encoded:
    """An image that is encoded; ``data`` its file, None if it is to be read again."""

    image: InputImage
    content_hash: str
    embedding: NDArray[np.float32]
    data: bytes | None

    def read(self) -> bytes:
        """Return its file."""
        return self.image.file_bytes() if self.data is None else self.data


def _encode(
    images: InputImages, encoder: Encoder, on_progress: ProgressCallback
) -> Iterator[_Encoded]:
    """Yield the images encoded, in their order.

    Raises:
        ImageError: one cannot be read or decoded, or the encoder refuses it.
    """
    done, kept = 0, 0
    on_progress(Progress("encode", 0, len(images), "images"))
    for chunk in thread_map(partial(_encode_chunk, encoder=encoder), _chunks(images), batch_size=1):
        for image, data, embedding in chunk:
            kept += len(data)
            yield _Encoded(
                image, content_hash(data), embedding, data if kept <= _KEPT_BYTES else None
            )
        done += len(chunk)
        on_progress(Progress("encode", done, len(images), "images"))


def _chunks(images: Iterable[InputImage]) -> Iterator[list[InputImage]]:
    remaining = iter(images)
    return iter(lambda: list(islice(remaining, _CHUNK)), [])


def _encode_chunk(
    images: Sequence[InputImage], encoder: Encoder
) -> list[tuple[InputImage, bytes, NDArray[np.float32]]]:
    files = [image.file_bytes() for image in images]
    # Decoded from the files that are stored: so the images will be read later.
    pixels = [decode(data, name=image.name) for image, data in zip(images, files, strict=True)]
    return list(zip(images, files, _embeddings(images, pixels, encoder), strict=True))


def _embeddings(
    images: Sequence[InputImage], pixels: Sequence[ImageArray], encoder: Encoder
) -> NDArray[np.float32]:
    """Return the embeddings of images; an error names the one that the encoder refuses."""
    try:
        return encoder.encode_batch(pixels)
    except ImageError as error:
        if len(images) == 1:
            raise ImageError(f"{images[0].name}: {error}") from error
        for image, each in zip(images, pixels, strict=True):
            _embeddings([image], [each], encoder)
        raise
