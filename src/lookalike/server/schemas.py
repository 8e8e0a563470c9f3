"""Requests and responses of the HTTP API, as the OpenAPI document describes them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lookalike.errors import InputError
from lookalike.filters import Filter
from lookalike.metadata import check_metadata
from lookalike.search import request as search_request
from lookalike.server.cursors import MAX_CURSOR
from lookalike.server.limits import Limits
from lookalike.server.links import IMAGE_URL, THUMBNAIL_TEMPLATE, THUMBNAIL_URL
from lookalike.stores.base import MAX_K

_LIMITS = Limits()
_MAX_SIDE = 100_000
MAX_TEXT = 2_000
"""Length of ids, texts and URLs, in characters."""
MAX_SHARED_ID = 100
MAX_EXAMPLES = 32
"""Examples of a query."""
MAX_DIM = 16_384
"""Values of a vector."""
MAX_OFFSET = 1_000_000
"""Results that a search may leave out; where they have distances, 16,384 with the page."""
_MAX_FILTER = 10_000
_LISTED_FIELDS = 40
_SHOWN = 40
"""Characters of an unknown name that a message shows."""
_FILTER = "year >= 2020 and tag in ('a', 'b')"

Finite = Annotated[float, Field(allow_inf_nan=False)]
Component = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A number in a list; texts of numbers are for the query strings of URLs only."""
Length = Annotated[int, Field(ge=0, le=_MAX_SIDE)]


