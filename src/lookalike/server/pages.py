"""The web page: HTML from templates, with scripts and styles from static/."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import quote

import jinja2
from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from lookalike.errors import InputError, LookalikeError, MissingRowError
from lookalike.evaluation.saved import load_saved_evaluation
from lookalike.formatting import format_distance
from lookalike.search.request import RERANKINGS, Example, Query, SentImage
from lookalike.search.search import TEXT_NOTE, split_note
from lookalike.server.api import all_gallery_facts, gallery_facts
from lookalike.server.browsing import Browsing
from lookalike.server.dependencies import GalleryDep, ServiceDep
from lookalike.server.forms import SearchForm, display_text
from lookalike.server.handles import OpenGallery
from lookalike.server.metrics import Stages
from lookalike.server.problems import ProblemError
from lookalike.server.schemas import UrlParameters
from lookalike.server.service import Service
from lookalike.types import Hit, Metadata

router = APIRouter(include_in_schema=False)

_SAMPLE = 24
"""Images to pick a query from."""

_RERANKINGS = {
    "aqe": "Query expansion (AQE)",
    "dba": "Database augmentation (DBA)",
    "k-reciprocal": "k-reciprocal",
    "aqe+k-reciprocal": "AQE + k-reciprocal",
    "diffusion": "Diffusion",
    "geometric": "Geometric verification",
}
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def _item_url(gallery: str, row_id: str, resource: str) -> str:
    return f"/v1/galleries/{gallery}/item/{resource}?id={quote(row_id, safe='')}"


_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("lookalike.server"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals |= {"item_url": _item_url, "display_text": display_text}
_templates.filters["format_distance"] = format_distance
_templates.filters["urlencode"] = lambda text: quote(text, safe="")


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A script, stylesheet or icon of the page."""

    data: bytes
    media_type: str
    tag: str


def _load_static_files() -> dict[str, StaticFile]:
    static_files = {}
    folders = (files(f"lookalike.{package}") / "static" for package in ("server", "explore"))
    for file in (file for folder in folders for file in folder.iterdir()):
        if file.name.endswith(".html"):
            continue
        data, suffix = file.read_bytes(), file.name[file.name.rfind(".") :]
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        static_files[file.name] = StaticFile(data, _MEDIA_TYPES[suffix], tag)
    return static_files


_STATIC_FILES = _load_static_files()


async def _browsing(request: Request) -> Browsing:
    browsing: Browsing = request.app.state.browsing
    return browsing


BrowsingDep = Annotated[Browsing, Depends(_browsing)]


@router.get("/static/{name}")
async def static_file(request: Request, name: str) -> Response:
    """Return a script or stylesheet."""
    if name not in _STATIC_FILES:
        raise ProblemError(404, "endpoint-not-found", "Endpoint not found", name[:100])
    file = _STATIC_FILES[name]
    headers = {"etag": file.tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)


@router.get("/")
async def home(service: ServiceDep) -> Response:
    """Show the list of galleries, or the only one."""
    handles = list(service)
    if len(handles) == 1:
        return RedirectResponse(f"/g/{handles[0].name}", 303)
    facts = await all_gallery_facts(service)
    return await render("galleries.html", service, galleries=facts)


@router.get("/g/{gallery}")
async def search_page(
    opened: GalleryDep, service: ServiceDep, browsing: BrowsingDep, request: Request
) -> Response:
    """Show the search page, with the results of the query in the URL."""
    form = SearchForm(request.query_params)
    facets = await browsing.facets(opened)
    return await render(
        "search.html",
        service,
        opened,
        form=form,
        facts=await gallery_facts(service, opened),
        facets=facets,
        active_filters=form.count_filters(facets),
        sketch=await browsing.sketch_style(opened),
        rerankings=[pair for pair in _RERANKINGS.items() if pair[0].split("+")[0] in RERANKINGS],
        default_k=UrlParameters().k,
        allow_urls=service.settings.allow_urls,
        max_bytes=service.settings.limits.upload_bytes,
        **await _results(service, browsing, opened, form),
    )


@router.get("/g/{gallery}/results")
async def results(
    opened: GalleryDep, service: ServiceDep, browsing: BrowsingDep, request: Request
) -> Response:
    """Return only the results part of the search page."""
    form = SearchForm(request.query_params)
    values = await _results(service, browsing, opened, form)
    return await render("_results.html", service, opened, **values)


@router.post("/g/{gallery}/results")
async def results_for_image(
    opened: GalleryDep, service: ServiceDep, browsing: BrowsingDep, request: Request
) -> Response:
    """Return only the results part, for the image in the request body."""
    form = SearchForm(request.query_params)
    query = form.query_with(Example(image=SentImage(await request.body())))
    values = await _results(service, browsing, opened, form, query)
    return await render("_results.html", service, opened, **values)


@router.get("/g/{gallery}/judge")
async def judge_page(opened: GalleryDep, service: ServiceDep) -> Response:
    """Show the view for judging results."""
    return await render("judge.html", service, opened, view="/judge")


@router.get("/g/{gallery}/map")
async def map_page(opened: GalleryDep, service: ServiceDep) -> Response:
    """Show the map of a gallery."""
    return await render("map.html", service, opened, view="/map")


@router.get("/g/{gallery}/label")
async def label_page(opened: GalleryDep, service: ServiceDep) -> Response:
    """Show the view for labeling images."""
    return await render("label.html", service, opened, view="/label")


