"""What goes in and out over HTTP."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, field_validator

from lookalike.filters import Where
from lookalike.images.foreground import Box
from lookalike.search.query import QueryRegion
from lookalike.search.search import SearchOptions, distance_threshold
from lookalike.server.limits import Limits
from lookalike.server.service import SearchQuery
from lookalike.types import Metric

_LIMITS = Limits()
_LARGEST = 100_000
LONGEST = 2_000
_LONGEST_FILTER = 10_000
_FILTER = "year >= 2020 and tag in ('a', 'b')"

Finite = Annotated[float, Field(allow_inf_nan=False)]
Length = Annotated[int, Field(ge=0, le=_LARGEST)]


class Model(BaseModel):
    """Fields that nobody knows are refused, so that a misspelt option is not passed over."""

    model_config = ConfigDict(extra="forbid")


class Common(Model):
    """How to search, but for what is written in one way in JSON and in another in an address."""

    k: int = Field(7, ge=1, le=_LIMITS.k, description="How many hits.")
    metric: Literal["cosine", "l2"] | None = Field(
        None, description="The gallery's own unless given."
    )
    max_distance: Annotated[Finite, Field(ge=0)] | None = Field(
        None, description="Only hits as near as this, in the metric's units."
    )
    min_score: Annotated[Finite, Field(ge=-1, le=1)] | None = Field(
        None, description="Only hits as similar as this by cosine: 1 is the same, 0 unrelated."
    )
    foreground: bool = Field(False, description="Only the part that holds the query's item.")
    multi_crop: bool = Field(False, description="Also look at 13 parts of the query.")
    rerank: Annotated[str, Field(max_length=200)] | None = Field(
        None,
        description="aqe, dba, k-reciprocal, diffusion or geometric; several joined by +.",
        examples=["aqe+k-reciprocal"],
    )
    exact: bool = Field(False, description="Look at every row, also of a very large gallery.")
    keywords: Annotated[str, Field(max_length=LONGEST)] | None = Field(
        None,
        description="Words of the metadata, fused by rank with what looks alike; or alone.",
        examples=["red shoe"],
    )


class Options(Common):
    """How to search."""

    where: Annotated[str, Field(max_length=_LONGEST_FILTER)] | dict[str, Any] | None = Field(
        None,
        description="Only items whose metadata match, as text or as a structure.",
        examples=[_FILTER, {"year": {"gte": 2020}}],
    )
    box: Annotated[list[Length], Field(min_length=4, max_length=4)] | None = Field(
        None, description="Only this part of the query: x, y, width, height in its pixels."
    )

    def look(self) -> QueryRegion:
        """Return which part of the query is looked at."""
        box = None if self.box is None else Box.from_sequence(self.box)
        return QueryRegion(box, self.foreground, self.multi_crop)

    def search(self, own: Metric) -> SearchOptions:
        """Return what is searched for in a gallery whose metric is ``own``.

        Raises:
            InputError: options exclude each other, or the filter cannot be understood.
        """
        metric = own if self.metric is None else Metric(self.metric)
        limit = distance_threshold(metric, self.max_distance, self.min_score)
        where: Where | None = self.where
        return SearchOptions(
            k=self.k,
            metric=metric,
            where=where,
            max_distance=limit,
            exact=self.exact,
            rerank=self.rerank,
            keywords=self.keywords,
        )


class AddressOptions(Common):
    """How to search, as the query of an address."""

    where: Annotated[str, Field(max_length=_LONGEST_FILTER)] | None = Field(
        None, description="Only items whose metadata match.", examples=[_FILTER]
    )
    box: Annotated[str, Field(pattern=r"^[0-9]{1,5}(,[0-9]{1,5}){3}$")] | None = Field(
        None,
        description="Only this part of the query: x,y,width,height in its pixels.",
        examples=["40,20,200,180"],
    )

    def options(self) -> Options:
        """Return them as JSON has them."""
        box = None if self.box is None else [int(part) for part in self.box.split(",")]
        return Options(**{**self.model_dump(), "box": box})


class Query(Model):
    """What to look for: just one of these."""

    id: Annotated[str, Field(max_length=LONGEST)] | None = Field(
        None, description="The id of an item of the gallery, which is no hit itself."
    )
    text: Annotated[str, Field(max_length=LONGEST)] | None = Field(
        None, description="Words, if the gallery's encoder takes them."
    )
    url: Annotated[str, Field(max_length=LONGEST)] | None = Field(
        None, description="The address of an image, if the service fetches them."
    )
    image: Base64Bytes | None = Field(None, description="An image file, as base64 text.")

    def ask(self) -> SearchQuery:
        """Return it as the service takes it."""
        return SearchQuery(self.image, self.id, self.text, self.url)


class SearchBody(Options, Query):
    """One query and how to search."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"id": "photos:cats/1.jpg", "k": 7}]}
    )


