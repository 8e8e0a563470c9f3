"""Requests and responses of the routes that add or delete several items."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from lookalike.server.limits import Limits
from lookalike.server.multipart import Part
from lookalike.server.schemas import MAX_TEXT, ItemMetadata, Problem, RequestModel, storable

MAX_ITEMS = Limits().batch_queries
"""Images that are added at a time."""
MAX_CHANGED = 10_000
"""Items that are changed or deleted at a time."""
_MAX_IDS = 1_000
_MAX_FILTER = 10_000

ItemKey = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class NewItem(RequestModel):
    """An image to add or replace: exactly one of image and url."""

    id: ItemKey | None = Field(
        None,
        description="ID; it gets the prefix api: if it has none. By default, it is made of the "
        "content.",
    )
    image: str | SkipJsonSchema[InstanceOf[Part]] | None = Field(
        None,
        description="The image file, encoded as base64.",
        json_schema_extra={"format": "base64"},
    )
    url: Annotated[str, Field(max_length=MAX_TEXT)] | None = Field(
        None, description="URL of the image to fetch, if the service allows it."
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        max_length=1_000,
        description="Metadata of the item; none by default.",
        examples=[{"label": "shoe"}],
    )

    @field_validator("metadata")
    @classmethod
    def _storable(cls, value: dict[str, Any]) -> dict[str, Any]:
        return storable(value)

    @model_validator(mode="after")
    def _one_image(self) -> Self:
        if (self.image is None) == (self.url is None):
            raise ValueError("needs exactly one of image and url")
        return self


class NewItems(RequestModel):
    """Images to add or replace."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "id": "new-1",
                            "url": "https://images.example.org/1.jpg",
                            "metadata": {"label": "shoe"},
                        }
                    ]
                }
            ]
        },
    )

    items: list[NewItem] = Field(min_length=1, max_length=MAX_ITEMS, description="The images.")


class AddedItem(BaseModel):
    """What became of one image of a batch."""

    id: str | None = Field(description="ID of the item; null if it is not valid.")
    status: int = Field(
        description="What a PUT of the image alone would answer: 201 if the item is new, 200 if "
        "it was replaced, else the status of the problem."
    )
    created: bool | None = Field(
        description="True if the item is new, false if it was replaced; null if it failed."
    )
    problem: Problem | None = Field(description="Error; null if the image was stored.")


class AddedItems(BaseModel):
    """The outcome of adding several images; each of them counts in one of the three numbers."""

    results: list[AddedItem] = Field(description="One entry per image, in the same order.")
    added: int = Field(description="New items.")
    replaced: int = Field(description="Replaced items.")
    failed: int = Field(description="Images that were not stored; each result says why.")


class ChosenItems(RequestModel):
    """Items of a gallery: exactly one of ids and where."""

    ids: Annotated[list[ItemKey], Field(min_length=1, max_length=_MAX_IDS)] | None = Field(
        None, description="IDs of the items.", examples=[["api:new-1", "api:new-2"]]
    )
    where: Annotated[str, Field(max_length=_MAX_FILTER)] | dict[str, Any] | None = Field(
        None,
        description="Filter by metadata, as an expression or an object, of the items.",
        examples=["label = 'draft'"],
    )

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if (self.ids is None) == (self.where is None):
            raise ValueError("needs exactly one of ids and where")
        return self


class Deletion(ChosenItems):
    """Items to delete: exactly one of ids and where."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"ids": ["api:new-1", "api:new-2"]}]}
    )


class MetadataUpdate(ChosenItems, ItemMetadata):
    """A change of the metadata of items: exactly one of ids and where, and the new values."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"ids": ["api:new-1", "api:new-2"], "metadata": {"label": "shoe"}}]
        },
    )


class Updated(BaseModel):
    """What became of the items to change."""

    updated: int = Field(description="Items whose metadata were changed.")
    missing: list[str] = Field(description="IDs that no item has.")


class Deleted(BaseModel):
    """What became of the items to delete; each of them counts once."""

    deleted: int = Field(description="Items that were deleted.")
    missing: list[str] = Field(description="IDs that no item has.")
    remaining: int = Field(
        description=f"Items that match and were not deleted yet, as at most {MAX_CHANGED:,} are at "
        "a time; repeat the request."
    )
