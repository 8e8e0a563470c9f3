"""The web page: HTML from templates, with scripts and styles from static/."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response

from lookalike.errors import LookalikeError
from lookalike.evaluation.saved import load_saved_evaluation
from lookalike.filters.facets import Facet
from lookalike.languages import (
    TEXTS,
    Translate,
    choose_language,
    format_number,
    format_percent,
    translate,
)
from lookalike.report.svg import picture
from lookalike.search.ordering import COLUMN, name_of
from lookalike.search.request import RERANKINGS
from lookalike.search.search import TEXT_NOTE, split_note
from lookalike.server.api import all_gallery_facts, gallery_facts
from lookalike.server.browsing import Browsing
from lookalike.server.dependencies import GalleryDep, ServiceDep
from lookalike.server.forms import SearchForm, display_text
from lookalike.server.handles import GalleryHandle, OpenGallery
from lookalike.server.links import item_urls
from lookalike.server.listing import item_page
from lookalike.server.listing_schemas import PageParameters
from lookalike.server.problems import ProblemError
from lookalike.server.rendering import new_environment
from lookalike.server.responses import facet_column, run_search
from lookalike.server.service import Service

router = APIRouter(include_in_schema=False)

_PAGE_SIZE = 100
"""Items that the page asks for at a time."""

_COVER_SECONDS = 2.0

_SORT_COLUMNS = 20
"""Columns of the metadata that the page offers to sort by."""

_RERANKINGS = {
    "aqe": "Query expansion (AQE)",
    "dba": "Database augmentation (DBA)",
    "k-reciprocal": "k-reciprocal",
    "aqe+k-reciprocal": "AQE + k-reciprocal",
    "diffusion": "Diffusion",
    "geometric": "Geometric verification",
}
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


_templates = new_environment()
_templates.globals |= {"display_text": display_text, "name_of": name_of, "picture": picture}
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
_ICONS = _STATIC_FILES["icons.svg"].data.decode()
_templates.globals["icons"] = Markup(_ICONS)  # in the page, where they need no connection


async def _browsing(request: Request) -> Browsing:
    browsing: Browsing = request.app.state.browsing
    return browsing


BrowsingDep = Annotated[Browsing, Depends(_browsing)]


@router.get("/static/{name}")
async def static_file(request: Request, name: str) -> Response:
    """Return a script or stylesheet."""
    if name not in _STATIC_FILES:
        raise ProblemError(404, "endpoint-not-found", name[:100])
    file = _STATIC_FILES[name]
    headers = {"etag": file.tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)


@router.get("/")
async def home(service: ServiceDep, browsing: BrowsingDep, request: Request) -> Response:
    """Show the list of galleries, or the only one."""
    handles = list(service)
    if len(handles) == 1:
        return RedirectResponse(f"/g/{handles[0].name}", 303)
    facts = await all_gallery_facts(service)
    answering = [
        handle for handle, each in zip(handles, facts, strict=True) if each["problem"] is None
    ]
    urls = await asyncio.gather(*(_covers(service, browsing, each) for each in answering))
    covers = dict(zip((each.name for each in answering), urls, strict=True))
    return await render("galleries.html", service, request, galleries=facts, covers=covers)


async def _covers(service: Service, browsing: Browsing, handle: GalleryHandle) -> list[str]:
    """Return URLs of thumbnails of some images of a gallery; none if it does not answer soon."""
    with contextlib.suppress(LookalikeError, TimeoutError):
        async with asyncio.timeout(_COVER_SECONDS):
            opened = await service.open(handle)
            ids = await browsing.covers(opened)
            return [item_urls(opened, row_id)["thumbnail_url"] for row_id in ids]
    return []


@router.get("/g/{gallery}")
async def browse_page(
    opened: GalleryDep, service: ServiceDep, browsing: BrowsingDep, request: Request
) -> Response:
    """Show the images of a gallery, or the results of the query in the URL.

    Scripts show more of them, with requests to the API.
    """
    form = SearchForm(request.query_params)
    facets = await browsing.facets(opened)
    facts = await gallery_facts(service, opened)
    others = await comparable_galleries(service, opened)
    page_size = min(_PAGE_SIZE, service.settings.limits.k)
    t = translate(choose_language(request.headers.get("accept-language", "")))
    return await render(
        "browse.html",
        service,
        request,
        opened,
        form=form,
        facts=facts,
        facets=facets,
        sketch=await browsing.sketch_style(opened),
        sort_keys=_sort_keys(facets, t),
        group_keys=_group_keys(facets, t),
        rerankings=[pair for pair in _RERANKINGS.items() if pair[0].split("+")[0] in RERANKINGS],
        comparable=list(others),
        allow_urls=service.settings.allow_urls,
        share_days=service.settings.share_days,
        max_bytes=service.settings.limits.upload_bytes,
        page_facts={
            "rows": facts["rows"],
            "share_days": service.settings.share_days,
            "page_size": page_size,
            "supports_text": facts["supports_text"],
            "text_note": TEXT_NOTE,
            "columns": [facet_column(facet).model_dump() for facet in facets],
            "others": others,
        },
        **await _first_results(service, opened, form, facets, page_size),
    )


def _sort_keys(facets: Sequence[Facet], t: Translate) -> list[tuple[str, str]]:
    """Return the orders of a listing with their titles."""
    keys = [
        ("name", t("sort-name")),
        ("-date", t("sort-date-newest")),
        ("date", t("sort-date-oldest")),
        ("source", t("sort-source")),
    ]
    for facet in facets[:_SORT_COLUMNS]:
        keys.append((f"{COLUMN}{facet.column}", t("sort-ascending", column=facet.column)))
        keys.append((f"-{COLUMN}{facet.column}", t("sort-descending", column=facet.column)))
    return keys


def _group_keys(facets: Sequence[Facet], t: Translate) -> list[tuple[str, str]]:
    """Return what a listing can be grouped by, beside months, with titles."""
    columns = [facet.column for facet in facets if facet.values is not None][:_SORT_COLUMNS]
    return [("source", t("sort-source")), *((f"{COLUMN}{name}", name) for name in columns)]


async def comparable_galleries(service: Service, opened: OpenGallery) -> dict[str, bool]:
    """Return the other galleries that have a source in common, and whether they support text."""
    own = set(opened.gallery.sources.values())
    others = {}
    for handle in service:
        if handle.name == opened.name:
            continue
        with contextlib.suppress(LookalikeError):
            other = await service.open(handle)
            if own & set(other.gallery.sources.values()):
                others[handle.name] = other.batcher.encoder.supports_text
    return others


@router.get("/g/{gallery}/judge")
async def judge_page(opened: GalleryDep, service: ServiceDep, request: Request) -> Response:
    """Show the view for judging results."""
    others = list(await comparable_galleries(service, opened))
    return await render("judge.html", service, request, opened, view="/judge", comparable=others)


@router.get("/g/{gallery}/map")
async def map_page(opened: GalleryDep, service: ServiceDep, request: Request) -> Response:
    """Show the map of a gallery."""
    return await render("map.html", service, request, opened, view="/map")


@router.get("/g/{gallery}/label")
async def label_page(opened: GalleryDep, service: ServiceDep, request: Request) -> Response:
    """Show the view for labeling images."""
    return await render("label.html", service, request, opened, view="/label")


@router.get("/g/{gallery}/report")
async def report_page(opened: GalleryDep, service: ServiceDep, request: Request) -> Response:
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
    return await render("report.html", service, request, opened, view="/report", **values)


async def render(
    template: str,
    service: Service,
    request: Request,
    opened: OpenGallery | None = None,
    **values: Any,
) -> Response:
    """Return a rendered template; a long list of results takes long, so in a thread."""
    values |= {"needs_key": bool(service.settings.keys)}
    values |= _language_values(request.headers.get("accept-language", ""))
    if opened is not None:
        values |= {"gallery": opened.name, "names": [each.name for each in service]}
    text = await service.in_thread(_templates.get_template(template).render, values)
    headers = {"content-language": values["language"], "vary": "Accept-Language"}
    return HTMLResponse(text, headers=headers)


def _language_values(accept: str) -> dict[str, Any]:
    """Return what templates need for texts in the visitor's language."""
    language = choose_language(accept)
    return {
        "language": language,
        "texts": TEXTS[language],
        "t": translate(language),
        "number": lambda value: format_number(value, language),
        "percent": lambda share: format_percent(share, language),
    }


