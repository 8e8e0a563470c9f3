"""The page: search by image for people. What it shows is made here; its scripts are in static/."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import quote

import jinja2
from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from lookalike.errors import LookalikeError, MissingRowError
from lookalike.evaluation.saved import load_saved_evaluation
from lookalike.gallery.facets import Facet
from lookalike.search.search import RERANKINGS
from lookalike.server.api import facts_of
from lookalike.server.browsing import Browsing
from lookalike.server.forms import HIGH, LOW, VALUE, Form, shown
from lookalike.server.metrics import Stages
from lookalike.server.problems import ProblemError, problem_of
from lookalike.server.routes import TheGallery, TheService
from lookalike.server.schemas import AddressOptions
from lookalike.server.service import GalleryHandle, SearchQuery, Service
from lookalike.types import Hit, Metadata, format_distance

router = APIRouter(include_in_schema=False)

_START = 24
_RERANKINGS = {
    "aqe": "query expansion",
    "dba": "augmentation",
    "k-reciprocal": "k-reciprocal neighbors",
    "aqe+k-reciprocal": "expansion, then reciprocal",
    "diffusion": "diffusion",
    "geometric": "spatial verification",
}
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def _address(gallery: str, row_id: str, what: str) -> str:
    return f"/v1/galleries/{gallery}/item/{what}?id={quote(row_id, safe='')}"


_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("lookalike.server"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals |= {"address": _address, "shown": shown}
_templates.filters["format_distance"] = format_distance
_templates.filters["urlencode"] = lambda text: quote(text, safe="")


@dataclass(frozen=True, slots=True)
class Static:
    """A script, style or picture of the page."""

    data: bytes
    kind: str
    tag: str


def _static() -> dict[str, Static]:
    found = {}
    rooms = (files(f"lookalike.{room}") / "static" for room in ("server", "explore"))
    for each in (file for room in rooms for file in room.iterdir()):
        if each.name.endswith(".html"):
            continue
        data, suffix = each.read_bytes(), each.name[each.name.rfind(".") :]
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        found[each.name] = Static(data, _TYPES[suffix], tag)
    return found


_FILES = _static()


async def _browsing(request: Request) -> Browsing:
    browsing: Browsing = request.app.state.browsing
    return browsing


TheBrowsing = Annotated[Browsing, Depends(_browsing)]


@router.get("/static/{name}")
async def static(request: Request, name: str) -> Response:
    """Return a script or style."""
    if name not in _FILES:
        raise ProblemError(404, "no-such-page", "There is no such page", name[:100])
    found = _FILES[name]
    headers = {"etag": found.tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == found.tag:
        return Response(status_code=304, headers=headers)
    return Response(found.data, media_type=found.kind, headers=headers)


@router.get("/")
async def home(service: TheService) -> Response:
    """Show the galleries, or the only one."""
    if len(list(service)) == 1:
        return RedirectResponse(f"/g/{next(iter(service)).name}", 303)
    return render(
        "galleries.html", service, galleries=[await facts_of(service, s) for s in service]
    )


@router.get("/g/{gallery}")
async def search_page(
    served: TheGallery, service: TheService, browsing: TheBrowsing, request: Request
) -> Response:
    """Show a gallery, with the answer to what its address asks."""
    form = Form(request.query_params)
    facets = await browsing.facets(served)
    return render(
        "search.html",
        service,
        served,
        form=form,
        facts=await facts_of(service, served),
        facets=facets,
        filtered=_filtered(form, facets),
        paper=await browsing.paper(served),
        rerankings=[pair for pair in _RERANKINGS.items() if pair[0].split("+")[0] in RERANKINGS],
        k=AddressOptions().k,
        urls=service.settings.urls,
        most=service.settings.limits.upload_bytes,
        **await _results(service, browsing, served, form),
    )


@router.get("/g/{gallery}/results")
async def results(
    served: TheGallery, service: TheService, browsing: TheBrowsing, request: Request
) -> Response:
    """Show the answer alone."""
    form = Form(request.query_params)
    found = await _results(service, browsing, served, form)
    return render("_results.html", service, served, **found)


@router.post("/g/{gallery}/results")
async def results_of_image(
    served: TheGallery, service: TheService, browsing: TheBrowsing, request: Request
) -> Response:
    """Show the answer to an image, which is the body."""
    form = Form(request.query_params)
    ask = SearchQuery(image=await request.body())
    found = await _results(service, browsing, served, form, ask)
    return render("_results.html", service, served, **found)


@router.get("/g/{gallery}/judge")
async def judge_page(served: TheGallery, service: TheService) -> Response:
    """Show the view in which people judge hits."""
    return render("judge.html", service, served, below="/judge")


@router.get("/g/{gallery}/map")
async def map_page(served: TheGallery, service: TheService) -> Response:
    """Show the map of a gallery."""
    return render("map.html", service, served, below="/map")


@router.get("/g/{gallery}/label")
async def label_page(served: TheGallery, service: TheService) -> Response:
    """Show the view in which people name images."""
    return render("label.html", service, served, below="/label")


@router.get("/g/{gallery}/report")
async def report_page(served: TheGallery, service: TheService) -> Response:
    """Show how good the answers are, as it was measured last."""
    found = await service.thread(load_saved_evaluation, served.gallery)
    values = (
        {"page": None, "made": "", "stale": False}
        if found is None
        else {"page": found.page, "made": found.created_at[:10], "stale": found.stale}
    )
    return render("report.html", service, served, below="/report", **values)


def render(
    template: str, service: Service, served: GalleryHandle | None = None, **values: Any
) -> Response:
    """Return a page."""
    values |= {"keyed": bool(service.settings.keys)}
    if served is not None:
        values |= {"gallery": served.name, "names": [each.name for each in service]}
    return HTMLResponse(_templates.get_template(template).render(values))


def problem_page(problem: ProblemError) -> Response:
    """Return a problem as a page; where a key is needed, the one that asks for it."""
    template = "sign_in.html" if problem.status == 401 else "problem.html"
    text = _templates.get_template(template).render(problem=problem, keyed=False)
    return HTMLResponse(text, problem.status, headers=dict(problem.headers))


def is_page(method: str, path: str, accept: str) -> bool:
    """Tell whether a request is for a page that people see."""
    return method == "GET" and "text/html" in accept and not path.startswith("/v1/")


async def _results(
    service: Service,
    browsing: Browsing,
    served: GalleryHandle,
    form: Form,
    ask: SearchQuery | None = None,
) -> dict[str, Any]:
    """Return what the template of results shows: hits by gallery, or where to start."""
    again = f"&{form.again}" if form.again else ""
    ask = ask or form.ask or (SearchQuery() if form.params.get("keywords", "").strip() else None)
    if ask is None:
        return {"start": await _start(service, served, form), "sets": [], "again": again}
    asked = [served, *([service.served(form.beside)] if form.beside else [])]
    sets = [await _set(service, browsing, each, served, form, ask) for each in asked]
    narrowed = any(name in ("where", "max_distance", "min_score") for name in form.params) or any(
        name.startswith((VALUE, LOW, HIGH)) for name in form.params
    )
    return {"start": None, "sets": sets, "again": again, "narrowed": narrowed}


async def _start(service: Service, served: GalleryHandle, form: Form) -> Mapping[str, Any]:
    text = form.params.get("start", "0")
    seed = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    rows = await service.sample(served, _START, seed)
    items = [
        {"id": row_id, "title": _title(row_id), "label": _label(metadata) or _title(row_id)}
        for row_id, metadata in zip(rows.ids, rows.metadata, strict=True)
    ]
    return {"rows": items, "next": seed + 1}


async def _set(
    service: Service,
    browsing: Browsing,
    served: GalleryHandle,
    origin: GalleryHandle,
    form: Form,
    ask: SearchQuery,
) -> Mapping[str, Any]:
    """Return the hits of one gallery, or why there are none."""
    stages, begun = Stages(service.telemetry), time.perf_counter()
    shown: dict[str, Any] = {"gallery": served.name, "problem": None, "hits": []}
    shown["encoder"] = served.gallery.encoder.name
    try:
        look, search = form.read(await browsing.facets(served), served.gallery.metric)
        if served is not origin:
            ask = await _elsewhere(service, served, origin, ask)
        found = await service.search(served, ask, look, search, stages)
    except LookalikeError as error:
        return {**shown, "problem": problem_of(error)}
    return {
        **shown,
        "worded": search.keywords is not None,
        "looked": not ask.empty,
        "metric": found.metric.value,
        "rows": await service.thread(lambda: len(served.gallery)),
        "ms": (time.perf_counter() - begun) * 1000,
        "hits": [_hit(hit) for hit in found],
    }


async def _elsewhere(
    service: Service, served: GalleryHandle, origin: GalleryHandle, ask: SearchQuery
) -> SearchQuery:
    """Return a query for another gallery: an item that it does not hold is asked as an image."""
    if ask.id is None:
        return ask
    try:
        await service.row(served, ask.id)
    except MissingRowError:
        row = await service.row(origin, ask.id)
        return SearchQuery(image=(await service.pictures.whole(row))[1])
    return ask


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
    return "" if label is None else shown(label)


def _metadata(metadata: Metadata) -> list[tuple[str, str]]:
    return [(name, shown(value)) for name, value in metadata.items() if value is not None]


def _title(row_id: str) -> str:
    """Return the end of an id, which is a file's name or a number."""
    return row_id.rpartition(":")[2].rpartition("/")[2] or row_id


def _filtered(form: Form, facets: tuple[Facet, ...]) -> int:
    """Return how many filters are set."""
    marked = [mark + facet.column for facet in facets for mark in (VALUE, LOW, HIGH)]
    return sum(bool(form.params.get(name)) for name in (*marked, "where"))
