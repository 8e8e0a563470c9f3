"""Requests and responses of the routes that list items, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from lookalike.gallery.listing import MAX_VALUES
from lookalike.search.ordering import MAX_KEYS
from lookalike.server.cursors import MAX_CURSOR
from lookalike.server.schemas import MAX_TEXT, Column, RequestModel

MAX_ITEMS = 1_000
"""Items of a page."""
MAX_OFFSET = 2**40
MAX_FIELDS = 100
_MAX_FILTER = 10_000

Name = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class SelectionParameters(RequestModel):
    """Which items, in the query string of a URL."""

    where: Annotated[str, Field(max_length=_MAX_FILTER)] | None = Field(
        None,
        description="Filter by metadata, as an expression; no filter by default.",
        examples=["year >= 2020"],
    )
    keywords: Annotated[str, Field(max_length=MAX_TEXT)] | None = Field(
        None,
        description="Items with all of these words in their file names, folders or metadata.",
        examples=["red shoe"],
    )


class PageParameters(SelectionParameters):
    """A page of items, in the query string of a URL."""

    sort: list[Name] = Field(
        ["id"],
        min_length=1,
        max_length=MAX_KEYS,
        description="Order: id, name (of the file, with the numbers in it as numbers), source, "
        "date (a column called date, taken_at or alike, else when the file was written), or a "
        "metadata column (also as metadata.COLUMN); with - before it in descending order. Repeat "
        "it for items that are equal. Items without a value come last; equal ones are in the order "
        "of their IDs.",
        examples=[["-date"]],
    )
    limit: int = Field(100, ge=1, le=MAX_ITEMS, description="Maximum number of items.")
    offset: int | None = Field(
        None,
        ge=0,
        le=MAX_OFFSET,
        description="Number of items to leave out before the page; excludes cursor.",
    )
    cursor: Annotated[str, Field(max_length=MAX_CURSOR)] | None = Field(
        None,
        description="The next of the page before, with the same where, keywords and sort. It is of "
        "one revision of the gallery: once items have changed, the answer is 410.",
    )
    revision: Annotated[str, Field(max_length=200)] | None = Field(
        None,
        description="The revision of an earlier page: if items have changed since, the answer is "
        "410, so that pages by offset fit together. By default, any revision.",
    )
    fields: list[Name] | None = Field(
        None,
        min_length=1,
        max_length=MAX_FIELDS,
        description="Fields of the items to return, with the ID: name, source, date, metadata, a "
        "column of it (also as metadata.COLUMN), content_hash, image_url, thumbnail_url, "
        "thumbnail_url_template. All by default.",
        examples=[["name", "thumbnail_url"]],
    )


class FacetParameters(SelectionParameters):
    """Columns to count the values of, in the query string of a URL."""

    columns: list[Name] | None = Field(
        None,
        min_length=1,
        max_length=MAX_FIELDS,
        description="Names of columns; by default all, the first 1,000 by name.",
        examples=[["label"]],
    )
    values: int = Field(
        50,
        ge=1,
        le=MAX_VALUES,
        description="Maximum number of values of each column, the most frequent ones.",
    )


class ListedItem(BaseModel):
    """An item of a page, with the requested fields."""

    id: str = Field(description="ID of the item.")
    name: str | None = Field(None, description="Name of its file: the last part of the ID.")
    source: str | None = Field(None, description="Name of its source; empty if it has none.")
    date: str | int | float | bool | None = Field(
        None,
        description="Its date: the value of the column that sort=date sorts by, else when the file "
        "was written (ISO 8601, UTC); null if unknown.",
    )
    metadata: dict[str, Any] | None = Field(
        None, description="Metadata of the item, or the requested columns of it."
    )
    content_hash: str | None = Field(None, description="Hash of the image file.")
    image_url: str | None = Field(None, description="Path of the image on this service.")
    thumbnail_url: str | None = Field(None, description="Path of the thumbnail on this service.")
    thumbnail_url_template: str | None = Field(
        None, description="Path of its thumbnails in all sizes, with {size} to replace."
    )


class ItemPage(BaseModel):
    """A page of items in an order."""

    items: list[ListedItem] = Field(description="The items, in order.")
    total: int = Field(description="Number of items that match, on all pages.")
    offset: int = Field(description="Number of items before the page.")
    next: str | None = Field(description="Pass it as `cursor` for the next page; null at the end.")
    revision: str = Field(description="Revision of the gallery that the items are of.")


class GroupParameters(SelectionParameters):
    """The order of items and what they are grouped by, in the query string of a URL."""

    sort: list[Name] = Field(
        ["date"], min_length=1, max_length=MAX_KEYS, description="Order, as for /items."
    )
    key: Name | None = Field(
        None,
        description="What to group by: source, date or a metadata column; by default what the "
        "items are sorted by first.",
    )
    by: Literal["value", "year", "month", "day"] = Field(
        "value", description="Same values, or dates of the same year, month or day."
    )


class Group(BaseModel):
    """Items that follow each other in an order."""

    value: str | bool | float | None = Field(
        description="The value, year (2026), month (2026-11) or day (2026-11-29) of these items; "
        "null if they have none."
    )
    count: int = Field(description="Number of items.")


class Groups(BaseModel):
    """The groups of items in an order, at most 10,000."""

    groups: list[Group] = Field(description="Groups, in the order of their items.")
    total: int = Field(description="Number of items that match.")
    revision: str = Field(description="Revision of the gallery that was counted.")


class Facets(BaseModel):
    """The columns of some items, with the number of items by value."""

    columns: list[Column] = Field(
        description="Columns that some of the items have a value in, with their most frequent "
        "values."
    )
    total: int = Field(description="Number of items that match.")
    revision: str = Field(description="Revision of the gallery that was counted.")
