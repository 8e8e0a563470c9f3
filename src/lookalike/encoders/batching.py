"""Fitting an encoder to a source, and encoding images of a source in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import find_encoder_spec
from lookalike.errors import ImageError, SourceError
from lookalike.sources import Item, Source
from lookalike.sources.base import NO_FAILURES, failure_reason
from lookalike.sources.sampling import sample_images, thread_map
from lookalike.types import Embeddings, ImageArray

_MAX_BATCH_IMAGES, _MAX_BATCH_BYTES = 1024, 128 << 20
"""Limits of a batch of decoded images."""


def fit_encoder(name: str, source: Source) -> Encoder:
    """Open an encoder by name and fit its size and projection to a sample of a source.

    Raises:
        UnknownNameError: no such encoder; the message suggests the nearest name.
        InputError: it cannot be fitted to these images.
        SourceError: no image can be decoded; the message has the first reason.
    """
    spec = find_encoder_spec(name)
    return spec.fit(name, sample_images(source, spec.sample, spec.side))


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


def encode_items(
    encoder: Encoder, items: Sequence[Item], report: Callable[[int], None] = lambda _: None
) -> Iterator[Embeddings]:
    """Yield embeddings ``(n, dim)`` of items in order, one batch at a time.

    ``report`` is called with the number of items encoded so far.

    Raises:
        ImageError: an image cannot be decoded, or the encoder does not accept it.
    """
    images: list[ImageArray] = []
    size = 0
    for done, image in enumerate(thread_map(Item.image, items), 1):
        images.append(image)
        size += images[-1].nbytes
        if len(images) == _MAX_BATCH_IMAGES or size >= _MAX_BATCH_BYTES or done == len(items):
            try:
                yield encoder.encode_batch(images)
            except ImageError as error:
                uri = _first_rejected(encoder, items[done - len(images) : done])
                raise ImageError(f"{uri}: {error}") from error
            report(done)
            images, size = [], 0


def _first_rejected(encoder: Encoder, items: Sequence[Item]) -> str:
    for item in items:
        try:
            encoder.encode_batch([item.image()])
        except ImageError:
            return item.uri
    return items[0].uri