class BatchBody(Options):
    """Several queries, searched in the same way."""

    queries: list[Query] = Field(min_length=1, max_length=_LIMITS.batch)


class HitOut(BaseModel):
    """One hit; its image and thumbnail are addresses on this service."""

    rank: int
    id: str
    distance: float
    metadata: dict[str, Any]
    image: str
    thumbnail: str


class HitsOut(BaseModel):
    """The hits of one query, nearest first; or why it has none."""

    query: str
    metric: str
    hits: list[HitOut]


class ProblemOut(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, Any]] | None = None


class BatchAnswer(BaseModel):
    """The answer to one query of a batch: its hits, or what was wrong with it."""

    found: HitsOut | None = None
    problem: ProblemOut | None = None


class BatchOut(BaseModel):
    """Answers in the order of the queries."""

    answers: list[BatchAnswer]


class FacetOut(BaseModel):
    """One column of metadata, and what a filter on it can be made of."""

    column: str
    kind: str
    rows: int
    distinct: int
    values: list[tuple[str | bool | float, int]] | None = None
    low: float | None = None
    high: float | None = None


class GalleryOut(BaseModel):
    """The facts of a gallery."""

    name: str
    rows: int
    dim: int
    metric: str
    encoder: str
    fingerprint: str
    supports_text: bool
    writable: bool


class GalleryFacts(GalleryOut):
    """The facts of a gallery, with the columns of its metadata."""

    columns: list[FacetOut]


class ItemOut(BaseModel):
    """An item; its image and thumbnail are addresses on this service."""

    id: str
    metadata: dict[str, Any]
    content_hash: str
    editable: bool
    image: str
    thumbnail: str


class EvaluationOut(BaseModel):
    """How good the answers are, as it was measured last.

    ``evaluation`` is the document of ``lookalike evaluate --json``; ``stale``: the gallery's rows
    or encoder are others by now.
    """

    created_at: str
    rows: int
    fingerprint: str
    verdict: str
    stale: bool
    evaluation: dict[str, Any]


class PutOut(BaseModel):
    """What became of an item that was put."""

    id: str
    created: bool


class MetadataBody(Model):
    """Columns to change; null removes one."""

    metadata: dict[str, Any] = Field(max_length=1_000, examples=[{"label": "shoe", "year": 2026}])

    @field_validator("metadata")
    @classmethod
    def _storable(cls, value: dict[str, Any]) -> dict[str, Any]:
        return storable(value)


class State(BaseModel):
    """Whether the service is well."""

    status: Literal["ok"] = "ok"


def storable(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata that can be kept: JSON values of text that is UTF-8, not too large.

    Raises:
        ValueError: they cannot.
    """
    try:
        size = len(json.dumps(metadata, allow_nan=False, ensure_ascii=False).encode())
    except (UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"cannot be kept as JSON ({type(error).__name__})") from None
    if size > _MOST_METADATA:
        raise ValueError(f"has {size:,} bytes, more than {_MOST_METADATA:,}")
    return metadata


_MOST_METADATA = 100_000
