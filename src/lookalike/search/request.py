"""A search request: the queries, and how to search for them, validated.

The library, the client, the HTTP API, the command line and the page all build one of these.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import ascii_letters, digits
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.arguments import as_flag
from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.filters import Filter, Where, as_filter
from lookalike.search.region import WHOLE_IMAGE, QueryRegion
from lookalike.stores.base import MAX_K
from lookalike.texts import repeated
from lookalike.types import ImageArray, Metric
from lookalike.vectors import as_numbers

RERANKINGS: Mapping[str, str] = {
    "aqe": "alpha query expansion: search again with the query moved towards its 3 nearest rows",
    "dba": "database augmentation: compare with each hit moved towards its 3 nearest hits",
    "k-reciprocal": "prefer hits that share mutual nearest neighbors with the query",
    "diffusion": "rank hits by diffusion over their neighbor graph",
    "geometric": "geometric verification: first the hits whose local features match the query's",
}
"""Re-ranking methods and what each does."""

UNLIKE_WEIGHT = 0.5
"""Default weight of an example that results should be unlike."""

_LONGEST_NAME = 60
"""Characters of an unknown re-ranking that a message shows."""

_LONGEST_QUERY_NAME = 200
"""Characters of the name of a query of several examples."""

_ROUNDING = 1e-9
"""Distance that an image may have to itself by rounding."""

_PIECE = 1 << 18
_MAX_PADDING = 100
_NOT_BASE64 = bytes(set(range(256)) - set(f"{ascii_letters}{digits}+/".encode()))

_KINDS = ("image", "id", "text", "url", "vector")
_NUMBERS = ("k", "offset")
_OPTIONS = ("metric", "where", "max_distance", "min_similarity", "exact", "rerank", "keywords")


class QueryImage(Protocol):
    """An image of a query, not decoded yet; :class:`lookalike.sources.inputs.InputImage` is one."""

    @property
    def name(self) -> str:
        """Names it in messages."""
        ...

    @property
    def uri(self) -> str | None:
        """Its location, if it has one."""
        ...

    @property
    def item_id(self) -> str | None:
        """The id of the item that it belongs to, if it does."""
        ...

    def image(self, *, full_size: bool = False) -> ImageArray:
        """Return it decoded, ``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            ImageError: it cannot be read or decoded.
        """
        ...

    def file_bytes(self) -> bytes:
        """Return its file, or a PNG of its pixels.

        Raises:
            ImageError: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class SentImage:
    """An image file that was sent: its bytes, or base64 that is decoded when they are needed."""

    data: bytes | str = field(repr=False)
    name: str = "the image"
    uri: str | None = None
    item_id: str | None = None

    def image(self, *, full_size: bool = False) -> ImageArray:
        """Return it decoded, ``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            InputError: it is not base64.
            ImageError: it cannot be decoded.
        """
        from lookalike.images.decode import decode

        return decode(self.file_bytes(), name=self.name, full_size=full_size)

    def file_bytes(self) -> bytes:
        """Return the file.

        Raises:
            InputError: it is not base64.
        """
        if isinstance(self.data, bytes):
            return self.data
        try:
            return b"".join(_base64_pieces(self.data))
        except ValueError as error:
            raise InputError(f"image: not base64 ({error})") from None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """What results should be like, or unlike: exactly one image, row, text, URL or vector.

    Args:
        image: an image.
        id: of a row of the gallery; it is not among the hits.
        text: for encoders of images and text.
        url: of an image to fetch.
        vector: an embedding ``(dim,)``, of any length but zero for cosine.
        weight: of this example; negative if results should be unlike it, zero to ignore it.
        stored: use the stored embedding if the image is that of a row.
        place: of it in a request, which errors are about: ``like/0/id``.

    Raises:
        InputError: not exactly one of them is set, one is of another type, or the vector is not one
            of finite numbers.
        SettingError: the weight is not finite.
    """

    image: QueryImage | None = None
    id: str | None = None
    text: str | None = None
    url: str | None = None
    vector: NDArray[np.float32] | None = None
    weight: float = 1.0
    stored: bool = False
    place: str = ""

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in _KINDS}
        if sum(value is not None for value in values.values()) != 1:
            raise InputError(f"a query needs exactly one of {', '.join(_KINDS[:-1])} and vector")
        for name in ("id", "text", "url"):
            if values[name] is not None and not isinstance(values[name], str):
                kind = type(values[name]).__name__
                raise InputError(f"{{{name}}} must be a string, not {kind}", **{name: None})
        object.__setattr__(self, "weight", _finite_number("weights", self.weight))
        if self.vector is not None:
            object.__setattr__(self, "vector", as_vectors("vector", self.vector, ndim=1))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], place: str = "") -> Self:
        """Return an example of a JSON object such as ``{"id": "photos:1.jpg"}``.

        Args:
            fields: of the object; an image may be a :class:`QueryImage` too, whose attribute
                ``field``, if there is one, names it in the request.
            place: of the object in the request, with a slash at its end; empty at its root.

        Raises:
            InputError: it has not exactly one field, or that is unknown or of another type.
        """
        known: dict[str, Any] = {
            name: value for name in _KINDS if (value := fields.get(name)) is not None
        }
        whole = place.removesuffix("/")
        image = known.get("image")
        names = [getattr(image, "field", name) if name == "image" else name for name in known]
        places = [f"{place}{name}" for name in names] or [whole] * bool(whole)
        if isinstance(image, str):
            known["image"] = SentImage(image)
        elif image is not None and not hasattr(image, "file_bytes"):
            raise InputError("{image} must be a file in base64", image=None).about(*places)
        try:
            return cls(place=places[0] if places else "", **known)
        except InputError as error:
            raise error.about(*places) from None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, without its weight; an image is its file in base64.

        Raises:
            ImageError: the file cannot be read.
        """
        if self.image is not None:
            return {"image": b64encode(self.image.file_bytes()).decode()}
        if self.vector is not None:
            return {"vector": self.vector.tolist()}
        return {name: value for name in _KINDS if (value := getattr(self, name)) is not None}

    @property
    def name(self) -> str:
        """Names it in results and messages."""
        if self.image is not None:
            return self.image.name
        return self.id or self.text or self.url or "vector"

    @property
    def is_negative(self) -> bool:
        """Whether results should be unlike it; also if its weight is zero."""
        return math.copysign(1, self.weight) < 0

    @property
    def is_image(self) -> bool:
        """Whether it is an image, of which a part can be searched for."""
        return self.text is None and self.vector is None


@dataclass(frozen=True, slots=True)
class Query:
    """One query: an example, several that are combined, or none.

    Without one, rows are searched by keywords, or those that the filter matches are listed.

    Raises:
        SettingError: no example has a positive weight.
    """

    examples: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        if self.examples and not any(example.weight > 0 for example in self.examples):
            raise SettingError(
                "{weights}: at least one example of {like} or {text} needs a weight above 0",
                weights=None,
                like=None,
                text=None,
            )

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Return the query of one example; see :class:`Example` for its fields."""
        return cls((Example(**fields),))

    @classmethod
    def combine(
        cls,
        like: Iterable[Example] = (),
        unlike: Iterable[Example] = (),
        text: Example | None = None,
        weights: object = None,
    ) -> Self:
        """Return one query of several examples, see :func:`combine_embeddings`.

        Args:
            like: examples that results should be like.
            unlike: examples that they should be unlike.
            text: another example that they should be like.
            weights: of ``like``, ``unlike`` and ``text``, in this order, all at least 0; 0.5 for
                ``unlike`` by default, 1 for the others.

        Raises:
            SettingError: the weights are not as many as examples, negative, or those of ``like``
                all zero.
        """
        positive, negative = tuple(like), tuple(unlike)
        texts = () if text is None else (text,)
        if not positive and not texts:
            raise SettingError(
                "{like} or {text} is missing: {unlike} alone is no query",
                like=None,
                text=None,
                unlike=None,
            )
        numbers = [1.0] * len(positive) + [UNLIKE_WEIGHT] * len(negative) + [1.0] * len(texts)
        if weights is not None:
            numbers = _checked_weights(weights, len(numbers))
        signs = [1.0] * len(positive) + [-1.0] * len(negative) + [1.0] * len(texts)
        examples = zip((*positive, *negative, *texts), signs, numbers, strict=True)
        return cls(
            tuple(replace(example, weight=sign * number) for example, sign, number in examples)
        )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return the query of a JSON object: of one example, or ``like``, ``unlike``, ``weights``.

        Raises:
            InputError: there is not exactly one query.
        """
        several = [name for name in ("like", "unlike", "weights") if fields.get(name) is not None]
        if not several:
            return cls((Example.from_json(fields),))
        if any(fields.get(name) is not None for name in _KINDS):
            raise InputError(
                f"a query needs exactly one of {', '.join(_KINDS)} and like; a text among several "
                'examples is an example of like: {"text": "red"}'
            )
        like, unlike = (
            [
                Example.from_json(each, f"{name}/{number}/")
                for number, each in enumerate(fields.get(name) or ())
            ]
            for name in ("like", "unlike")
        )
        return cls.combine(like, unlike, weights=fields.get("weights"))

    def as_json(self) -> dict[str, Any]:
        """Return the query as JSON values; files are in base64.

        Raises:
            ImageError: a file cannot be read.
        """
        if len(self.examples) <= 1:
            return self.examples[0].as_json() if self.examples else {}
        like = [example for example in self.examples if not example.is_negative]
        unlike = [example for example in self.examples if example.is_negative]
        return {
            "like": [example.as_json() for example in like],
            "unlike": [example.as_json() for example in unlike],
            "weights": [abs(example.weight) for example in (*like, *unlike)],
        }

    @property
    def name(self) -> str:
        """Names it in results and messages; ``a.jpg + red - b.jpg`` if it has several examples."""
        if len(self.examples) == 1:
            return self.examples[0].name
        like = [example.name for example in self.examples if not example.is_negative]
        unlike = [example.name for example in self.examples if example.is_negative]
        name = " - ".join([" + ".join(like), *unlike])
        return name if len(name) <= _LONGEST_QUERY_NAME else name[: _LONGEST_QUERY_NAME - 1] + "…"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compare rows with: keywords or the filter choose them."""
        return not self.examples

    @property
    def has_rows(self) -> bool:
        """Whether rows of the gallery are examples."""
        return any(example.id is not None or example.stored for example in self.examples)

    @property
    def has_text(self) -> bool:
        """Whether texts are examples."""
        return any(example.text is not None for example in self.examples)

    def check_region(self, region: QueryRegion) -> None:
        """Check that a region is of the one image of this query, which may have a text too.

        Raises:
            InputError: there is no such image.
        """
        if region.is_whole_image:
            return
        if self.is_empty:
            region.refuse_for("a search by a filter or by keywords alone")
        images = sum(example.is_image for example in self.examples)
        if images > 1:
            region.refuse_for("a query of several examples")
        if not images:
            region.refuse_for("a vector" if self.examples[0].text is None else "a text query")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """Queries and how to search for them; see :meth:`lookalike.Gallery.search` for each option.

    Args:
        queries: at least one.
        region: of each query image.
        k: results per query.
        offset: results to leave out before them.
        first: results of the first page, if this is a later one that shall follow it: those of an
            approximate search may not be the first ones of an exact search, and are not repeated.
        metric: of distances; None for that of the gallery.
        where: filter by metadata.
        max_distance: in units of the metric.
        min_similarity: of cosine, from -1 to 1; excludes ``max_distance``.
        exact: skip the approximate index.
        rerank: names in :data:`RERANKINGS`, or one string of them joined by ``+``.
        keywords: full-text search in metadata.

    Raises:
        SettingError: an option is out of range, or options exclude each other.
        InputError: there is no query, or the filter cannot be parsed or is too large.
        UnknownNameError: no such re-ranking.
    """

    queries: tuple[Query, ...]
    region: QueryRegion = WHOLE_IMAGE
    k: int = 7
    offset: int = 0
    first: int = 0
    metric: Metric | None = None
    where: Where | None = None
    max_distance: float | None = None
    min_similarity: float | None = None
    exact: bool = False
    rerank: str | Sequence[str] | None = None
    keywords: str | None = None
    filter: Filter | None = field(init=False, compare=False, repr=False)
    """The condition on metadata, parsed."""

    def __post_init__(self) -> None:
        if not self.queries:
            raise InputError("{query}: there is none in the list", query=None)
        self._check_numbers()
        if self.keywords is not None and not isinstance(self.keywords, str):
            raise InputError("{keywords} must be a string", keywords=None)
        is_any_empty = any(query.is_empty for query in self.queries)
        if self.keywords is None and self.where is None and is_any_empty:
            raise InputError(
                "no query: pass an image, {id}, {text}, {vector}, {like}, {keywords} or {where}",
                **dict.fromkeys(("id", "text", "vector", "like", "keywords", "where")),
            )
        metric = None if self.metric is None else Metric(self.metric)
        try:
            where = None if self.where is None else as_filter(self.where)
        except InputError as error:
            raise error.about("where") from None
        object.__setattr__(self, "exact", as_flag("exact", self.exact))
        object.__setattr__(self, "metric", metric)
        object.__setattr__(self, "filter", where)
        try:
            object.__setattr__(self, "rerank", parse_rerankings(self.rerank))
        except InputError as error:
            raise error.about("rerank") from None
        self._check_limits()
        limit = "min_similarity" if self.max_distance is None else "max_distance"
        if self.keywords is None and is_any_empty and getattr(self, limit) is not None:
            raise SettingError(
                f"{{{limit}}} needs something to compare images with: {{where}} alone has no "
                "distances",
                **{limit: None},
                where=None,
            )

    def _check_numbers(self) -> None:
        for name, least in (("k", 1), ("offset", 0), ("first", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise SettingError(f"{{{name}}} must be a whole number", **{name: value})
            if value < least:
                raise SettingError(f"{{{name}}} must be at least {least}", **{name: value})
            object.__setattr__(self, name, int(value))
        depth = self.offset + self.k
        if self.offset and depth > MAX_K and not all(query.is_empty for query in self.queries):
            raise SettingError(
                f"{{offset}} and {{k}} must be at most {MAX_K:,} together, unless {{keywords}} or "
                "{where} are all there is to search for",
                offset=self.offset,
                k=self.k,
                keywords=None,
                where=None,
            )

    def _check_limits(self) -> None:
        if self.max_distance is not None:
            limit = _number("max_distance", self.max_distance)
            if not limit >= 0:
                raise SettingError("{max_distance} must be at least 0", max_distance=limit)
            object.__setattr__(self, "max_distance", limit)
        if self.min_similarity is None:
            return
        if self.max_distance is not None:
            raise SettingError(
                "{min_similarity} and {max_distance} exclude each other",
                min_similarity=None,
                max_distance=None,
            )
        if self.metric is not None and self.metric is not Metric.COSINE:
            raise SettingError(
                "{min_similarity} needs the cosine metric; for l2 use {max_distance}",
                min_similarity=None,
                max_distance=None,
            )
        similarity = _number("min_similarity", self.min_similarity)
        if not -1 <= similarity <= 1:
            raise SettingError("{min_similarity} must be from -1 to 1", min_similarity=similarity)
        object.__setattr__(self, "min_similarity", similarity)

    def for_metric(self, default: Metric) -> SearchRequest:
        """Return the request for a gallery whose metric is ``default``.

        Raises:
            SettingError: ``min_similarity`` is set, and the metric is not cosine.
        """
        return self if self.metric is not None else replace(self, metric=default)

    def for_query(self, query: Query) -> SearchRequest:
        """Return the request of one query, with the same options."""
        return replace(self, queries=(query,))

    def next_page(self, hits: int, total: int | None = None) -> SearchRequest | None:
        """Return the request of the page after this one; None if there is none.

        That page may be empty, where the rest is beyond the maximum distance.

        Args:
            hits: of this page.
            total: all hits, if their number is known.
        """
        end = self.offset + hits
        left = self.k if all(query.is_empty for query in self.queries) else MAX_K - end
        if hits < self.k or left < 1 or end == total:
            return None
        first = self.first or (0 if self.offset else self.k)
        return replace(self, k=min(self.k, left), offset=end, first=first)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return the request of a JSON object: of ``queries``, or of one query, and the options.

        Raises:
            LookalikeError: see :class:`SearchRequest` and :meth:`Query.from_json`.
        """
        if fields.get("queries") is not None:
            queries = tuple(Query.from_json(each) for each in fields["queries"])
        else:
            queries = (query_from_json(fields),)
        return cls(queries=queries, **options_from_json(fields))

    def as_json(self) -> dict[str, Any]:
        """Return the request as JSON values; files are in base64.

        Raises:
            ImageError: a file cannot be read.
            InputError: the filter is a parsed one.
        """
        return {"queries": [query.as_json() for query in self.queries], **self.options_as_json()}

    def options_as_json(self) -> dict[str, Any]:
        """Return the options as JSON values, without those that are not set.

        Raises:
            InputError: the filter is a parsed one, which has no text.
        """
        options = {name: getattr(self, name) for name in _OPTIONS}
        options["where"] = filter_as_json(self.where)
        options["metric"] = None if self.metric is None else self.metric.value
        options["rerank"] = "+".join(self.rerankings) or None
        box = self.region.box
        options |= {
            "k": self.k,
            "offset": self.offset or None,
            "exact": self.exact or None,
            "box": None if box is None else list(box),
            "foreground": self.region.foreground or None,
            "multi_crop": self.region.multi_crop or None,
        }
        return {name: value for name, value in options.items() if value is not None}

    @property
    def rerankings(self) -> tuple[str, ...]:
        """The names of the re-rankings, in their order."""
        return parse_rerankings(self.rerank)

    @property
    def name(self) -> str:
        """Names a search by keywords or a filter alone in results."""
        if self.keywords is not None:
            return self.keywords
        return self.where if isinstance(self.where, str) else "filter"

    @property
    def needs_image(self) -> bool:
        """Whether a re-ranking reads the query's image."""
        return "geometric" in self.rerankings

    @property
    def is_plain(self) -> bool:
        """Whether hits are the first rows by one vector: no re-ranking, keywords or crops."""
        is_whole = self.keywords is None and not (self.offset or self.region.multi_crop)
        return is_whole and not self.rerankings

    @property
    def distance_limit(self) -> float:
        """The maximum distance of hits, in units of the metric."""
        if self.min_similarity is not None:
            return 1 - self.min_similarity + _ROUNDING
        return math.inf if self.max_distance is None else self.max_distance


def query_from_json(fields: Mapping[str, Any]) -> Query:
    """Return the query of a JSON object; an empty one if it has keywords or a filter alone.

    Raises:
        InputError: there is not exactly one query.
    """
    names = (*_KINDS, "like", "unlike", "weights")
    has_words = fields.get("keywords") is not None or fields.get("where") is not None
    if has_words and all(fields.get(name) is None for name in names):
        return Query()
    return Query.from_json(fields)


def filter_as_json(where: Where | None) -> str | Mapping[str, Any] | None:
    """Return a filter as a JSON value.

    Raises:
        InputError: it is a parsed one, which has no text.
    """
    if where is not None and not isinstance(where, str | Mapping):
        raise InputError("{where} must be a string or a mapping to be sent", where=None)
    return where


def options_from_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a JSON object, as fields of a request.

    Raises:
        InputError: the box is not four whole numbers.
    """
    region = QueryRegion.of(
        fields.get("box"),
        foreground=bool(fields.get("foreground")),
        multi_crop=bool(fields.get("multi_crop")),
    )
    names = (*_NUMBERS, *_OPTIONS)
    options = {name: fields[name] for name in names if fields.get(name) is not None}
    return {"region": region, **options}


def parse_rerankings(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of re-rankings; a string holds several joined by ``+``.

    Raises:
        UnknownNameError: no re-ranking has that name; the nearest one is suggested.
        SettingError: one occurs twice, or they are not names.
    """
    if names is None or names == ():
        return ()
    parts = names.split("+") if isinstance(names, str) else names or ()
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise SettingError("{rerank} must be a name, or a list of names", rerank=None)
    rerankings = tuple(name.strip() for name in parts)
    for name in rerankings:
        if name not in RERANKINGS:
            raise UnknownNameError("re-ranking", name[:_LONGEST_NAME], RERANKINGS)
    if (twice := repeated(rerankings)) is not None:
        raise SettingError(f"{{rerank}}: {twice!r} occurs twice, each may once", rerank=None)
    return rerankings


def as_vectors(argument: str, values: object, *, ndim: int) -> NDArray[np.float32]:
    """Return a vector ``(dim,)`` or vectors ``(n, dim)`` float32, read-only.

    Raises:
        InputError: they are not numbers, of another shape, or not finite; ``argument`` is named.
    """
    shape = "(dim,)" if ndim == 1 else "(n, dim)"
    try:
        with np.errstate(over="ignore"):
            array = as_numbers(values).astype(np.float32)
    except ValueError:
        raise InputError(
            f"{{{argument}}} must be numbers of shape {shape}, not {type(values).__name__}",
            **{argument: None},
        ) from None
    if array.ndim != ndim or not array.size:
        advice = ""
        if argument == "vector" and array.ndim == 2:
            advice = "; pass several as {vectors}"
        raise InputError(
            f"{{{argument}}} must have the shape {shape}, not {array.shape}{advice}",
            **{argument: None},
            **({"vectors": None} if advice else {}),
        )
    if not np.isfinite(array).all():
        raise InputError(
            f"{{{argument}}} has NaN or Inf: distances to it are undefined", **{argument: None}
        )
    array.flags.writeable = False
    return array


def _checked_weights(weights: object, count: int) -> list[float]:
    """Return the weights of examples.

    Raises:
        SettingError: they are not ``count`` numbers of at least 0.
    """
    if isinstance(weights, str | bytes | Mapping) or not isinstance(weights, Iterable):
        raise SettingError("{weights} must be a list of numbers", weights=None)
    numbers = [_finite_number("weights", weight) for weight in weights]
    if len(numbers) != count:
        raise SettingError(
            f"{{weights}} must be one for each example, in the order {{like}}, {{unlike}}, "
            f"{{text}}: {count}, not {len(numbers)}",
            weights=None,
            like=None,
            unlike=None,
            text=None,
        )
    if min(numbers) < 0:
        raise SettingError("{weights} must be at least 0", weights=min(numbers))
    return numbers


def _number(name: str, value: object) -> float:
    """Return a number as a float.

    Raises:
        SettingError: it is something else.
    """
    if isinstance(value, bool | str | bytes):
        raise SettingError(f"{{{name}}} must be a number", **{name: value})
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise SettingError(f"{{{name}}} must be a number", **{name: None}) from None


def _finite_number(name: str, value: object) -> float:
    number = _number(name, value)
    if not math.isfinite(number):
        raise SettingError(f"{{{name}}} must be finite", **{name: number})
    return number


def _base64_pieces(text: str) -> Iterator[bytes]:
    """Yield decoded base64 piece by piece: nothing else can run while one is decoded.

    What follows the padding is ignored.

    Raises:
        ValueError: it is not base64.
    """
    if not text.isascii():
        raise ValueError("it has other characters than ASCII")
    end = text.find("=") if "=" in text else len(text)
    rest = b""
    for place in range(0, end, _PIECE):
        check_cancelled()
        letters = rest + text[place : min(place + _PIECE, end)].encode().translate(
            None, _NOT_BASE64
        )
        whole = len(letters) // 4 * 4
        yield b64decode(letters[:whole])
        rest = letters[whole:]
    yield b64decode(rest + text[end : end + _MAX_PADDING].encode())
