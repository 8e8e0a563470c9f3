"""HTTP API, version 1: the map of a gallery, and labeling of suggested images."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, Field
from starlette.responses import JSONResponse, Response, StreamingResponse

from lookalike.cancellation import holding
from lookalike.explore.map import FILE as MAP_FILE
from lookalike.gallery.derived import DerivedFile, Saved
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.state import GalleryState
from lookalike.labels.session import FILE as LABELING_FILE
from lookalike.labels.session import MIN_CONFIDENCE, LabelingSession
from lookalike.server.dependencies import GalleryDep, ServiceDep
from lookalike.server.handles import OpenGallery
from lookalike.server.json_bodies import JsonRoute
from lookalike.server.openapi import error_responses
from lookalike.server.problems import ProblemError
from lookalike.server.responses import dumps, json_response
from lookalike.server.schemas import MAX_TEXT, RequestModel
from lookalike.server.sending import PIECE
from lookalike.server.service import Service

T = TypeVar("T")
S = TypeVar("S", bound=Saved)

_CELLS_PER_COST = 200_000
"""Images times labels whose estimate takes about as long as a plain search of a large gallery."""

router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["exploring"], route_class=JsonRoute)


class MapCluster(BaseModel):
    """A cluster of the map."""

    number: int = Field(description="Number of the cluster, as in the map's membership.")
    name: str = Field(description="Name of the cluster.")
    size: int = Field(description="Number of items.")
    medoid: int = Field(description="Index of the most central item in ids.")
    label: str | None = Field(description="Most frequent label of its items; null without labels.")
    share: float | None = Field(description="Share of its items that have this label, 0 to 1.")


class MapColumn(BaseModel):
    """A metadata column of few values, to color the map by."""

    name: str = Field(description="Name of the column.")
    values: list[str] = Field(description="Its values.")
    codes: str = Field(
        description="Index into values for each item, -1 if it has none; base64 of int16."
    )


class MapDocument(BaseModel):
    """A two-dimensional map. Arrays are base64 of little-endian numbers, in the order of ids."""

    format: int = Field(description="Version of this document.")
    created_at: str = Field(description="Time of creation (ISO 8601, UTC).")
    identity: str = Field(description="Identity of the gallery that is mapped.")
    revision: str = Field(description="Revision of the gallery that is mapped.")
    fingerprint: str = Field(description="Fingerprint of the encoder.")
    embeddings_hash: str = Field(description="SHA-256 of the embeddings that are mapped.")
    method: str = Field(description="Method of dimensionality reduction.")
    stale: bool = Field(description="Whether the gallery has changed since.")
    changes: str = Field(description="What has changed, such as 2 commits; empty if nothing.")
    trustworthiness: float | None = Field(
        description="Trustworthiness of the map, 0 to 1; null if all embeddings are the same."
    )
    neighborhood_preservation: float | None = Field(
        description="Share of nearest neighbors that are nearest on the map too, 0 to 1; or null."
    )
    sampled: int = Field(description="Items sampled to measure the quality of the map.")
    ids: list[str] = Field(description="IDs of the items on the map.")
    zero_embeddings: list[str] = Field(
        description="IDs of items that are not on the map: their embedding is zero."
    )
    points: str = Field(description="x and y of each item, 0 to 65535; base64 of uint16.")
    membership: str = Field(
        description="Cluster number of each item, -1 if unclustered; base64 of int16."
    )
    clusters: list[MapCluster] = Field(description="Clusters.")
    lof_scores: str = Field(description="Local outlier factor of each item; base64 of float32.")
    k: int = Field(description="Nearest neighbors per item.")
    neighbors: str = Field(
        description="Indexes of each item's k nearest neighbors, nearest first; base64 of uint32."
    )
    column: str = Field(description="Metadata column that names the clusters.")
    columns: list[MapColumn] = Field(description="Metadata columns of few values.")


class LabelingSuggestions(BaseModel):
    """Images that are suggested for labeling."""

    created_at: str = Field(description="Time of the suggestions (ISO 8601, UTC).")
    images: int = Field(description="Number of images in the gallery.")
    stale: bool = Field(description="Whether the gallery has changed since.")
    changes: str = Field(description="What has changed, such as 2 commits; empty if nothing.")
    groups: list[list[str]] = Field(description="IDs of suggested images, grouped by similarity.")
    homogeneity: list[float] = Field(
        description="Mean cosine similarity of the images of each group to each other, 0 to 1, in "
        "the order of groups; 1 for a single image."
    )
    min_homogeneity: float = Field(
        description="Groups with a homogeneity below this are mixed: check each of their images. "
        "Halfway between the similarity of any two images and that of nearest neighbors."
    )
    labels: dict[str, list[str]] = Field(description="Existing labels, by item ID.")


Label = Annotated[str, Field(min_length=1, max_length=200)]


def _check_labels(labels: Any) -> Any:
    """Refuse the first item with invalid labels: an error for each of many takes long."""
    for row_id, names in labels.items() if isinstance(labels, dict) else ():
        valid = isinstance(names, list) and 0 < len(names) <= 20 and len(row_id) <= MAX_TEXT
        if not valid or not all(isinstance(each, str) and 0 < len(each) <= 200 for each in names):
            raise ValueError(
                f"item {row_id[:80]!r}: an item has 1 to 20 labels of 1 to 200 characters each, "
                f"and an ID of at most {MAX_TEXT:,} characters"
            )
    return labels


class LabelsRequest(RequestModel):
    """Labels by item ID."""

    labels: Annotated[
        dict[
            Annotated[str, Field(max_length=MAX_TEXT)],
            Annotated[list[Label], Field(min_length=1, max_length=20)],
        ],
        BeforeValidator(_check_labels),
    ] = Field(
        max_length=10_000,
        description="Labels by item ID; an item may have several.",
        examples=[{"photos:cats/1.jpg": ["cat"]}],
    )


class LabelCount(BaseModel):
    """Coverage of one label."""

    label: str = Field(description="The label.")
    labeled: int = Field(description="Images that were given this label.")
    covered: int = Field(description="Images that get this label with confidence.")


class LabelCoverage(BaseModel):
    """How many images get a label with confidence by label propagation."""

    images: int = Field(description="Number of images in the gallery.")
    labeled: int = Field(description="Images with a label.")
    covered: int = Field(description="Images that get a label with confidence.")
    min_confidence: float = Field(description="Minimum confidence to count as covered, 0 to 1.")
    labels: list[LabelCount] = Field(description="The same by label.")


@router.get(
    "/map",
    summary="Get the map of a gallery",
    response_class=JSONResponse,
    responses={200: {"model": MapDocument}, **error_responses()},
)
async def get_map(opened: GalleryDep, service: ServiceDep, request: Request) -> Response:
    """Return the map that ``lookalike explore map`` created."""
    files: SavedFiles = request.app.state.saved_files
    data = await service.read(opened, partial(files.map.read, opened.name), long=True)
    if data is None:
        raise ProblemError(
            404,
            "map-not-found",
            "run: lookalike explore map GALLERY",
        )
    headers = {"content-length": str(len(data))}
    return StreamingResponse(_pieces(data), media_type="application/json", headers=headers)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    """Yield a document that all its readers share, as each of them is ready for more."""
    for place in range(0, len(data), PIECE):
        yield data[place : place + PIECE]


@router.get(
    "/labeling",
    summary="Get images suggested for labeling",
    response_model=LabelingSuggestions,
    responses=error_responses(),
)
async def get_labeling_suggestions(
    opened: GalleryDep, service: ServiceDep, request: Request
) -> Response:
    """Return the images that ``lookalike label suggest --save`` selected."""
    session = await _session(opened, service, request)
    return await json_response(service, lambda: _suggestions(session), long=True)


def _suggestions(session: LabelingSession) -> LabelingSuggestions:
    return LabelingSuggestions(
        created_at=session.created_at,
        images=len(session.graph),
        stale=session.stale,
        changes=session.changes,
        groups=[[session.graph.ids[row] for row in group] for group in session.groups],
        homogeneity=list(session.homogeneity),
        min_homogeneity=session.min_homogeneity,
        labels={row_id: list(labels) for row_id, labels in session.labels.items()},
    )


@router.post(
    "/labeling/coverage",
    summary="Estimate the coverage of labels",
    responses=error_responses(),
)
async def estimate_label_coverage(
    opened: GalleryDep, service: ServiceDep, request: Request, body: LabelsRequest
) -> LabelCoverage:
    """Propagate labels along the neighbor graph and count the images covered. Nothing is stored."""
    session = await _session(opened, service, request)
    labels = {row_id: tuple(dict.fromkeys(names)) for row_id, names in body.labels.items()}
    different = {label for names in labels.values() for label in names}
    async with service.slot(1 + len(different) * len(session.graph) // _CELLS_PER_COST):
        coverage = await service.in_thread(session.coverage, labels, long=True)
    return LabelCoverage(
        images=coverage.images,
        labeled=coverage.labeled,
        covered=coverage.covered,
        min_confidence=MIN_CONFIDENCE,
        labels=[
            LabelCount(label=each.label, labeled=each.labeled, covered=each.covered)
            for each in coverage.labels
        ],
    )


async def _session(opened: OpenGallery, service: Service, request: Request) -> LabelingSession:
    files: SavedFiles = request.app.state.saved_files
    session = await service.read(opened, partial(files.labeling.read, opened.name), long=True)
    if session is None:
        raise ProblemError(
            404,
            "suggestions-not-found",
            "run: lookalike label suggest GALLERY --save",
        )
    return session


def _load(file: DerivedFile[S], convert: Callable[[S], T], gallery: Gallery) -> T | None:
    saved = file.load(gallery)
    return None if saved is None else convert(saved)


class _SavedFile(Generic[T]):
    """A kind of file in the galleries of a service: its content, in memory once for all requests.

    A file is read again when it or its gallery has changed; one file is read at a time.
    """

    def __init__(self, file: DerivedFile[S], convert: Callable[[S], T]) -> None:
        self._name = file.name
        self._load = partial(_load, file, convert)
        self._reading = threading.Lock()
        self._content: dict[str, tuple[GalleryState, int | None, T | None]] = {}

    def read(self, name: str, gallery: Gallery) -> T | None:
        """Return the content of the file in a gallery; None if there is none."""
        path = gallery.path / self._name
        state, saved_ns = gallery.state, path.stat().st_mtime_ns if path.exists() else None
        with holding(self._reading):
            content = self._content.get(name)
            if content is None or content[:2] != (state, saved_ns):
                self._content.pop(name, None)
                content = self._content[name] = state, saved_ns, self._load(gallery)
            return content[2]


class SavedFiles:
    """The saved maps and labeling sessions of a service."""

    def __init__(self) -> None:
        self.map = _SavedFile(MAP_FILE, lambda saved: dumps(saved.as_dict()))
        self.labeling = _SavedFile(LABELING_FILE, lambda session: session)
