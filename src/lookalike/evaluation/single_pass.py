"""Decode images once and give each to several encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.encoders.base import Encoder, Preprocessing
from lookalike.encoders.handcrafted import HandcraftedEncoder
from lookalike.errors import ImageError, LookalikeError
from lookalike.evaluation.baselines import UNUSABLE
from lookalike.sources import Item
from lookalike.sources.sampling import DecodedBatch, decode_batches, thread_map
from lookalike.types import Embeddings, ImageArray, Progress, ProgressCallback, ignore_progress

_SLICE = 64
"""Images that one thread encodes at a time with handcrafted encoders."""


@dataclass(frozen=True, slots=True)
class EncodedItems:
    """Items as several encoders see them.

    ``embeddings`` are ``(n, dim)`` float32 by name of the encoder, zeros where an item cannot be
    decoded; ``unread`` are the reasons of these, by place. ``rejected`` are the errors of encoders
    that could not be run on all others, which have no embeddings.
    """

    embeddings: dict[str, Embeddings]
    unread: Mapping[int, ImageError]
    rejected: Mapping[str, LookalikeError]


def encode_once(
    items: Sequence[Item],
    encoders: Mapping[str, Encoder],
    *,
    batches: Iterator[DecodedBatch] | None = None,
    only: Mapping[str, NDArray[np.bool_]] | None = None,
    visit: Callable[[int, ImageArray], None] | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> EncodedItems:
    """Decode each item once and encode it with every encoder.

    In memory are a batch of images (128 MiB), those that threads decode ahead, and the embeddings.

    Args:
        items: to encode, in order.
        encoders: by name.
        batches: of all the items, by :func:`decode_batches`, if their decoding has begun.
        only: ``(n,)``: the items that an encoder is given, by its name; all by default.
        visit: called with the place and the image of each item that can be decoded, in order.
        on_progress: called after each batch.
    """
    embeddings = {name: np.zeros((len(items), e.dim), np.float32) for name, e in encoders.items()}
    unread: dict[int, ImageError] = {}
    rejected: dict[str, LookalikeError] = {}
    on_progress(Progress("encode", 0, len(items), "images"))
    for batch in decode_batches(items) if batches is None else batches:
        unread.update(batch.failures)
        places = np.array(batch.places, np.int64)
        wanted = {
            name: np.flatnonzero(only[name][places]) if only and name in only else None
            for name in embeddings
        }
        for name, part in _encode_batch(batch.images, encoders, wanted).items():
            chosen = wanted[name]
            rows = places if chosen is None else places[chosen]
            if isinstance(part, ImageError):
                images = (
                    batch.images if chosen is None else [batch.images[i] for i in chosen.tolist()]
                )
                place = int(rows[_first_rejected(encoders[name], images)])
                rejected[name] = ImageError(f"{items[place].uri}: {part}")
            elif isinstance(part, LookalikeError):
                rejected[name] = part
            else:
                embeddings[name][rows] = part
        for name in rejected.keys() & embeddings.keys():
            del embeddings[name]
        if visit is not None:
            for place, image in zip(batch.places, batch.images, strict=True):
                visit(place, image)
        on_progress(Progress("encode", batch.done, len(items), "images"))
    return EncodedItems(embeddings, unread, rejected)


def _encode_batch(
    images: Sequence[ImageArray],
    encoders: Mapping[str, Encoder],
    wanted: Mapping[str, NDArray[np.int64] | None],
) -> dict[str, Embeddings | LookalikeError]:
    """Encode images with the encoders that are wanted: all of them, or those of some places."""
    every = {name: encoders[name] for name, places in wanted.items() if places is None}
    results = encode_images(images, every)
    for name, places in wanted.items():
        if places is not None:
            some = [images[place] for place in places.tolist()]
            results |= encode_images(some, {name: encoders[name]})
    return results


def encode_images(
    images: Sequence[ImageArray], encoders: Mapping[str, Encoder]
) -> dict[str, Embeddings | LookalikeError]:
    """Encode images with every encoder, in threads.

    Handcrafted encoders with the same preprocessing share the resized images.

    Args:
        images: each ``(H, W)`` or ``(H, W, 3)`` uint8.
        encoders: by name.

    Returns:
        By name, ``(n, dim)`` float32, or why the encoder cannot be run on these images.
    """
    if not images:
        return {name: np.empty((0, e.dim), np.float32) for name, e in encoders.items()}
    parts: dict[str, list[Embeddings]] = {name: [] for name in encoders}
    failures: dict[str, LookalikeError] = {}
    for results in thread_map(_Task.run, _tasks(images, encoders), batch_size=1):
        check_cancelled()
        for name, result in results.items():
            if isinstance(result, LookalikeError):
                failures.setdefault(name, result)
            else:
                parts[name].append(result)
    return {
        name: failures[name] if name in failures else np.concatenate(each)
        for name, each in parts.items()
    }


@dataclass(frozen=True, slots=True)
class _Task:
    """Images to encode, after a preprocessing that several encoders share, if any."""

    images: Sequence[ImageArray]
    encoders: Mapping[str, Encoder]
    shared: Preprocessing | None = None

    def run(self) -> dict[str, Embeddings | LookalikeError]:
        images = self.images
        if self.shared is not None:
            pixels = self.shared.apply(images)
            images = list(pixels[..., 0] if self.shared.channels == 1 else pixels)
        results: dict[str, Embeddings | LookalikeError] = {}
        for name, encoder in self.encoders.items():
            try:
                results[name] = encoder.encode_batch(images)
            except UNUSABLE as error:
                results[name] = error
        return results


def _tasks(images: Sequence[ImageArray], encoders: Mapping[str, Encoder]) -> Iterator[_Task]:
    """Yield what one thread does at a time.

    Only handcrafted encoders, pure functions, are run by several threads at once.
    """
    groups: dict[Preprocessing | None, dict[str, HandcraftedEncoder]] = {}
    for name, encoder in encoders.items():
        if not isinstance(encoder, HandcraftedEncoder):
            yield _Task(images, {name: encoder})
        else:
            preprocessing = encoder.preprocessing
            shared = preprocessing if _is_idempotent(preprocessing) else None
            groups.setdefault(shared, {})[name] = encoder
    for shared, group in groups.items():
        apply = shared if len(group) > 1 else None
        for start in range(0, len(images), _SLICE):
            yield _Task(images[start : start + _SLICE], group, apply)


def _is_idempotent(preprocessing: Preprocessing) -> bool:
    """Return whether it leaves the images alone that it has already been applied to."""
    p = preprocessing
    return not p.exact and p.crop is None and p.pad is None and not p.resize


def _first_rejected(encoder: Encoder, images: Sequence[ImageArray]) -> int:
    """Return the place of the first image that the encoder does not accept."""
    for place, image in enumerate(images):
        try:
            encoder.encode_batch([image])
        except ImageError:
            return place
    return 0
