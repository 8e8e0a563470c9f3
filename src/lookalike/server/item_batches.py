"""HTTP API, version 1: adding, changing and deleting several items of a gallery at once."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from lookalike.errors import LookalikeError
from lookalike.search.request import SentImage
from lookalike.server import item_batch_schemas as schemas
from lookalike.server.dependencies import GalleryDep, ServiceDep
from lookalike.server.field_errors import SentBody
from lookalike.server.json_bodies import FormReader, JsonRoute, parse_json
from lookalike.server.limits import Limits
from lookalike.server.multipart import FORM, Part, parse_form
from lookalike.server.openapi import error_responses
from lookalike.server.problems import ProblemError
from lookalike.server.schemas import Problem
from lookalike.server.service import Service
from lookalike.server.writing import NewImage

router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["items"], route_class=JsonRoute)

_LIMITS = Limits()
_FIELDS = ("ids", "metadata")
"""Fields of a form beside the images."""

_GENERIC_NAME = "blob"
"""File name that browsers give to data that has none."""

_FORM_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": False,
                    "properties": {
                        "image": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": schemas.MAX_ITEMS,
                            "items": {"type": "string", "format": "binary"},
                            "description": "The image files, as a field each. Unless there are "
                            "ids, a file's name is its ID.",
                        },
                        "ids": {
                            "type": "string",
                            "description": "IDs of the images, as a JSON list of texts.",
                            "example": '["new-1", "new-2"]',
                        },
                        "metadata": {
                            "type": "string",
                            "description": "Metadata of all images, as a JSON object, or of each, "
                            "as a JSON list of objects.",
                            "example": '{"label": "shoe"}',
                        },
                    },
                }
            },
        },
    }
}


async def add_items(
    opened: GalleryDep, service: ServiceDep, body: schemas.NewItems
) -> schemas.AddedItems:
    """Store images, up to 64 at a time, as files of a form or as JSON with base64 or URLs.

    Each image has a result of its own: those that are invalid are refused, and the others are
    stored, all together. IDs get the prefix api: if they have none; without an ID, it is made of
    the content.
    """
    images = [_new_image(each, place) for place, each in enumerate(body.items)]
    results = await service.put_all(opened, images)
    answers = [_answer(service, each) for each in results]
    return schemas.AddedItems(
        results=answers,
        added=sum(each.created is True for each in answers),
        replaced=sum(each.created is False for each in answers),
        failed=sum(each.created is None for each in answers),
    )


@router.post(
    "/items/update",
    summary="Update the metadata of several items",
    responses=error_responses(409, 507),
)
async def update_items_metadata(
    opened: GalleryDep, service: ServiceDep, body: schemas.MetadataUpdate
) -> schemas.Updated:
    """Change columns of the metadata of items, by ID or by a filter, together.

    Each is changed as by an update of this item alone. A filter may match at most 10,000 items.
    """
    choice = (body.ids, body.where)
    update = await service.update_all(opened, body.metadata, *choice, schemas.MAX_CHANGED)
    return schemas.Updated(updated=update.updated, missing=list(update.missing))


@router.post("/items/delete", summary="Delete several items", responses=error_responses(409, 507))
async def delete_items(
    opened: GalleryDep, service: ServiceDep, body: schemas.Deletion
) -> schemas.Deleted:
    """Delete items by ID or by a filter; at most 10,000 at a time.

    The files of images from folders stay, and index jobs leave them out from then on.
    """
    removal = await service.remove_all(opened, body.ids, body.where, schemas.MAX_CHANGED)
    return schemas.Deleted(
        deleted=removal.deleted,
        missing=list(removal.missing),
        remaining=removal.remaining,
    )


def _answer(service: Service, result: tuple[str, bool] | Exception) -> schemas.AddedItem:
    """Return what is said of one image: its id and whether it is new, or its problem."""
    if isinstance(result, LookalikeError):
        result = service.problem_of(result)
    if isinstance(result, ProblemError):
        problem = Problem(**result.as_dict())
        return schemas.AddedItem(id=None, status=result.status, created=None, problem=problem)
    if isinstance(result, Exception):
        raise result
    row_id, created = result
    return schemas.AddedItem(
        id=row_id, status=201 if created else 200, created=created, problem=None
    )


def _new_image(item: schemas.NewItem, place: int) -> NewImage:
    """Return an image to store; it is read when its turn comes."""
    image = item.image
    if isinstance(image, Part):
        return NewImage(item.id, image.data, None, item.metadata)
    read = SentImage(image or "", name=f"items/{place}/image").file_bytes
    return NewImage(item.id, read, item.url, item.metadata)


def _read_form(body: bytes, content_type: str) -> SentBody:
    """Return the fields of a form as those of JSON; images are places in the body.

    Raises:
        ProblemError: it is malformed, or a field of it is.
    """
    values: dict[str, Any] = {}
    images: list[Part] = []
    for part in parse_form(body, content_type, schemas.MAX_ITEMS + len(_FIELDS)):
        if part.name == "image":
            images.append(part)
        elif part.name not in _FIELDS:
            raise _invalid(part.name, f"is not a field; there are image, {', '.join(_FIELDS)}")
        elif part.name in values:
            raise _invalid(part.name, "occurs more than once")
        else:
            values[part.name] = _json_of(part)
    if not images:
        raise _invalid("image", "is missing: the image files, as a field each")
    ids = _one_each("ids", values.get("ids"), list(map(_file_name, images)))
    metadata = values.get("metadata")
    same = metadata if isinstance(metadata, dict) else {}
    each = _one_each("metadata", None if metadata is same else metadata, [same] * len(images))
    items = [
        {"id": row_id, "image": part, "metadata": fields}
        for row_id, part, fields in zip(ids, images, each, strict=True)
    ]
    names = {f"items/{place}/image": "image" for place in range(len(items))}
    names |= {f"items/{place}/id": f"ids/{place}" for place in range(len(items))}
    return SentBody({"items": items}, {**names, "items": "image"})


def _one_each(name: str, values: Any, default: list[Any]) -> list[Any]:
    """Return a list that has an entry for each image.

    Raises:
        ProblemError: it has not.
    """
    if values is None:
        return default
    if not isinstance(values, list) or len(values) != len(default):
        raise _invalid(name, f"must be a list in JSON, as long as the {len(default)} images")
    return values


def _json_of(part: Part) -> Any:
    """Return the value of a field in JSON.

    Raises:
        ProblemError: it is too large, or not JSON.
    """
    if len(part) > _LIMITS.json_bytes:
        raise _invalid(part.name, f"has more than {_LIMITS.json_bytes / 1e6:g} MB, the limit")
    try:
        return parse_json(part.data(), _LIMITS.json_values, _LIMITS.json_escapes)
    except ProblemError as problem:
        raise _invalid(part.name, problem.detail.replace("the body", "its text")) from None


def _file_name(part: Part) -> str | None:
    """Return the name of a file, None if it has none of its own."""
    name = (part.filename or "").replace("\\", "/").rpartition("/")[2]
    return None if name in ("", _GENERIC_NAME) else name


def _invalid(name: str, message: str) -> ProblemError:
    """Return the problem of a field of a form."""
    detail = f"body/{name[:80]}: {message}"
    listed = [{"location": f"body/{name[:80]}", "message": message}]
    extensions = {"errors": listed}
    return ProblemError(422, "invalid-request", detail, extensions=extensions)


class _ItemsRoute(JsonRoute):
    """A route that takes images as a form too."""

    @staticmethod
    def form_reader() -> FormReader:
        """Return what reads a form."""
        return _read_form


router.add_api_route(
    "/items/batch",
    add_items,
    methods=["POST"],
    summary="Add or replace several items",
    responses=error_responses(409, 415, 502, 507),
    openapi_extra=_FORM_BODY,
    route_class_override=_ItemsRoute,
)
