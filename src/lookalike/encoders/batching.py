"""Encoding of images in batches: of users' images, and of the items of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from lookalike.encoders.base import Encoder
from lookalike.errors import ImageError, SourceError
from lookalike.sources import Item, Source
from lookalike.sources.base import NO_FAILURES, failure_reason
from lookalike.sources.inputs import InputImage
from lookalike.sources.sampling import thread_map
from lookalike.types import Embeddings, ImageArray, Progress, ProgressCallback

_MAX_BATCH_IMAGES, _MAX_BATCH_BYTES = 1024, 128 << 20
"""Limits of a batch of decoded images."""

_Readable = TypeVar("_Readable", Item, InputImage)


def check_first_image(source: Source, encoder: Encoder) -> None:
    """Check that an encoder accepts the first decodable image of a source.

    Raises:
        SourceError: no image can be decoded.
        ImageError: the encoder does not accept the image.
    """
    reason = ""
    for item in source:
        try:
            image = item.image()
        except ImageError as error:
            reason = reason or str(error)
            continue
        try:
            encoder.encode_batch([image])
        except ImageError as error:
            raise ImageError(f"{item.uri}: {error}") from error
        except NO_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 - another image may be right
            reason = reason or f"{item.uri}: cannot be encoded ({failure_reason(error)})"
            continue
        return
    raise SourceError(f"{source.spec}: no image can be read; the first: {reason}")


def encode_inputs(
    encoder: Encoder,
    images: Iterable[InputImage],
    batch_size: int,
    total: int | None,
    on_progress: ProgressCallback,
) -> Embeddings:
    """Return the embeddings of a user's images, ``(n, dim)`` float32.

    Args:
        encoder: any.
        images: at least one; each is read when its batch is.
        batch_size: images that are encoded at a time.
        total: the number of images, None if it is not known.
        on_progress: called after each batch.

    Raises:
        ImageError: an image cannot be decoded, or the encoder does not accept it.
    """
    rows, done = [], 0
    on_progress(Progress("encode", 0, total, "images"))
    for batch in _encoded(encoder, images, lambda image: image.name, batch_size):
        rows.append(batch)
        done += len(batch)
        on_progress(Progress("encode", done, total, "images"))
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def encode_items(
    encoder: Encoder, items: Sequence[Item], report: Callable[[int], None] = lambda _: None
) -> Iterator[Embeddings]:
    """Yield embeddings ``(n, dim)`` of items in order, one batch at a time.

    ``report`` is called with the number of items encoded so far.

    Raises:
        ImageError: an image cannot be decoded, or the encoder does not accept it.
    """
    done = 0
    for batch in _encoded(encoder, items, lambda item: item.uri, _MAX_BATCH_IMAGES):
        yield batch
        done += len(batch)
        report(done)


def _encoded(
    encoder: Encoder,
    images: Iterable[_Readable],
    name: Callable[[_Readable], str],
    batch_size: int,
) -> Iterator[Embeddings]:
    """Yield embeddings of images in order, in batches of limited size; threads decode ahead."""

    def read(image: _Readable) -> tuple[str, ImageArray]:
        return name(image), image.image()

    names: list[str] = []
    batch: list[ImageArray] = []
    size = 0
    for each, pixels in thread_map(read, images):
        names.append(each)
        batch.append(pixels)
        size += pixels.nbytes
        if len(batch) == batch_size or size >= _MAX_BATCH_BYTES:
            yield _encode_named(encoder, names, batch)
            names, batch, size = [], [], 0
    if batch:
        yield _encode_named(encoder, names, batch)


def _encode_named(
    encoder: Encoder, names: Sequence[str], batch: Sequence[ImageArray]
) -> Embeddings:
    """Encode a batch; an image that the encoder does not accept is named."""
    try:
        return encoder.encode_batch(batch)
    except ImageError as error:
        rejected = next((n for n, i in zip(names, batch, strict=True) if _rejects(encoder, i)), "")
        raise ImageError(f"{rejected or names[0]}: {error}") from error


def _rejects(encoder: Encoder, image: ImageArray) -> bool:
    try:
        encoder.encode_batch([image])
    except ImageError:
        return True
    return False