def problem_page(problem: ProblemError, accept_language: str) -> Response:
    """Return a problem as a page; the sign-in page if an API key is required."""
    template = "sign_in.html" if problem.status == 401 else "problem.html"
    values = {"problem": problem, "needs_key": False, **_language_values(accept_language)}
    text = _templates.get_template(template).render(values)
    return HTMLResponse(text, problem.status, headers=dict(problem.headers))


def is_page_request(method: str, path: str, accept: str) -> bool:
    """Return whether a request comes from a browser that shows a page."""
    return method == "GET" and "text/html" in accept and not path.startswith("/v1/")


async def _first_results(
    service: Service,
    opened: OpenGallery,
    form: SearchForm,
    facets: Sequence[Facet],
    page_size: int,
) -> dict[str, Any]:
    """Return the first results in HTML, and as the API answers, from which scripts go on."""
    values: dict[str, Any] = {"problem": None, "first_page": None, "items": [], "next_url": None}
    options = form.options_query
    values |= {"options": f"&{options}" if options else "", "total": 0, "listed": False, "note": ""}
    if form.has_uploads:  # the answer of this query is one that scripts ask for
        return values
    try:
        page = await _first_page(service, opened, form, facets, page_size)
    except ProblemError as problem:
        return {**values, "problem": problem}
    except LookalikeError as error:
        return {**values, "problem": service.problem_of(error)}
    items = page["items"] if "items" in page else page["hits"]
    if page["next"] is not None:
        values["next_url"] = f"/g/{opened.name}?{form.page_query(form.offset + len(items))}"
    return {
        **values,
        "first_page": page if form.offset == 0 else None,
        "items": items,
        "listed": "items" in page,
        "total": form.offset + len(items) if page["total"] is None else page["total"],
        "note": _note(page.get("note")),
    }


async def _first_page(
    service: Service,
    opened: OpenGallery,
    form: SearchForm,
    facets: Sequence[Facet],
    page_size: int,
) -> dict[str, Any]:
    """Return what the API answers to the request of a form."""
    supports_text = opened.batcher.encoder.supports_text
    query = form.query(supports_text=supports_text, open_shared=service.open_shared(opened))
    if query is None:
        parameters = PageParameters(sort=[form.sort], offset=form.offset, limit=page_size)
        data = await item_page(service, opened, parameters, form.filter(facets))
    else:
        request = form.request(query, facets, page_size)
        data = bytes((await run_search(opened, service, request)).body)
    page: dict[str, Any] = json.loads(data)
    return page


def _note(note: str | None) -> str:
    """Return what a person should know about hits; how a text is searched for is at its field."""
    return "; ".join(each for each in split_note(note) if each != TEXT_NOTE)
