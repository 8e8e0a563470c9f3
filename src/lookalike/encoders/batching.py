"""Fit an encoder to a source, and encode the images of a source in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import find_encoder_spec
from lookalike.errors import ImageError, SourceError
from lookalike.sources import Item, Source
from lookalike.sources.sampling import sample_images, thread_map
from lookalike.types import Embeddings, ImageArray

ENCODE_BATCH = 1024
ENCODE_BYTES = 128 << 20
"""As many images, or bytes of pixels, at most are held decoded where they are only encoded."""


def fit_encoder(name: str, source: Source) -> Encoder:
    """Make the encoder of that name for a source, of which it may learn sizes and projections.

    Raises:
        UnknownNameError: no such encoder; the nearest is offered.
        InputError: it cannot be made for these images.
        SourceError: none can be decoded; the first one's reason is given.
    """
    described = find_encoder_spec(name)
    return described.fit(name, sample_images(source, described.sample, described.side))


def check_first_image(source: Source, encoder: Encoder) -> None:
    """See that an encoder takes the first image of a source that can be decoded.

    Raises:
        SourceError: none can be decoded.
        ImageError: the encoder refuses it; the image is named.
    """
    reason = ""
    for item in source:
        try:
            image = item.image()
        except ImageError as error:
            reason = reason or str(error)
            continue
        try:
            encoder.encode([image])
        except ImageError as error:
            raise ImageError(f"{item.uri}: {error}") from error
        return
    raise SourceError(f"{source.spec}: not one image can be read; the first, {reason}")


def encode_items(
    encoder: Encoder, items: Sequence[Item], report: Callable[[int], None] = lambda _: None
) -> Iterator[Embeddings]:
    """Yield embeddings ``(n, dim)`` of items in their order, a batch at a time.

    ``report`` is told how many are done.

    Raises:
        ImageError: an image cannot be decoded or the encoder refuses it; it is named.
    """
    images: list[ImageArray] = []
    size = 0
    for done, image in enumerate(thread_map(Item.image, items), 1):
        images.append(image)
        size += images[-1].nbytes
        if len(images) == ENCODE_BATCH or size >= ENCODE_BYTES or done == len(items):
            try:
                yield encoder.encode(images)
            except ImageError as error:
                refused = _first_refused(encoder, items[done - len(images) : done])
                raise ImageError(f"{refused}: {error}") from error
            report(done)
            images, size = [], 0


def _first_refused(encoder: Encoder, items: Sequence[Item]) -> str:
    for item in items:
        try:
            encoder.encode([item.image()])
        except ImageError:
            return item.uri
    return items[0].uri