class RequestModel(BaseModel):
    """A request without unknown fields, so that a misspelled option is an error."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        """Refuse the first unknown field, and suggest one: an error for each takes long."""
        if not isinstance(data, dict):
            return data
        unknown = next((name for name in data if name not in cls.model_fields), None)
        if unknown is not None:
            message = unknown_field(unknown, [*cls.model_fields])
            raise PydanticCustomError(
                "unknown_field", "{message}", {"message": message, "field": unknown[:80]}
            )
        return data


def unknown_field(name: str, known: Sequence[str]) -> str:
    """Return what is wrong with a field that does not exist, and which one may be meant."""
    nearest = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.5)
    if nearest:
        return f"unknown field {name[:_SHOWN]!r}: did you mean {nearest[0]!r}?"
    return f"unknown field {name[:_SHOWN]!r}; fields: {', '.join(known[:_LISTED_FIELDS])}"


class _CommonParameters(RequestModel):
    """Search options that are written alike in JSON and in a URL."""

    k: int = Field(7, ge=1, le=_LIMITS.k, description="Results per query, of a page.")
    offset: int = Field(
        0,
        ge=0,
        le=MAX_OFFSET,
        description="Number of results to leave out before the page. Where results have distances, "
        f"offset and k are at most {MAX_K:,} together.",
    )
    metric: Literal["cosine", "l2"] | None = Field(
        None, description="Distance metric; the gallery's own by default."
    )
    max_distance: Annotated[Finite, Field(ge=0)] | None = Field(
        None, description="Maximum distance, in units of the metric; no limit by default."
    )
    min_similarity: Annotated[Finite, Field(ge=-1, le=1)] | None = Field(
        None,
        description="Minimum cosine similarity (1 = identical); no limit by default. "
        "Excludes max_distance.",
    )
    foreground: bool = Field(
        False, description="Crop the query to its main object before searching."
    )
    multi_crop: bool = Field(
        False,
        description="Also search with 13 overlapping crops of the query; "
        "an item's distance is that to the nearest crop.",
    )
    rerank: Annotated[str, Field(max_length=200)] | None = Field(
        None,
        description="Re-ranking: aqe (query expansion), dba (database augmentation), k-reciprocal, "
        "diffusion or geometric (geometric verification); join several with +. None by default.",
        examples=["aqe+k-reciprocal"],
    )
    exact: bool = Field(False, description="Exact search; skip the approximate index.")
    keywords: Annotated[str, Field(max_length=MAX_TEXT)] | None = Field(
        None,
        description="Full-text search in names and metadata; fused with the image ranking if "
        "there is a query image.",
        examples=["red shoe"],
    )


Cursor = Annotated[str, Field(max_length=MAX_CURSOR)] | None
CURSOR = (
    "The next of the page before, of the same query and options: this page follows it exactly. If "
    "the gallery has changed since, the error is 410. Excludes offset."
)


class BodyParameters(_CommonParameters):
    """Options of a search in a JSON body."""

    where: Annotated[str, Field(max_length=_MAX_FILTER)] | dict[str, Any] | None = Field(
        None,
        description="Filter by metadata, as an expression or an object; no filter by default.",
        examples=[_FILTER, {"year": {"gte": 2020}}],
    )
    box: Annotated[list[Length], Field(min_length=4, max_length=4)] | None = Field(
        None,
        description="Crop the query to [x, y, width, height], in pixels; not cropped by default.",
    )

    def request(
        self, *queries: search_request.Query, where: Filter | None = None
    ) -> search_request.SearchRequest:
        """Return the request of some queries with these options; ``where`` replaces the filter.

        Raises:
            InputError: options exclude each other, or the filter is invalid.
        """
        options = search_request.options_from_json(
            {name: getattr(self, name) for name in BodyParameters.model_fields}
        )
        if where is not None:
            options["where"] = where
        return search_request.SearchRequest(queries=queries, **options)


class UrlParameters(_CommonParameters):
    """Options of a search in the query string of a URL."""

    where: Annotated[str, Field(max_length=_MAX_FILTER)] | None = Field(
        None,
        description="Filter by metadata, as an expression; no filter by default.",
        examples=[_FILTER],
    )
    box: Annotated[str, Field(pattern=r"^[0-9]{1,5}(,[0-9]{1,5}){3}$")] | None = Field(
        None,
        description="Crop the query to x,y,width,height, in pixels; not cropped by default.",
        examples=["40,20,200,180"],
    )
    cursor: Cursor = Field(None, description=CURSOR)

    def options(self) -> BodyParameters:
        """Return the same options as in a JSON body, without the cursor."""
        box = None if self.box is None else [int(value) for value in self.box.split(",")]
        options = self.model_dump(include=set(BodyParameters.model_fields))
        return BodyParameters(**{**options, "box": box})


class NeighborParameters(UrlParameters):
    """An item and the options of a search with it, in the query string of a URL."""

    id: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] = Field(
        description="ID of the item.", examples=["photos:cats/1.jpg"]
    )


OpenShared = Callable[[str], search_request.QueryImage]
"""Returns the image of a shared query by its ID."""


def _or_sent_image(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Return a file of a form as it is, and check everything else."""
    return value if isinstance(value, search_request.SentImage) else check(value)


class Example(RequestModel):
    """What results should be like, or unlike: exactly one of its fields."""

    id: Annotated[str, Field(max_length=MAX_TEXT)] | None = Field(
        None, description="ID of an item of the gallery; the item itself is not a result."
    )
    text: Annotated[str, Field(max_length=MAX_TEXT)] | None = Field(
        None,
        description="Text query: by content with an image-text encoder such as CLIP or SigLIP "
        "(see supports_text of the gallery), else by its words in names and metadata (see "
        "ranked_by of the result).",
    )
    url: Annotated[str, Field(max_length=MAX_TEXT)] | None = Field(
        None, description="URL of an image to fetch, if the service allows it."
    )
    image: Annotated[str | None, WrapValidator(_or_sent_image)] = Field(
        None,
        description="An image file, encoded as base64.",
        json_schema_extra={"format": "base64"},
    )
    vector: Annotated[list[Component], Field(min_length=1, max_length=MAX_DIM)] | None = Field(
        None,
        description="An embedding of the gallery's dimensions (dim), of any length.",
    )
    shared: Annotated[str, Field(max_length=MAX_SHARED_ID)] | None = Field(
        None, description="ID of a shared query, if the service stores them."
    )

    def example(self, open_shared: OpenShared) -> dict[str, Any]:
        """Return the fields of an example of a request; a shared query is its image.

        Raises:
            InputError: there is a shared query beside others.
            ProblemError: the service does not store queries.
        """
        fields = {name: getattr(self, name) for name in Example.model_fields}
        shared = fields.pop("shared")
        if shared is None:
            return fields
        others = [name for name, value in fields.items() if value is not None]
        if others:
            raise InputError(f"shared excludes {', '.join(others)}").about("shared", *others)
        return {**fields, "image": open_shared(shared)}


