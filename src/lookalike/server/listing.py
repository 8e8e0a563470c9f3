"""HTTP API, version 1: pages of a gallery's items in an order, and their facets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.exceptions import RequestValidationError

from lookalike.errors import InputError
from lookalike.filters import Where
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.listing import Listing
from lookalike.gallery.state import GalleryState
from lookalike.search.ordering import (
    COLUMN,
    date_column,
    file_date,
    is_ordered,
    name_of,
    source_of,
)
from lookalike.server import listing_schemas, schemas
from lookalike.server.cursors import Cursor, digest_of
from lookalike.server.dependencies import GalleryDep, ServiceDep
from lookalike.server.handles import OpenGallery
from lookalike.server.json_bodies import JsonRoute
from lookalike.server.links import item_urls
from lookalike.server.openapi import ITEM_READS, error_responses, item_links
from lookalike.server.problems import ProblemError
from lookalike.server.responses import dumps, facet_column, join_parts
from lookalike.server.service import Service
from lookalike.stores.base import Rows

router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["items"], route_class=JsonRoute)

_LINKS = ("image_url", "thumbnail_url", "thumbnail_url_template")
_FIELDS = ("id", "name", "source", "date", "metadata", "content_hash", *_LINKS)
_READ = frozenset(("date", "metadata", "content_hash"))
"""Fields for which rows are read."""


@router.get(
    "/items",
    summary="Browse items",
    response_model=listing_schemas.ItemPage,
    responses={
        **item_links("$response.body#/items/0/id", *ITEM_READS),
        **error_responses(410),
    },
)
async def list_items(
    opened: GalleryDep,
    service: ServiceDep,
    parameters: Annotated[listing_schemas.PageParameters, Query()],
) -> Response:
    """Return a page of the items that match, in an order, and how many there are.

    For the next page, pass `next` as `cursor`; for any other, an `offset`. Sorting is done once for
    a revision of the gallery: a page far down takes as long as the first.
    """
    data = await item_page(service, opened, parameters, parameters.where)
    return Response(data, media_type="application/json")


async def item_page(
    service: Service,
    opened: OpenGallery,
    parameters: listing_schemas.PageParameters,
    where: Where | None,
) -> bytes:
    """Return a page of the items that match a filter, in JSON."""
    page = _Page(opened, parameters, service.settings.limits.response_bytes)
    options = {"where": where, "keywords": parameters.keywords, "sort": parameters.sort}
    return await _run(service, opened, options, page.build)


@router.get(
    "/facets",
    summary="Count items by the values of metadata columns",
    response_model=listing_schemas.Facets,
    responses=error_responses(),
)
async def get_facets(
    opened: GalleryDep,
    service: ServiceDep,
    parameters: Annotated[listing_schemas.FacetParameters, Query()],
) -> Response:
    """Return columns of the items that match, with their most frequent values."""

    def count(listing: Listing) -> bytes:
        try:
            facets = listing.facets(parameters.columns, most_frequent=parameters.values)
        except InputError as error:
            raise error.about("columns") from None
        answer = listing_schemas.Facets(
            columns=list(map(facet_column, facets)),
            total=len(listing),
            revision=listing.state.revision,
        )
        return dumps(answer)

    options = {"where": parameters.where, "keywords": parameters.keywords}
    data = await _run(service, opened, options, count, long=True)
    return Response(data, media_type="application/json")


@router.get(
    "/groups",
    summary="Count items by groups in an order",
    response_model=listing_schemas.Groups,
    responses=error_responses(),
)
async def get_groups(
    opened: GalleryDep,
    service: ServiceDep,
    parameters: Annotated[listing_schemas.GroupParameters, Query()],
) -> Response:
    """Return the groups of the items that match, such as months, in the order of the items.

    The offset of a group is the number of items in the groups before it.
    """
    key = parameters.key or parameters.sort[0].removeprefix("-")

    def count(listing: Listing) -> bytes:
        try:
            groups = listing.groups(key, parameters.by)
        except InputError as error:
            raise error.about("sort" if parameters.key is None else "key") from None
        answer = listing_schemas.Groups(
            groups=[listing_schemas.Group(value=each.value, count=each.count) for each in groups],
            total=len(listing),
            revision=listing.state.revision,
        )
        return dumps(answer)

    options = parameters.model_dump(include={"where", "keywords", "sort"})
    data = await _run(service, opened, options, count, long=True)
    return Response(data, media_type="application/json")


@router.get("/ids", summary="List the IDs of items", responses=error_responses())
async def list_ids(
    opened: GalleryDep,
    service: ServiceDep,
    after: Annotated[
        str,
        Query(
            max_length=schemas.MAX_TEXT, description="Last ID of the page before; none at first."
        ),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=10_000, description="Maximum number of IDs.")] = 1_000,
) -> schemas.ItemIds:
    """Return IDs in alphabetical order, a page at a time.

    Items that are added or deleted between pages may be in them or not.
    """

    def page(gallery: Gallery) -> schemas.ItemIds:
        ids = gallery.store.ids_after(after, limit + 1)
        page = list(ids[:limit])
        following = page[-1] if len(ids) > limit else None
        return schemas.ItemIds(ids=page, next=following, rows=len(gallery))

    return await service.read(opened, page)


async def _run(
    service: Service,
    opened: OpenGallery,
    options: dict[str, Any],
    build: Callable[[Listing], bytes],
    *,
    long: bool = False,
) -> bytes:
    """Return what is built of the items that :meth:`Gallery.browse` returns with options.

    What is ordered already is read at once; the threads for long work order the rest.
    """

    def work(gallery: Gallery) -> bytes:
        return build(gallery.browse(**options))

    def work_if_ordered(gallery: Gallery) -> bytes | None:
        return work(gallery) if is_ordered(gallery.store, **options) else None

    async with service.slot():
        data = None if long else await service.read(opened, work_if_ordered)
        return await service.read(opened, work, long=True) if data is None else data


@dataclass(frozen=True, slots=True)
class _Page:
    """A page of items that is to be built, in JSON of at most some size."""

    opened: OpenGallery
    parameters: listing_schemas.PageParameters
    max_bytes: int

    def build(self, listing: Listing) -> bytes:
        """Return the page.

        Raises:
            RequestValidationError: the cursor is invalid.
            ProblemError: it is of another revision.
            InputError: a field does not exist.
        """
        state, limit = listing.state, self.parameters.limit
        offset = self._offset(state)
        return join_parts(lambda: self._parts(listing, state, offset, limit), self.max_bytes)

    @property
    def _digest(self) -> str:
        return digest_of(self.parameters.model_dump(include={"where", "keywords", "sort"}))

    def _offset(self, state: GalleryState) -> int:
        parameters = self.parameters
        if parameters.cursor is None:
            offset = parameters.offset or 0
            if parameters.revision not in (None, state.revision):
                raise _changed(state, offset, "the pages before are")
            return offset
        if parameters.offset is not None or parameters.revision is not None:
            raise _invalid("cursor", "excludes offset and revision")
        try:
            cursor = Cursor.parse(parameters.cursor)
        except ValueError as error:
            raise _invalid("cursor", str(error)) from None
        if cursor.state != state:
            raise _changed(state, cursor.offset, "the cursor is")
        if cursor.query != self._digest:
            raise _invalid("cursor", "is of another where, keywords or sort; pass the same ones")
        return cursor.offset

    def _parts(
        self, listing: Listing, state: GalleryState, offset: int, limit: int
    ) -> Iterator[bytes]:
        fields, columns = self._fields(listing)
        separator = b'{"items":['
        for item in self._items(listing, slice(offset, offset + limit), fields, columns):
            yield separator + dumps(item)
            separator = b","
        yield b"" if separator == b"," else separator
        end = offset + limit
        following = None if end >= len(listing) else str(Cursor(state, self._digest, end))
        rest = {
            "total": len(listing),
            "offset": offset,
            "next": following,
            "revision": state.revision,
        }
        yield b"]," + dumps(rest)[1:]

    def _fields(self, listing: Listing) -> tuple[Sequence[str], Sequence[str] | None]:
        """Return the fields of items, and the columns of their metadata; None for all."""
        wanted = self.parameters.fields
        if wanted is None:
            return _FIELDS, None
        fields = ["id", *(name for name in wanted if name in _FIELDS)]
        columns = [name.removeprefix(COLUMN) for name in wanted if name not in _FIELDS]
        if columns and len(listing):
            existing = set(listing.gallery.store.columns().names)
            for name in columns:
                if name not in existing:
                    raise InputError(
                        f"{{fields}}: {name[:80]!r} is neither a field ({', '.join(_FIELDS)}) nor "
                        "a metadata column",
                        fields=None,
                    )
        if "metadata" in fields or not columns:
            return fields, None
        return [*fields, "metadata"], columns

    def _items(
        self,
        listing: Listing,
        places: slice,
        fields: Sequence[str],
        columns: Sequence[str] | None,
    ) -> Iterator[dict[str, Any]]:
        if _READ.isdisjoint(fields):
            for row_id in listing.ids(places):
                facts = self._facts(row_id, fields)
                yield {name: facts[name] for name in _FIELDS if name in fields}
            return
        dated_by = date_column(listing.gallery.store.columns()) if "date" in fields else None
        for rows in listing.rows(places):
            for place, row_id in enumerate(rows.ids):
                facts = self._facts(row_id, fields) | _row_facts(rows, place, columns, dated_by)
                yield {name: facts[name] for name in _FIELDS if name in fields}

    def _facts(self, row_id: str, fields: Sequence[str]) -> dict[str, Any]:
        """Return what the id of an item says."""
        links = {} if set(_LINKS).isdisjoint(fields) else item_urls(self.opened, row_id)
        return {
            "id": row_id,
            "name": name_of(row_id),
            "source": source_of(row_id),
            **links,
        }


def _row_facts(
    rows: Rows, place: int, columns: Sequence[str] | None, dated_by: str | None
) -> dict[str, Any]:
    metadata = rows.metadata[place]
    date = metadata.get(dated_by) if dated_by is not None else file_date(rows.signatures[place])
    if columns is not None:
        metadata = {name: metadata[name] for name in columns if name in metadata}
    return {
        "date": date if isinstance(date, str | int | float) else None,
        "metadata": dict(metadata),
        "content_hash": rows.hashes[place],
    }


def _invalid(name: str, message: str) -> RequestValidationError:
    """Return the error of a parameter in the query string."""
    details = {"type": "value", "loc": ("query", name), "msg": message, "input": None}
    return RequestValidationError([details])


def _changed(state: GalleryState, offset: int, what: str) -> ProblemError:
    """Return the problem of a page of rows that are not there as they were."""
    return ProblemError(
        410,
        "revision-changed",
        f"{what} of an earlier revision of the gallery; begin again without cursor and revision, "
        f"at the first page or at offset={offset}",
        extensions={"revision": state.revision, "offset": offset},
    )
