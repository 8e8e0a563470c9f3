"""Pages of search results: the cursor that leads to the next one, and what it stands for."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from lookalike.errors import SettingError
from lookalike.gallery.state import GalleryState
from lookalike.search.hits import Hits
from lookalike.search.request import Example, SearchRequest, SentImage
from lookalike.server.cursors import Cursor, digest_of
from lookalike.server.problems import ProblemError
from lookalike.server.schemas import MAX_OFFSET
from lookalike.stores.base import MAX_K

_SAMPLED = 1 << 15
_PAGING = ("k", "offset", "keywords")


def next_cursor(request: SearchRequest, hits: Hits, state: GalleryState) -> str | None:
    """Return the cursor of the page after hits of a request of one query; None if there is none.

    The page may be empty, where the rest is beyond the maximum distance.
    """
    following = request.next_page(len(hits), hits.total)
    if following is None or following.offset > MAX_OFFSET:
        return None
    return str(Cursor(state, _digest(request), following.offset, following.first))


def resume(request: SearchRequest, text: str, state: GalleryState) -> SearchRequest:
    """Return the request of the page that a cursor stands for.

    Args:
        request: of one query.
        text: the cursor.
        state: of the gallery now.

    Raises:
        SettingError: it is no cursor, or that of another query, or there is an offset too.
        ProblemError: it is of another state of the gallery.
    """
    if request.offset:
        raise SettingError("{cursor} and {offset} exclude each other", cursor=None, offset=None)
    try:
        cursor = Cursor.parse(text)
    except ValueError as error:
        raise SettingError(f"{{cursor}} {error}", cursor=None) from None
    check_state(cursor.state, state)
    if cursor.query != _digest(request):
        raise SettingError(
            "{cursor} is of another query, or other options; pass those of the page before, only "
            "{k} may differ",
            cursor=None,
            k=None,
        ).about("cursor")
    k = request.k
    if not all(query.is_empty for query in request.queries):
        k = max(1, min(k, MAX_K - cursor.offset))
    return replace(request, k=k, offset=cursor.offset, first=cursor.first)


def check_state(expected: GalleryState, state: GalleryState) -> None:
    """Check that a cursor is of a state of the gallery.

    Raises:
        ProblemError: it is of another one.
    """
    if expected == state:
        return
    change = "the gallery has changed"
    if expected.identity != state.identity:
        change = "another gallery was put in its place"
    raise ProblemError(
        410,
        "revision-changed",
        f"{change} since the page with this cursor; search again without cursor",
        extensions={"revision": state.revision},
        about=("cursor",),
    )


def _digest(request: SearchRequest) -> str:
    """Return a digest of the query of a request and its options, but where its page begins.

    It finds mistakes: of long images it has the beginning, the end and the length.
    """
    options = replace(request, where=None, keywords="").options_as_json()
    content = hashlib.sha256()
    for query in request.queries:
        for example in query.examples:
            content.update(_content(example))
    return digest_of(
        {
            **{name: value for name, value in options.items() if name not in _PAGING},
            "keywords": request.keywords,
            "where": repr(request.filter),
            "query": content.hexdigest(),
        }
    )


def _content(example: Example) -> bytes:
    parts = [example.id, example.text, example.url, example.weight]
    data = b""
    if example.vector is not None:
        data = example.vector.tobytes()
    if example.image is not None and not isinstance(example.image, SentImage):
        parts.append(example.image.name)
    elif isinstance(example.image, SentImage):
        whole = example.image.data
        parts.append(len(whole))
        piece = whole[:_SAMPLED] + whole[-_SAMPLED:]  # type: ignore[operator]
        data = piece if isinstance(piece, bytes) else piece.encode(errors="replace")
    return repr(parts).encode(errors="replace") + data