class Query(Example):
    """A query: one field of an example, or like; or keywords or a filter alone."""

    like: Annotated[list[Example], Field(min_length=1, max_length=MAX_EXAMPLES)] | None = Field(
        None,
        description="Several examples of what results should be like, combined into one query: the "
        "mean of these, minus that of the examples of unlike, each times its weight.",
        examples=[[{"id": "photos:cats/1.jpg"}, {"text": "red"}]],
    )
    unlike: Annotated[list[Example], Field(max_length=MAX_EXAMPLES)] | None = Field(
        None, description="Examples of what results should be unlike; needs like."
    )
    weights: (
        Annotated[list[Annotated[Component, Field(ge=0)]], Field(max_length=2 * MAX_EXAMPLES)]
        | None
    ) = Field(
        None,
        description="Weights of the examples of like, then of unlike; 1 and 0.5 by default.",
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if len(self.like or ()) + len(self.unlike or ()) > MAX_EXAMPLES:
            raise ValueError(f"like and unlike have more than {MAX_EXAMPLES} examples together")
        return self

    def query(self, options: BodyParameters, open_shared: OpenShared) -> search_request.Query:
        """Return the query; an empty one if the options have keywords or a filter, and it nothing.

        Raises:
            InputError: there is not exactly one query.
            ProblemError: it has a shared query, and the service does not store them.
        """
        fields = self.example(open_shared)
        fields |= {"weights": self.weights, "keywords": options.keywords, "where": options.where}
        for kind in ("like", "unlike"):
            examples = getattr(self, kind)
            if examples is not None:
                fields[kind] = [each.example(open_shared) for each in examples]
        return search_request.query_from_json(fields)


class SearchRequest(BodyParameters, Query):
    """A query and the options of the search."""

    cursor: Cursor = Field(None, description=CURSOR)

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"id": "photos:cats/1.jpg", "k": 7},
                {
                    "like": [{"id": "photos:cats/1.jpg"}, {"id": "photos:cats/2.jpg"}],
                    "unlike": [{"id": "photos:dogs/1.jpg"}],
                    "weights": [1, 1, 0.5],
                },
                {"keywords": "red shoe", "k": 100},
                {"where": "year >= 2020", "k": 100, "offset": 100},
            ]
        },
    )


