"""From queries to query vectors: decoded, cropped, encoded and combined.

It is written once, over the :class:`QuerySteps` of whoever searches. A gallery takes each step at
once, a service in its processes and threads while others are served.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import (
    TEXT_COMMAND,
    ImageError,
    InputError,
    LookalikeError,
    MissingRowError,
    SettingError,
)
from lookalike.search.keywords import keywords_of_text
from lookalike.search.region import QueryRegion
from lookalike.search.request import Example, Query, SearchRequest
from lookalike.stores.base import RowReader, Rows
from lookalike.types import Embeddings, ImageArray, Metric
from lookalike.vectors import unit_rows

T = TypeVar("T")

_CANCELLED_OUT = 1e-6
"""Length of a combination, relative to its examples, below which only rounding errors are left."""


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """A query as vectors ``(v, dim)`` float32: one per crop, none for keywords alone.

    Each row counts with its nearest vector. ``row_ids`` are the ids of rows that the query is or
    was made of, which are never hits; ``image`` is the image that geometric verification compares.
    ``keywords`` stand for the texts of the query where the encoder has none; they are fused with
    the vectors as those of a request are.
    """

    name: str
    uri: str | None
    embeddings: Embeddings
    row_ids: tuple[str, ...] = ()
    image: ImageArray | None = None
    keywords: str | None = None


class QuerySteps(Protocol):
    """The steps from examples to embeddings, in one gallery."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def supports_text(self) -> bool:
        """Whether the encoder embeds texts; keywords stand for them otherwise."""
        ...

    @property
    def batch_size(self) -> int:
        """Images to decode and encode at a time: so many are in memory."""
        ...

    async def rows(self, ids: Sequence[str]) -> Rows:
        """Return rows by id, in this order.

        Raises:
            MissingRowError: there is no row with one of the ids.
        """
        ...

    async def crops(
        self, examples: Sequence[Example], rows: Sequence[Rows | None], region: QueryRegion
    ) -> list[list[ImageArray]]:
        """Decode images, URLs and rows; return the crops of each, the first holds the others.

        Args:
            examples: each an image, a URL, or a row.
            rows: the row of each example, None if it is none.
            region: of each image.

        Raises:
            ImageError: an image cannot be read or decoded.
            InputError: the box is not inside an image.
        """
        ...

    async def encode_images(self, images: Sequence[ImageArray]) -> Embeddings:
        """Return ``(n, dim)`` embeddings of images.

        Raises:
            ImageError: the encoder does not accept one of them.
            InputError: the encoder is not available.
        """
        ...

    async def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Return ``(n, dim)`` embeddings of texts, if that is supported.

        Raises:
            InputError: the encoder is not available.
        """
        ...


async def encode_queries(
    queries: Sequence[Query], request: SearchRequest, steps: QuerySteps
) -> list[QueryVectors]:
    """Return the vectors of queries; what can be done for several at a time is.

    Texts are searched for by their words in names and metadata where the encoder has images only.

    Args:
        queries: some of those of the request.
        request: how to search, with the metric.
        steps: of the gallery.

    Raises:
        ImageError: an image cannot be decoded, or the encoder refuses it.
        MissingRowError: there is no row with an id.
        SourceError: the image of a row is needed, and its source is missing.
        InputError: a region where there is no image to crop, a box that is not inside an image, a
            vector of another dimension, examples that cancel each other out, a text without words
            or a negative one for an encoder of images.
    """
    for query in queries:
        query.check_region(request.region)
    several = [
        _by_keywords(query) if query.has_text and not steps.supports_text else (query, None)
        for query in queries
    ]
    examples = [example for query, _ in several for example in query.examples]
    encoded = iter(await _encode_examples(examples, request, steps))
    results = []
    for whole, (query, keywords) in zip(queries, several, strict=True):
        parts = [next(encoded) for _ in query.examples]
        if len(parts) == 1:
            vectors = parts[0]
        elif not parts:
            name = whole.name if whole.examples else request.name
            vectors = QueryVectors(name, None, np.empty((0, steps.dim), np.float32))
        else:
            vectors = _combined(query, parts, request.metric or Metric.COSINE)
        if keywords is not None:
            vectors = replace(vectors, name=whole.name, keywords=keywords)
        results.append(vectors)
    return results


def _by_keywords(query: Query) -> tuple[Query, str | None]:
    """Return a query without its texts, and their words; None if all words are unwanted.

    Raises:
        InputError: a text has no word, results should be unlike it, or nothing else is left than
            what they should be unlike.
    """
    texts = [example for example in query.examples if example.text is not None]
    rest = tuple(example for example in query.examples if example.text is None)
    unlike = next((example for example in texts if example.weight < 0), None)
    if unlike is not None or (rest and not any(example.weight > 0 for example in rest)):
        what = "an image in {like}" if unlike is None else f"no text, such as {unlike.text!r}"
        raise InputError(
            f"{{unlike}} needs {what}, without an image-text encoder; with one: {TEXT_COMMAND}",
            unlike=None,
            like=None,
        )
    positive = [str(example.text) for example in texts if example.weight > 0]
    return Query(rest), keywords_of_text(" ".join(positive)) if positive else None


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine whose steps never wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise AssertionError("a step waited")


def with_stored_rows(query: Query, store: RowReader) -> Query:
    """Return a query whose images of items are the rows of these items, if there are such rows."""

    def row_of(example: Example) -> Example:
        item_id = None if example.image is None else example.image.item_id
        if not example.stored or item_id is None:
            return example
        try:
            store.get([item_id])
        except MissingRowError:
            return example
        return Example(id=item_id, weight=example.weight)

    if not any(example.stored for example in query.examples):
        return query
    return replace(query, examples=tuple(row_of(example) for example in query.examples))


def combine_embeddings(
    embeddings: Embeddings, weights: Sequence[float], metric: Metric
) -> NDArray[np.float32]:
    """Return one vector ``(dim,)`` of several examples: Rocchio's formula without a first query.

    The mean of ``weight * embedding`` over positive weights, plus that over negative weights; those
    of zero do not count. For cosine, embeddings are scaled to unit length first. For l2, the result
    is divided by the sum of both mean weights, so that it is a weighted mean of the embeddings: for
    weights 1 and -0.5, it is twice the mean of the positive ones minus that of the negative ones.

    Rocchio, "Relevance feedback in information retrieval" (1971); Manning et al., "Introduction to
    Information Retrieval" (2008), equation 9.3.

    Args:
        embeddings: ``(n, dim)`` float32.
        weights: of each, at least one above zero.
        metric: of the search.

    Raises:
        InputError: for cosine, the examples cancel each other out.
        SettingError: for l2, the mean weight of the negative ones is not less than that of the
            others.
    """
    factors = np.asarray(weights, np.float64)
    rows = (unit_rows(embeddings) if metric is Metric.COSINE else embeddings).astype(np.float64)
    result, total = np.zeros(rows.shape[1]), 0.0
    for chosen in (factors > 0, factors < 0):
        if chosen.any():
            result += factors[chosen] @ rows[chosen] / chosen.sum()
            total += float(factors[chosen].mean())
    if metric is Metric.L2:
        if total <= 0:
            raise SettingError(
                "{weights}: for l2, those of {unlike} must be smaller on average than the others",
                weights=None,
                unlike=None,
            )
        result /= total
    elif np.linalg.norm(result) <= _CANCELLED_OUT * np.abs(factors).max():
        raise InputError(
            "{like} and {unlike} cancel each other out: the combined vector is zero; change "
            "{weights}, or an example",
            like=None,
            unlike=None,
            weights=None,
        )
    return result.astype(np.float32)


def _combined(query: Query, parts: Sequence[QueryVectors], metric: Metric) -> QueryVectors:
    """Return several examples as one query; if one is an image with crops, one vector for each."""
    weights = [example.weight for example in query.examples]
    vectors = [
        combine_embeddings(
            np.stack([part.embeddings[min(crop, len(part.embeddings) - 1)] for part in parts]),
            weights,
            metric,
        )
        for crop in range(max(len(part.embeddings) for part in parts))
    ]
    row_ids = tuple(row_id for part in parts for row_id in part.row_ids)
    images = [part for example, part in zip(query.examples, parts, strict=True) if example.is_image]
    image = images[0].image if len(images) == 1 else None
    return QueryVectors(query.name, None, np.stack(vectors), row_ids, image)


@dataclass(slots=True)
class _Part:
    """An example while it is encoded."""

    example: Example
    row: Rows | None = None
    crops: list[ImageArray] = field(default_factory=list)
    embeddings: Embeddings | None = None

    def vectors(self) -> QueryVectors:
        """Return it as a query of its own."""
        assert self.embeddings is not None
        image = self.example.image
        uri = None if image is None else image.uri
        row_id = self.example.id if image is None else image.item_id
        if self.row is not None:
            uri, row_id = self.row.uris[0], self.row.ids[0]
        return QueryVectors(
            self.example.name,
            uri,
            self.embeddings,
            () if row_id is None else (row_id,),
            self.crops[0] if self.crops else None,
        )


async def _encode_examples(
    examples: Sequence[Example], request: SearchRequest, steps: QuerySteps
) -> list[QueryVectors]:
    """Return each example as a query of its own; all of a kind are encoded together."""
    parts = [_Part(example) for example in examples]
    stored = [part for part in parts if part.example.id is not None]
    if stored:
        rows = await _stored_rows([part.example for part in stored], steps)
        for place, part in enumerate(stored):
            part.row = rows.take([place])
            if request.region.is_whole_image:
                part.embeddings = part.row.embeddings
    await _encode_images(parts, request, steps)
    texts = [part for part in parts if part.example.text is not None]
    if texts:
        embeddings = await steps.encode_texts([str(part.example.text) for part in texts])
        for place, part in enumerate(texts):
            part.embeddings = embeddings[place : place + 1]
    for part in parts:
        if part.example.vector is not None:
            with _about([part.example]):
                part.embeddings = _checked_vector(part.example.vector, steps.dim)
    return [part.vectors() for part in parts]


async def _stored_rows(examples: Sequence[Example], steps: QuerySteps) -> Rows:
    try:
        return await steps.rows([str(example.id) for example in examples])
    except MissingRowError as error:
        places = (example.place for example in examples if example.id == error.row_id)
        raise error.about(*filter(None, places)) from None


async def _encode_images(parts: Sequence[_Part], request: SearchRequest, steps: QuerySteps) -> None:
    """Decode and encode images and URLs, and rows of which a crop or the image is needed."""
    rows_too = request.needs_image or not request.region.is_whole_image
    chosen = [
        part for part in parts if part.example.is_image and (rows_too or part.example.id is None)
    ]
    for start in range(0, len(chosen), steps.batch_size):
        batch = chosen[start : start + steps.batch_size]
        examples = [part.example for part in batch]
        with _about(examples):
            crops = await steps.crops(examples, [part.row for part in batch], request.region)
        for part, each in zip(batch, crops, strict=True):
            part.crops = each
        await _encode_crops([part for part in batch if part.embeddings is None], steps)
        for part in batch:
            part.crops = part.crops[:1] if request.needs_image else []


@contextmanager
def _about(examples: Sequence[Example]) -> Iterator[None]:
    """Note in errors the example that they are about, if there is one only."""
    try:
        yield
    except LookalikeError as error:
        if len(examples) == 1 and examples[0].place:
            error.about(examples[0].place)
        raise


async def _encode_crops(parts: Sequence[_Part], steps: QuerySteps) -> None:
    """Encode the crops of several examples; an error names the example."""
    if not parts:
        return
    try:
        embeddings = await steps.encode_images([crop for part in parts for crop in part.crops])
    except ImageError as error:
        if len(parts) == 1:
            with _about([parts[0].example]):
                raise ImageError(f"{parts[0].example.name}: {error}") from error
        for part in parts:
            await _encode_crops([part], steps)
        return
    start = 0
    for part in parts:
        part.embeddings = embeddings[start : start + len(part.crops)]
        start += len(part.crops)


def _checked_vector(vector: NDArray[np.float32], dim: int) -> Embeddings:
    if len(vector) != dim:
        raise InputError(
            f"{{vector}} has {len(vector)} dimensions; the embeddings of this gallery have {dim}",
            vector=None,
        )
    return vector[None]