@router.get("/g/{gallery}/report")
async def report_page(opened: GalleryDep, service: ServiceDep) -> Response:
    """Show the saved evaluation."""
    saved = await service.read(opened, load_saved_evaluation, long=True)
    values = (
        {"page": None, "date": "", "changes": ""}
        if saved is None
        else {
            "page": saved.page,
            "date": saved.origin.created_at[:10],
            "changes": saved.origin.changes,
        }
    )
    return await render("report.html", service, opened, view="/report", **values)


async def render(
    template: str, service: Service, opened: OpenGallery | None = None, **values: Any
) -> Response:
    """Return a rendered template; a long list of results takes long, so in a thread."""
    values |= {"needs_key": bool(service.settings.keys)}
    if opened is not None:
        values |= {"gallery": opened.name, "names": [each.name for each in service]}
    text = await service.in_thread(_templates.get_template(template).render, values)
    return HTMLResponse(text)


def problem_page(problem: ProblemError) -> Response:
    """Return a problem as a page; the sign-in page if an API key is required."""
    template = "sign_in.html" if problem.status == 401 else "problem.html"
    text = _templates.get_template(template).render(problem=problem, needs_key=False)
    return HTMLResponse(text, problem.status, headers=dict(problem.headers))


def is_page_request(method: str, path: str, accept: str) -> bool:
    """Return whether a request comes from a browser that shows a page."""
    return method == "GET" and "text/html" in accept and not path.startswith("/v1/")


async def _results(
    service: Service,
    browsing: Browsing,
    opened: OpenGallery,
    form: SearchForm,
    query: Query | None = None,
) -> dict[str, Any]:
    """Return the values of the results template: result sets, or a sample to pick a query from."""
    options = f"&{form.options_query}" if form.options_query else ""
    values: dict[str, Any] = {"sample": None, "options": options, "restricted": form.is_restricted}
    try:
        query = query or form.query
    except InputError as error:
        empty = {"gallery": opened.name, "encoder": opened.batcher.encoder.name, "hits": []}
        return {**values, "result_sets": [{**empty, "problem": service.problem_of(error)}]}
    if query is None:
        sample = await _sample(service, opened, form)
        return {"sample": sample, "result_sets": [], "options": options}
    compared = form.compared_gallery
    others = [await service.open(service.handle(compared))] if compared else []
    result_sets = [
        await _result_set(service, browsing, each, opened, form, query)
        for each in (opened, *others)
    ]
    return {**values, "result_sets": result_sets}


async def _sample(service: Service, opened: OpenGallery, form: SearchForm) -> Mapping[str, Any]:
    text = form.params.get("sample", "0")
    seed = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    rows = await service.sample(opened, _SAMPLE, seed)
    items = [
        {"id": row_id, "title": _title(row_id), "label": _label(metadata) or _title(row_id)}
        for row_id, metadata in zip(rows.ids, rows.metadata, strict=True)
    ]
    return {"rows": items, "next_seed": seed + 1}


async def _result_set(
    service: Service,
    browsing: Browsing,
    opened: OpenGallery,
    origin: OpenGallery,
    form: SearchForm,
    query: Query,
) -> Mapping[str, Any]:
    """Return the results of one gallery, or the problem; ``origin`` has the item of the query."""
    stages, start = Stages(service.metrics), time.perf_counter()
    values: dict[str, Any] = {"gallery": opened.name, "problem": None, "hits": []}
    values["encoder"] = opened.batcher.encoder.name
    try:
        request = form.request(query, await browsing.facets(opened))
        with contextlib.ExitStack() as memory:
            if opened is not origin:
                query = await _transfer(service, opened, origin, query, memory)
            hits = (await service.search(opened, request.for_query(query), stages)).hits
    except LookalikeError as error:
        return {**values, "problem": service.problem_of(error)}
    return {
        **values,
        "ranked_by": hits.ranked_by,
        "note": "; ".join(each for each in split_note(hits.note) if each != TEXT_NOTE),
        "metric": hits.metric.value,
        "rows": await service.read(opened, len),
        "latency_ms": (time.perf_counter() - start) * 1000,
        "hits": [_hit(hit) for hit in hits],
    }


async def _transfer(
    service: Service,
    opened: OpenGallery,
    origin: OpenGallery,
    query: Query,
    memory: contextlib.ExitStack,
) -> Query:
    """Return the query for another gallery: an item that it does not have becomes an image.

    Its file counts as one that the client uploaded, until ``memory`` is closed.

    Raises:
        ProblemError: the memory for uploads is full.
    """
    examples: list[Example] = []
    for example in query.examples:
        if example.id is not None:
            try:
                await service.row(opened, example.id)
            except MissingRowError:
                row = await service.row(origin, example.id)
                content = await service.item_images.content(origin.gallery, row)
                memory.enter_context(service.quotas.bodies.take(len(content)))
                example = replace(example, id=None, image=SentImage(content))
        examples.append(example)
    return Query(tuple(examples))


def _hit(hit: Hit) -> Mapping[str, Any]:
    return {
        "id": hit.id,
        "rank": hit.rank,
        "distance": hit.distance,
        "title": _title(hit.id),
        "label": _label(hit.metadata) or _title(hit.id),
        "metadata": _metadata(hit.metadata),
    }


def _label(metadata: Metadata) -> str:
    label = metadata.get("label")
    return "" if label is None else display_text(label)


def _metadata(metadata: Metadata) -> list[tuple[str, str]]:
    return [(name, display_text(value)) for name, value in metadata.items() if value is not None]


def _title(row_id: str) -> str:
    """Return the last part of an id, which is a file name or a number."""
    return row_id.rpartition(":")[2].rpartition("/")[2] or row_id