class BatchRequest(BodyParameters):
    """Several queries with the same options."""

    queries: list[Query] = Field(
        min_length=1, max_length=_LIMITS.batch_queries, description="The queries."
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        hits = len(self.queries) * (self.offset + self.k)
        if hits > _LIMITS.batch_hits:
            after = f" after {self.offset:,}" if self.offset else ""
            raise ValueError(
                f"{len(self.queries)} queries with k={self.k}{after} ask for {hits:,} results; the "
                f"limit is {_LIMITS.batch_hits:,}"
            )
        return self


class Hit(BaseModel):
    """A search result."""

    rank: int = Field(description="Position in the results, starting at 1.")
    id: str = Field(description="ID of the item.")
    distance: float | None = Field(
        description="Distance to the query, in units of the metric; null where only a filter was "
        "searched by."
    )
    similarity: float | None = Field(
        description="Cosine similarity to the query, 1 - distance, from -1 to 1 (identical), as of "
        "min_similarity; times 100 in per cent. Null for the l2 metric, whose distances have no "
        "upper bound, and where only keywords or a filter were searched by."
    )
    metadata: dict[str, Any] = Field(description="Metadata of the item.")
    matches: list[list[float]] | None = Field(
        None,
        description="Where geometric verification found the query in the item's image: at most 100 "
        "points, x and y as shares of its width and height. Null where it did not.",
    )
    image_url: str = Field(description=IMAGE_URL)
    thumbnail_url: str = Field(description=THUMBNAIL_URL)
    thumbnail_url_template: str = Field(description=THUMBNAIL_TEMPLATE)


class SearchResult(BaseModel):
    """The results of one query, best first."""

    query: str = Field(description="The item id, text, URL or keywords, or a name for the image.")
    metric: str = Field(description="Metric of the distances: cosine or l2.")
    ranked_by: Literal["embedding", "keywords", "embedding+keywords", "id"] = Field(
        description="What the order comes from: embedding (a text was searched by content), "
        "keywords (by names and metadata; the distance is then 1 - score / best score), both, "
        "fused by rank, or id (only a filter was searched by)."
    )
    note: str | None = Field(
        description="What to know about the results: that a text was searched in names and "
        "metadata, since the encoder supports images only, which keywords match nothing, or that "
        "an approximate index was used; usually null."
    )
    revision: str = Field(description="Revision of the gallery that the results are of.")
    offset: int = Field(description="Number of results before these.")
    total: int | None = Field(
        description="Number of all results, where only keywords or a filter were searched by; null "
        "where all items are ranked."
    )
    next: str | None = Field(
        description="The cursor of the next page; null at the end, and where offset has reached "
        "its limit. The next page may be empty."
    )
    hits: list[Hit] = Field(description="Results, best first.")


class FieldError(BaseModel):
    """An invalid field of a request."""

    location: str = Field(
        description="Where it is: query/NAME, path/NAME, or body with a JSON pointer, such as "
        "body/like/0/id.",
    )
    message: str = Field(description="What is wrong with it.")
    line: int | None = Field(None, description="Line of malformed JSON, from 1.")
    column: int | None = Field(None, description="Column of malformed JSON, in characters, from 1.")


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="Kind of the error, e.g. urn:lookalike:problem:invalid-image.")
    title: str = Field(description="Summary of the kind of error.")
    status: int = Field(description="HTTP status code.")
    detail: str = Field(description="What is wrong with this request, and what to do.")
    errors: list[FieldError] | None = Field(
        None, description="Invalid fields of the request, at most 20."
    )
    request_id: str | None = Field(
        None, description="X-Request-Id of the request, by which the service's log names it."
    )


class BatchResult(BaseModel):
    """The results of one query of a batch, or its error."""

    result: SearchResult | None = Field(None, description="Results; null if the query failed.")
    problem: Problem | None = Field(None, description="Error; null if the query succeeded.")


class BatchResponse(BaseModel):
    """The results of a batch."""

    results: list[BatchResult] = Field(description="One entry per query, in the same order.")


class Column(BaseModel):
    """A column of metadata."""

    column: str = Field(description="Name of the column.")
    kind: str = Field(description="Type of the values: boolean, number, text or mixed.")
    rows: int = Field(description="Items that have a value.")
    distinct: int = Field(description="Distinct values.")
    values: list[tuple[str | bool | float, int]] | None = Field(
        None, description="Values with their number of items, most frequent first; null if many."
    )
    min: float | None = Field(None, description="Minimum of a column of numbers.")
    max: float | None = Field(None, description="Maximum of a column of numbers.")


