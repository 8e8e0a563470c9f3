"""The one public search call, of galleries on this machine and of those of a service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike

from lookalike.errors import InputError
from lookalike.files import is_url
from lookalike.filters import Where
from lookalike.search.hits import Hits, HitsList
from lookalike.search.region import QueryRegion
from lookalike.search.request import Example, Query, SearchRequest, as_vectors
from lookalike.sources.inputs import InputImage, ManyImages, OneImage, as_images
from lookalike.types import Metric

_QUERIES = (
    "pass one of {query}, {id}, {text}, {url}, {vector} and {vectors}, or {like} with {unlike}"
)
_LONGEST = 100
"""Characters of an argument that a message shows."""

_NAMES = ("query", "id", "text", "url", "vector", "vectors", "like", "unlike")


class SearchOptions(TypedDict, total=False):
    """The options of :meth:`Searchable.search`, which are explained there."""

    k: int
    where: Where | None
    min_similarity: float | None
    max_distance: float | None
    metric: Metric | str | None
    exact: bool
    box: Sequence[int] | None
    foreground: bool
    multi_crop: bool
    rerank: str | Sequence[str] | None
    keywords: str | None
    value_range: tuple[float, float] | None


class Searchable(ABC):
    """What can be searched with images, ids, texts, URLs and vectors."""

    __slots__ = ()

    @abstractmethod
    def _search(self, request: SearchRequest) -> list[Hits]:
        """Return the hits of each query of a request, in its order."""

    @overload
    def search(  # type: ignore[overload-overlap]  # a str is one image, though an iterable
        self,
        query: OneImage | None = None,
        *,
        id: str | None = None,
        text: str | None = None,
        url: str | None = None,
        vector: ArrayLike | None = None,
        like: object = None,
        unlike: object = None,
        weights: Sequence[float] | None = None,
        **options: Unpack[SearchOptions],
    ) -> Hits: ...
    @overload
    def search(self, query: ManyImages, **options: Unpack[SearchOptions]) -> list[Hits]: ...
    @overload
    def search(
        self,
        *,
        id: list[str] | tuple[str, ...],
        **options: Unpack[SearchOptions],
    ) -> list[Hits]: ...
    @overload
    def search(
        self,
        *,
        text: list[str] | tuple[str, ...],
        **options: Unpack[SearchOptions],
    ) -> list[Hits]: ...
    @overload
    def search(
        self,
        *,
        url: list[str] | tuple[str, ...],
        **options: Unpack[SearchOptions],
    ) -> list[Hits]: ...
    @overload
    def search(self, *, vectors: ArrayLike, **options: Unpack[SearchOptions]) -> list[Hits]: ...
    def search(  # noqa: PLR0913 - keyword options of the public call
        self,
        query: OneImage | ManyImages | None = None,
        *,
        id: str | Sequence[str] | None = None,  # noqa: A002 - the field's name everywhere else
        text: str | Sequence[str] | None = None,
        url: str | Sequence[str] | None = None,
        vector: ArrayLike | None = None,
        vectors: ArrayLike | None = None,
        like: object = None,
        unlike: object = None,
        weights: Sequence[float] | None = None,
        k: int = 7,
        where: Where | None = None,
        min_similarity: float | None = None,
        max_distance: float | None = None,
        metric: Metric | str | None = None,
        exact: bool = False,
        box: Sequence[int] | None = None,
        foreground: bool = False,
        multi_crop: bool = False,
        rerank: str | Sequence[str] | None = None,
        keywords: str | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> Hits | list[Hits]:
        """Return the ``k`` most similar rows to a query, nearest first; for several, a list.

        One image, id, text, URL or vector gives :class:`Hits`. Several (a list, a batch of arrays,
        a source, ``vectors``) give a list with the hits of each, in their order; together they take
        much less time than one by one.

        Several examples make one query with ``like``, ``unlike`` and ``text``: the mean of the
        examples that results should be like, minus that of those they should be unlike (Rocchio
        1971), each times its weight. For cosine, embeddings are scaled to unit length first. The
        weight is 1, of ``unlike`` 0.5, so that the query has the direction of twice the mean of
        ``like`` minus that of ``unlike``. For l2, the sum is divided by the difference of the mean
        weights, so that it stays among the embeddings.

        Args:
            query: an image: a path, a file's bytes or file object, a PIL image, an array ``(H, W)``
                or ``(H, W, 3|4)`` uint8, a tensor, an item; or several. An item's own row is not
                among its hits.
            id: use this row as the query; it is not among the hits.
            text: a text query, for encoders of images and text.
            url: of an image to fetch; a service does so only if it allows that.
            vector: an embedding ``(dim,)``, of any length.
            vectors: embeddings ``(n, dim)``: n queries.
            like: images, items of galleries, or embeddings ``(dim,)``. For an item of this
                gallery, its stored embedding is used; it is not among the hits.
            unlike: the same, for what results should be unlike.
            weights: of ``like``, ``unlike`` and ``text``, in this order, at least 0.
            k: results per query, at least 1.
            where: filter by metadata, e.g. ``"year >= 2020"`` or ``{"year": {"gte": 2020}}`` (see
                :mod:`lookalike.filters`).
            min_similarity: minimum cosine similarity, from -1 to 1 (identical).
            max_distance: maximum distance, in the metric's units.
            metric: ``l2`` or ``cosine``; the gallery's own by default.
            exact: exact search; skip the approximate index of a large gallery.
            box: crop the query to x, y, width and height in pixels.
            foreground: crop the query to its main object, if one is detected.
            multi_crop: also search with 13 crops of the query; each row counts with its nearest.
            rerank: names in :data:`lookalike.search.RERANKINGS`, or one string of them joined by
                ``+``, applied one after another to the first 200 hits. They change the order;
                distances stay those from the query to the rows.
            keywords: full-text search in metadata (:mod:`lookalike.search.keywords`), fused by
                rank with the image ranking. Alone, if there is no other query, the distance of a
                hit is 1 - score / best score.
            value_range: values of black and white in arrays that are not uint8, as ``(0, 1)``.

        Raises:
            ImageError: a query cannot be decoded, or the encoder refuses it; no hits are returned.
            MissingRowError: there is no row with an id.
            InputError: there is no query or more than one kind, a list is empty, a vector is of
                another dimension or not finite, the encoder does not support text or is not
                available, the filter cannot be parsed or does not fit the metadata, or the box is
                not inside the image.
            SettingError: an option is out of range, or options exclude each other.
            UnknownNameError: no such re-ranking.
        """
        if like is not None or unlike is not None:
            _refuse_other(query=query, id=id, url=url, vector=vector, vectors=vectors)
            queries = [self._combined(like, unlike, text, weights, value_range)]
            single = True
        else:
            if weights is not None:
                raise InputError("{weights} needs {like}", weights=None, like=None)
            queries, single = self._queries(
                {"id": id, "text": text, "url": url, "vector": vector, "vectors": vectors},
                query,
                value_range,
            )
        request = SearchRequest(
            queries=tuple(queries),
            region=QueryRegion.of(box, foreground=foreground, multi_crop=multi_crop),
            k=k,
            metric=None if metric is None else Metric(metric),
            where=where,
            max_distance=max_distance,
            min_similarity=min_similarity,
            exact=exact,
            rerank=rerank,
            keywords=keywords,
        )
        for each in queries:
            each.check_region(request.region)
        results = self._search(request)
        return results[0] if single else HitsList(results)

    def _queries(
        self,
        values: Mapping[str, Any],
        query: object,
        value_range: tuple[float, float] | None,
    ) -> tuple[list[Query], bool]:
        """Return queries of one example, and whether it is one query, not a list of one."""
        names = [name for name, value in values.items() if value is not None]
        if len(names) + (query is not None) > 1:
            given = [*(["query"] if query is not None else []), *names]
            raise InputError(
                f"{' and '.join(f'{{{name}}}' for name in given)} exclude each other; {_QUERIES}",
                **dict.fromkeys(_NAMES),
            )
        if query is not None:
            examples, single = self._examples(query, "query", value_range)
        elif not names:
            return [Query()], True
        else:
            examples, single = _value_examples(names[0], values[names[0]])
        return [Query((example,)) for example in examples], single

    def _combined(
        self,
        like: object,
        unlike: object,
        text: object,
        weights: object,
        value_range: tuple[float, float] | None,
    ) -> Query:
        """Return one query of several examples."""
        positive, negative = (
            [] if values is None else self._examples(values, name, value_range)[0]
            for name, values in (("like", like), ("unlike", unlike))
        )
        return Query.combine(
            positive, negative, None if text is None else _text_example(text), weights=weights
        )

    def _examples(
        self, values: object, argument: str, value_range: tuple[float, float] | None
    ) -> tuple[list[Example], bool]:
        """Return images, items and embeddings as examples, and whether it is one.

        Raises:
            InputError: they are something else, or none.
        """
        if isinstance(values, Iterator):
            values = list(values)  # what they are is looked at twice
        one = self._special(values, argument)
        if one is not None:
            return [one], True
        several = values if isinstance(values, list | tuple) else ()
        for value in (values, *several):
            if isinstance(value, str) and is_url(value):
                raise InputError(
                    f"{{{argument}}} {value[:_LONGEST]!r} is a URL; pass it as {{url}}",
                    **{argument: None, "url": None},
                )
        special = [self._special(value, f"{argument}[{i}]") for i, value in enumerate(several)]
        if not any(example is not None for example in special):
            images = as_images(values, argument=argument, value_range=value_range)
            return [_image_example(image, argument) for image in images], images.single
        examples: list[Example] = []
        for place, (value, example) in enumerate(zip(several, special, strict=True)):
            if example is not None:
                examples.append(example)
                continue
            images = as_images(value, argument=f"{argument}[{place}]", value_range=value_range)
            examples += [_image_example(image, argument) for image in images]
        return examples, False

    def _special(self, value: object, argument: str) -> Example | None:
        """Return the example of a row of a gallery, or of an embedding; None if it is neither."""
        if isinstance(value, Example):
            return value
        owner, row_id = getattr(value, "gallery", None), getattr(value, "id", None)
        if owner is not None and isinstance(row_id, str):
            if owner is self or owner == self:
                return Example(id=row_id)
            return Example(image=as_images(value, argument=argument)[0], stored=True)
        is_vector = isinstance(value, np.ndarray) or hasattr(value, "detach")
        if argument.startswith("query") or not is_vector or getattr(value, "ndim", 0) != 1:
            return None
        if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":  # of paths
            return None
        return Example(vector=as_vectors("vector", value, ndim=1))


def _image_example(image: InputImage, argument: str) -> Example:
    """Return an image as an example; that of an item among several may be a row."""
    return Example(image=image, stored=argument != "query" and image.item_id is not None)


def _value_examples(name: str, values: object) -> tuple[list[Example], bool]:
    """Return ids, texts, URLs or vectors as examples, and whether it is one."""
    if name == "vector":
        return [Example(vector=as_vectors(name, values, ndim=1))], True
    if name == "vectors":
        return [Example(vector=row) for row in as_vectors(name, values, ndim=2)], False
    if isinstance(values, str):
        return [_named_example(name, values)], True
    is_table = isinstance(values, bytes | Mapping) or hasattr(values, "columns")
    if is_table or not isinstance(values, Iterable):
        raise InputError(
            f"{{{name}}} must be a string or a list of strings, not {type(values).__name__}",
            **{name: None},
        )
    examples = []
    for value in values:
        if not isinstance(value, str):
            raise InputError(
                f"{{{name}}} must be a string or a list of strings; one of the list is "
                f"{type(value).__name__}",
                **{name: None},
            )
        examples.append(_named_example(name, value))
    if not examples:
        raise InputError(f"{{{name}}} is an empty list: pass at least one", **{name: None})
    return examples, False


def _named_example(name: str, value: str) -> Example:
    fields: dict[str, Any] = {name: value}
    return Example(**fields)


def _text_example(text: object) -> Example:
    if not isinstance(text, str):
        raise InputError(
            "{text} beside {like} and {unlike} must be one string",
            text=None,
            like=None,
            unlike=None,
        )
    return Example(text=text)


def _refuse_other(**values: object) -> None:
    """Check that there is no other query beside several examples.

    Raises:
        InputError: there is one; it is named.
    """
    for name, value in values.items():
        if value is not None:
            raise InputError(
                f"{{{name}}} excludes {{like}} and {{unlike}}; pass an image or item as one of "
                "{like}",
                **{name: None},
                like=None,
                unlike=None,
            )
