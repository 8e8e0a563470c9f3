"""The one public search call, of galleries on this machine and of those of a service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from numpy.typing import ArrayLike

from lookalike.errors import InputError, UnknownNameError
from lookalike.types import Metric

if TYPE_CHECKING:
    from lookalike.filters import Where
    from lookalike.search.hits import Hits
    from lookalike.search.request import SearchRequest
    from lookalike.sources.inputs import ManyImages, OneImage


class SearchOptions(TypedDict, total=False):
    """The options of :meth:`Searchable.search`, which are explained there."""

    k: int
    offset: int
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


class OneQueryOptions(SearchOptions, total=False):
    """The arguments of a search for one query."""

    id: str | None
    text: str | None
    url: str | None
    vector: ArrayLike | None
    like: object
    unlike: object
    weights: Sequence[float] | None


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
        offset: int = 0,
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
            offset: results to leave out before them, so that ``offset=k`` is the second page. Hits
                of later pages are exact; together with ``k`` at most 16,384, unless there are no
                distances.
            where: filter by metadata, e.g. ``"year >= 2020"`` or ``{"year": {"gte": 2020}}`` (see
                :mod:`lookalike.filters`). Alone, if there is no other query, it gives the rows that
                match, ordered by id; their distances are NaN.
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
        from lookalike.search.hits import HitsList

        options: SearchOptions = {
            "k": k,
            "offset": offset,
            "where": where,
            "min_similarity": min_similarity,
            "max_distance": max_distance,
            "metric": metric,
            "exact": exact,
            "box": box,
            "foreground": foreground,
            "multi_crop": multi_crop,
            "rerank": rerank,
            "keywords": keywords,
            "value_range": value_range,
        }
        values = {"id": id, "text": text, "url": url, "vector": vector, "vectors": vectors}
        examples = {"like": like, "unlike": unlike, "weights": weights}
        request, single = _read_request(self, query, values, examples, dict(options))
        results = self._search(request)
        return results[0] if single else HitsList(results)

    def search_pages(
        self, query: OneImage | None = None, **options: Unpack[OneQueryOptions]
    ) -> Iterator[Hits]:
        """Iterate over the results of one query page by page, ``k`` at a time, as they are used.

        ``for page in gallery.search_pages(id="photos:1.jpg", k=100)`` goes on to the last row, or
        until 16,384 hits, which is the limit where they have distances. All pages are of the rows
        as they were at the first one; a service answers with an error if they have changed. Pages
        follow each other exactly, also after a first one of an approximate search.

        Args:
            query: an image, see :meth:`search`.
            options: the other arguments of :meth:`search` for one query.

        Raises:
            LookalikeError: see :meth:`search`.
            ServiceError: of kind ``revision-changed``: the gallery of a service has changed.
        """
        known: dict[str, Any] = dict(options)
        values = {name: known.pop(name, None) for name in ("id", "text", "url", "vector")}
        examples = {name: known.pop(name, None) for name in ("like", "unlike", "weights")}
        request, single = _read_request(self, query, values, examples, known)
        if not single:
            raise InputError("{query}: pages are those of one query, not of several", query=None)
        return self._pages(request)

    def _pages(self, request: SearchRequest) -> Iterator[Hits]:
        """Yield the pages of a request of one query that have hits, from this one on."""
        following: SearchRequest | None = request
        while following is not None:
            [hits] = self._search(following)
            if hits:
                yield hits
            following = following.next_page(len(hits), hits.total)


def _read_request(
    gallery: Searchable,
    query: object,
    values: Mapping[str, Any],
    examples: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[SearchRequest, bool]:
    """Return what users pass to a search as a request, and whether it is of one query.

    Args:
        gallery: that is searched.
        query: images.
        values: other queries, by the name of their argument.
        examples: ``like``, ``unlike`` and ``weights``.
        options: all others.
    """
    from lookalike.search.arguments import combine_examples, read_queries, refuse_other
    from lookalike.search.region import QueryRegion
    from lookalike.search.request import SearchRequest

    known = dict(options)
    if unknown := sorted(known.keys() - SearchOptions.__annotations__):
        raise UnknownNameError("option", unknown[0], SearchOptions.__annotations__)
    value_range = known.pop("value_range", None)
    region = QueryRegion.of(
        known.pop("box", None),
        foreground=known.pop("foreground", False),
        multi_crop=known.pop("multi_crop", False),
    )
    like, unlike, weights = (examples[name] for name in ("like", "unlike", "weights"))
    if like is not None or unlike is not None:
        others = {name: value for name, value in values.items() if name != "text"}
        refuse_other(query=query, **others)
        text = values["text"]
        queries = [combine_examples(gallery, like, unlike, text, weights, value_range)]
        single = True
    else:
        if weights is not None:
            raise InputError("{weights} needs {like}", weights=None, like=None)
        queries, single = read_queries(gallery, values, query, value_range)
    if known.get("metric") is not None:
        known["metric"] = Metric(known["metric"])
    request = SearchRequest(queries=tuple(queries), region=region, **known)
    for each in queries:
        each.check_region(region)
    return request, single