class GallerySummary(BaseModel):
    """A gallery."""

    name: str = Field(description="Name of the gallery in URLs.")
    identity: str = Field(description="Identity: another gallery under this name has another.")
    revision: str = Field(description="Revision of its items: changes with every commit.")
    rows: int = Field(description="Number of items.")
    dim: int = Field(description="Dimensions of the embeddings.")
    metric: str = Field(description="Default metric: cosine or l2.")
    encoder: str = Field(description="Name of the encoder.")
    fingerprint: str = Field(description="Fingerprint of the encoder's weights and preprocessing.")
    supports_text: bool = Field(
        description="Whether text queries are by content; else by names and metadata."
    )
    writable: bool = Field(description="Whether the service accepts writes.")
    problem: str | None = Field(None, description="Why it cannot be searched now; usually null.")


class GalleryDetails(GallerySummary):
    """A gallery with the columns of its metadata."""

    columns: list[Column] = Field(description="Columns of the metadata.")


class Item(BaseModel):
    """An item of a gallery."""

    id: str = Field(description="ID of the item.")
    metadata: dict[str, Any] = Field(description="Metadata of the item.")
    content_hash: str = Field(description="Hash of the image file.")
    image_url: str = Field(description=IMAGE_URL)
    thumbnail_url: str = Field(description=THUMBNAIL_URL)
    thumbnail_url_template: str = Field(description=THUMBNAIL_TEMPLATE)


class ItemIds(BaseModel):
    """A page of the IDs of a gallery's items."""

    ids: list[str] = Field(description="IDs in alphabetical order (by Unicode code point).")
    next: str | None = Field(description="Pass it as `after` for the next page; null at the end.")
    rows: int = Field(description="Number of items of the gallery.")


class ItemEmbedding(BaseModel):
    """The embedding of an item."""

    id: str = Field(description="ID of the item.")
    embedding: list[float] = Field(description="As many numbers as the gallery's `dim`.")


class EvaluationReport(BaseModel):
    """The last saved evaluation of a gallery."""

    created_at: str = Field(description="Time of the evaluation (ISO 8601, UTC).")
    rows: int = Field(description="Number of items at that time.")
    fingerprint: str = Field(description="Fingerprint of the encoder at that time.")
    summary: str = Field(description="The outcome in a sentence.")
    stale: bool = Field(description="Whether the gallery has changed since.")
    changes: str = Field(description="What has changed, such as 2 commits; empty if nothing.")
    evaluation: dict[str, Any] = Field(
        description="The metrics, as written by lookalike evaluate --json."
    )


class PutResult(BaseModel):
    """The outcome of adding or replacing an item."""

    id: str = Field(description="ID of the item; it starts with api:.")
    created: bool = Field(description="True if the item is new, false if it was replaced.")


class ItemMetadata(RequestModel):
    """Metadata of an item."""

    metadata: dict[str, Any] = Field(
        max_length=1_000,
        description="Values by column. In an update, null removes a column and columns that are "
        "not listed are unchanged.",
        examples=[{"label": "shoe", "year": 2026}],
    )

    @field_validator("metadata")
    @classmethod
    def _storable(cls, value: dict[str, Any]) -> dict[str, Any]:
        return storable(value)


class SharedQuery(BaseModel):
    """A query image that is stored for some days."""

    id: str = Field(description='ID: an example of a search is `{"shared": ID}`.')
    expires_at: str = Field(description="Until when it is stored, at most (ISO 8601, UTC).")
    image_url: str = Field(description="Path of the image on this service.")
    page_url: str = Field(description="Path of the page with its results.")


class Readiness(BaseModel):
    """Whether galleries can be searched."""

    status: Literal["ok", "degraded"] = Field(
        description="ok, or degraded if some galleries cannot be searched; none is an error."
    )
    galleries: int = Field(description="Galleries of the service.")
    ready: int = Field(description="Those that can be searched.")


class Status(BaseModel):
    """The state of the service."""

    status: Literal["ok"] = Field("ok", description="Always ok; an error is a problem.")


def storable(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata unchanged if they can be stored, see :mod:`lookalike.metadata`.

    Raises:
        ValueError: they cannot be stored.
    """
    try:
        return check_metadata(metadata, what="metadata")
    except InputError as error:
        raise ValueError(str(error)) from None
