"""A client of the HTTP API, with the methods and types of :class:`lookalike.Gallery`.

It needs only the standard library and what decodes images.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import math
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, overload
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray

from lookalike.arguments import as_texts, checked
from lookalike.documents import parse_json
from lookalike.errors import (
    BusyError,
    ImageError,
    InputError,
    LookalikeError,
    MissingRowError,
    ServiceError,
    SettingError,
)
from lookalike.filters import Where, as_filter
from lookalike.filters.facets import Facet
from lookalike.formatting import format_count, printable, without_url_secrets
from lookalike.gallery.base import BaseGallery, BaseListing
from lookalike.gallery.ids import as_id, as_ids, can_be_id, missing_row_error, similar_ids
from lookalike.gallery.items import GalleryItem
from lookalike.gallery.listing import check_most_frequent
from lookalike.gallery.new_images import NewImages
from lookalike.images.decode import content_hash, decode
from lookalike.metadata import metadata_changes
from lookalike.progress import ProgressOption, reporting
from lookalike.search.groups import Group, check_period
from lookalike.search.hits import RANKED_BY, Hits
from lookalike.search.ordering import sort_keys
from lookalike.search.request import Query, SearchRequest, filter_as_json
from lookalike.sources.inputs import InputImage, ManyImages, OneImage
from lookalike.sources.sampling import thread_map
from lookalike.types import Hit, ImageArray, Metadata, Metric, Progress

_PROBLEMS: Mapping[str, type[Exception]] = {
    "item-not-found": MissingRowError,
    "invalid-image": ImageError,
    "invalid-request": InputError,
    "gallery-locked": BusyError,
}
_BATCH = 64
"""Queries of a batch; services have limits by default that fit the following."""
_BATCH_HITS, _BATCH_BYTES, _BATCH_VALUES = 10_000, 60_000_000, 40_000
_THUMBNAIL = 512
"""Largest width and height of the images of hits, in pixels."""
_ATTEMPTS = 4
_MAX_DELAY_S = 30
"""The longest wait before a request is repeated, whatever the service asks for."""
_MAX_ANSWER_BYTES = 256_000_000
_MAX_PROBLEM_BYTES = 1_000_000
_MAX_MESSAGE = 1_000
_BLOCK = 1 << 18
_PAGE = 10_000
"""Ids that are asked for at a time."""
_LISTED = 500
"""Items of a listing that are asked for at a time."""
_ITEM_FIELDS = ("metadata", "content_hash", "image_url")
"""What is asked for of an item of a listing, with its id."""
_LONGEST_PARAMETER = 6_000
"""Characters of metadata that are sent in a URL."""
_CHANGED = "revision-changed"
"""Kind of the problem that rows are no longer as they were."""
_LONGEST_ID = 2_000
"""Characters of an id that a service takes."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Client:
    """A service at ``url``; ``key`` is an API key, ``timeout`` is in seconds.

    A request that is refused because the service is at its limits, or because a gallery is being
    replaced, is retried up to three times, after the delay that the service asks for, at most 30 s.
    ``timeout`` is for each attempt, from the connection to the last byte.

    The key is sent to the service only: a redirect to another scheme, host or port is an error. It
    is neither shown nor pickled.

    Raises:
        SettingError: ``url`` is not an http or https address, or holds a user or password; ``key``
            cannot be one; or ``timeout`` is not positive.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0

    def __post_init__(self) -> None:
        _check_url(self.url)
        if self.key is not None and not re.fullmatch("[!-~]+", self.key):
            raise SettingError(
                "{key} must be printable ASCII without spaces; was it read with its line end?",
                key=None,
            )
        if not 0 < self.timeout < threading.TIMEOUT_MAX:
            raise SettingError("{timeout} must be positive", timeout=self.timeout)

    def __copy__(self) -> Client:
        return self

    def __deepcopy__(self, memo: object) -> Client:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        if self.key is not None:
            raise InputError(
                "a client with an API key is not pickled, since whoever reads the pickle could use "
                "the key; make one in each process: Client(url, key)"
            )
        return Client, (self.url, None, self.timeout)

    def galleries(self) -> list[str]:
        """Return the names of the galleries.

        Raises:
            ServiceError: the service cannot be reached, or refuses the request.
        """
        galleries = self.json("GET", "/v1/galleries")
        with self._expected():
            return [_text(gallery["name"]) for gallery in galleries]

    @checked
    def gallery(self, name: str) -> RemoteGallery:
        """Return a gallery by its name in the service; no request is sent.

        Raises:
            SettingError: the name is no text.
        """
        return RemoteGallery(self, name)

    def json(self, method: str, path: str, body: object = None) -> Any:
        """Send JSON and return the JSON of the response, None if its body is empty."""
        data = None if body is None else json.dumps(body, default=_json_value).encode()
        response = self.send(method, path, data, "application/json")
        return self._parse(response) if response else None

    def send(
        self, method: str, path: str, data: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        """Send a request with a body of the media type ``kind``; return the body of the response.

        Raises:
            SettingError: ``path`` does not begin with a slash.
            InputError, MissingRowError, ImageError, BusyError: as the same method of a gallery.
            ServiceError: the service cannot be reached, or refuses the request, or fails, or its
                response is larger than 256 MB.
        """
        if not path.startswith("/"):  # else it could end the name of the host
            raise SettingError("{path} must begin with a slash", path=path)
        headers = {"Accept": "application/json, image/*"}
        if data is not None:
            headers["Content-Type"] = kind
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        url = self.url.rstrip("/") + path
        for attempts_left in reversed(range(_ATTEMPTS)):
            request = urllib.request.Request(url, data, headers, method=method)
            status, delay, body = self._attempt(request)
            if status < 300:  # a redirect that is not followed is none
                return body
            if status in (429, 503) and attempts_left and delay is not None:
                time.sleep(delay)
                continue
            raise _error_of_response(without_url_secrets(url), status, body)
        raise AssertionError

    def _attempt(self, request: urllib.request.Request) -> tuple[int, int | None, bytes]:
        """Send a request; return status, seconds after which to repeat it, and body."""
        late = f"cannot be reached (no complete response within {self.timeout:g} s)"
        with _TimeLimit(self.timeout) as limit:
            request.time_limit = limit  # type: ignore[attr-defined]
            try:
                answer = _answer(request, self.timeout)
            except (OSError, ValueError, http.client.HTTPException) as error:
                reason = _one_line(getattr(error, "reason", error))
                self._fail(late if limit.is_over else f"cannot be reached ({reason})", error)
            if limit.is_over:  # the connection was closed, so that its end seems to be regular
                self._fail(late)
            return answer

    def _fail(self, message: str, cause: Exception | None = None) -> NoReturn:
        raise ServiceError(f"{self.url}: {message}") from cause

    def _parse(self, data: bytes) -> Any:
        """Return the values of a JSON document of the service."""
        return parse_json(data, self.url, error=ServiceError, limit=_MAX_ANSWER_BYTES)

    @contextlib.contextmanager
    def _expected(self) -> Iterator[None]:
        """Report that values of the service are not of the types that they should be."""
        try:
            yield
        except (
            *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
            SettingError,
        ) as error:
            self._fail("unexpected response; is it a lookalike service?", error)


def _json_value(value: Any) -> Any:
    """Return what stands for a value of a filter that JSON does not have: of numpy, pandas, a set.

    Raises:
        TypeError: nothing does.
    """
    if isinstance(value, Set):
        return list(value)
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _check_url(url: str) -> None:
    """Check that an address is one that a key can be sent to.

    Raises:
        SettingError: it is not; the message has no password.
    """
    if not isinstance(url, str):
        raise SettingError(
            f"{{url}} must be an address such as https://images.example.org, not "
            f"{type(url).__name__}",
            url=None,
        )
    shown = printable(without_url_secrets(url))
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known or printable(url) != url or " " in url or not url.isascii():
        raise SettingError("{url} must be an address such as https://images.example.org", url=shown)
    if "@" in parts.netloc:
        raise SettingError(
            "{url} must not hold a user or password; an API key is passed as {key}",
            url=shown,
            key=None,
        )
    if parts.query or parts.fragment:
        raise SettingError("{url} must not have a query or fragment", url=shown)


class _TimeLimit:
    """Ends a connection after some time, however slowly bytes arrive.

    Timeouts of sockets count from the last byte.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._lock = threading.Lock()
        self._close: Callable[[], object] | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _TimeLimit:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def covers(self, close: Callable[[], object]) -> None:
        """Call ``close`` when the time is over."""
        with self._lock:
            self._close = close
            if self.is_over:
                close()

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            if self._close is not None:
                self._close()


class _SameOrigin(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the service: the key is not for others, nor for plain http."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """Return the request to send instead."""
        fp.close()  # its body, however long, is not read
        if _origin(newurl) != _origin(req.full_url) or req.get_method() != "GET":
            target = _one_line(without_url_secrets(newurl))
            raise OSError(f"it redirects to {target}, which is not followed; use that address")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            request.time_limit = req.time_limit  # type: ignore[attr-defined]
        return request


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


class _Http(urllib.request.HTTPHandler):
    """Opens connections that end with the time limit of their request."""

    def http_open(self, req: Any) -> Any:
        """Return the response."""
        return self.do_open(_limited(http.client.HTTPConnection, req), req)


class _Https(urllib.request.HTTPSHandler):
    """The same with TLS."""

    def https_open(self, req: Any) -> Any:
        """Return the response."""
        return self.do_open(_limited(http.client.HTTPSConnection, req), req)


def _limited(kind: Callable[..., http.client.HTTPConnection], request: Any) -> Any:
    def make(*arguments: Any, **options: Any) -> http.client.HTTPConnection:
        connection = kind(*arguments, **options)
        connect = connection.connect

        def limited_connect() -> None:
            connect()
            opened = connection.sock
            request.time_limit.covers(lambda: _shut_down(opened))

        connection.connect = limited_connect  # type: ignore[method-assign]
        return connection

    return make


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Http, _Https, _SameOrigin)


def _answer(request: urllib.request.Request, timeout: float) -> tuple[int, int | None, bytes]:
    """Return status, seconds after which to repeat a request, and body.

    Raises:
        OSError, ValueError, HTTPException: no complete response came.
    """
    try:
        with _opener().open(request, timeout=timeout) as response:
            return response.status, None, _read(response, _MAX_ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            delay = _delay(error.headers.get("Retry-After", ""))
            return error.code, delay, _read(error, _MAX_PROBLEM_BYTES)


def _shut_down(connection: Any) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(2)  # both directions: who reads gets the end at once


def _read(response: Any, limit: int) -> bytes:
    """Return the body of a response.

    Raises:
        OSError: it is larger than ``limit`` bytes, or the connection broke.
    """
    blocks: list[bytes] = []
    left = limit
    while block := response.read(min(_BLOCK, left + 1)):
        left -= len(block)
        blocks.append(block)
        if left < 0:
            raise OSError(f"the response is larger than {limit / 1e6:,.0f} MB")
    if response.length:  # what http.client only notices without a number of bytes
        raise OSError("the connection broke before the end of the response")
    return b"".join(blocks)


def _delay(text: str) -> int | None:
    """Return the seconds of a ``Retry-After``, at most 30; None if it has none."""
    if not text.isascii() or not text.isdigit():
        return None
    return min(int(text[:9]), _MAX_DELAY_S)


def _one_line(text: object) -> str:
    return printable(str(text))[:_MAX_MESSAGE]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _value(value: object) -> str | float | None:
    if value is not None and not isinstance(value, str | float | int):
        raise TypeError("not a value")
    return value


def _whole_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= sys.maxsize:
        raise TypeError("not a whole number")
    return value


@dataclass(frozen=True, slots=True)
class RemoteGallery(BaseGallery):
    """A gallery of a service. Its methods raise the errors of :meth:`Client.send`."""

    client: Client
    name: str

    def info(self) -> dict[str, Any]:
        """Return the facts of the gallery and the columns of its metadata."""
        return self._object("GET")

    def __len__(self) -> int:
        page = self._object("GET", "/ids", limit="1")
        with self.client._expected():
            return _whole_number(page["rows"])

    def _search(self, request: SearchRequest) -> list[Hits]:
        """Send one query as a search, several as batches."""
        options = request.options_as_json()
        if len(request.queries) == 1:
            [query] = request.queries
            body = {**query.as_json(), **options}
            return [self._hits(self.client.json("POST", f"{self._path()}/search", body), query)]
        hits: list[Hits] = []
        for queries, bodies in _batches(request):
            body = {"queries": bodies, **options}
            answer = self.client.json("POST", f"{self._path()}/search/batch", body)
            with self.client._expected():
                for each, query in zip(answer["results"], queries, strict=True):
                    if each["result"] is None:
                        raise _error_of_problem(each["problem"])
                    hits.append(self._hits(each["result"], query))
        return hits

    def _pages(self, request: SearchRequest) -> Iterator[Hits]:
        """Yield pages, each with the cursor of the one before."""
        [query] = request.queries
        body = {**query.as_json(), **request.options_as_json()}
        while True:
            answer = self.client.json("POST", f"{self._path()}/search", body)
            hits = self._hits(answer, query)
            if hits:
                yield hits
            with self.client._expected():
                if answer["next"] is None:
                    return
                body |= {"cursor": _text(answer["next"])}
            body.pop("offset", None)

    @checked
    def browse(
        self,
        *,
        where: Where | None = None,
        keywords: str | None = None,
        sort: str | Sequence[str] = "id",
    ) -> RemoteListing:
        """Return the rows that match, in an order; see :meth:`BaseGallery.browse`.

        Rows are requested a page at a time, when they are used.
        """
        if where is not None:
            as_filter(where)
        where = filter_as_json(where)
        if isinstance(where, Mapping):
            where = json.dumps(where, default=_json_value)
        sort_keys(sort)
        selection = {"where": where, "keywords": keywords}
        parameters = {name: value for name, value in selection.items() if value is not None}
        order = (sort,) if isinstance(sort, str) else tuple(sort)
        page = self._object("GET", "/items", **parameters, sort=order, limit=1, fields="id")
        with self.client._expected():
            total, revision = _whole_number(page["total"]), _text(page["revision"])
        return RemoteListing(self, parameters, order, total, revision)

    def evaluation(self) -> dict[str, Any]:
        """Return the evaluation that ``lookalike evaluate --save`` saved last.

        Raises:
            ServiceError: there is no saved evaluation.
        """
        return self._object("GET", "/evaluation")

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of all rows, sorted, which are read a page at a time."""
        after: str | None = ""
        while after is not None:
            page = self._object("GET", "/ids", after=after, limit=str(_PAGE))
            with self.client._expected():
                yield from map(_text, page["ids"])
                after = None if page["next"] is None else _text(page["next"])

    def image(self, id: str, *, full_size: bool = False) -> ImageArray:  # noqa: A002
        """Return the image of a row, ``(H, W)`` or ``(H, W, 3)`` uint8."""
        path = self._path("/item/image", id=_row_id(id))
        return decode(self.client.send("GET", path), name=id, full_size=full_size)

    def embedding(self, id: str) -> NDArray[np.float32]:  # noqa: A002
        """Return the embedding of a row, ``(dim,)`` float32."""
        answer = self._object("GET", "/item/embedding", id=_row_id(id))
        with self.client._expected():
            return np.array([_number(value) for value in answer["embedding"]], np.float32)

    def read_item(self, item: GalleryItem, *, full_size: bool = False) -> ImageArray:
        """Return the image of an item of this gallery; see :meth:`GalleryItem.image`."""
        return self.image(item.id, full_size=full_size)

    def add(
        self,
        images: OneImage | ManyImages,
        *,
        ids: Iterable[str] | None = None,
        metadata: object = None,
        progress: ProgressOption = True,
    ) -> list[str]:
        """Send images to the gallery, one by one; see :meth:`BaseGallery.add`.

        All are read and decoded before the first is sent. If the service then refuses one, those
        before it are stored.
        """
        new = NewImages.of(images, ids, metadata)
        with reporting(progress) as on_progress:
            total = len(new.images)
            on_progress(Progress("read", 0, total, "images"))
            hashes = []
            for done, digest in enumerate(thread_map(_check_file, new.images), 1):
                hashes.append(digest)
                on_progress(Progress("read", done, total, "images"))
            own = new.final_ids(hashes)
            for done, (row_id, image) in enumerate(zip(own, new.images, strict=True), 1):
                self._put(row_id, image.file_bytes(), new.metadata[done - 1])
                on_progress(Progress("upload", done, total, "images"))
        return own

    def _put(self, row_id: str, data: bytes, metadata: Metadata) -> None:
        """Add or replace an item; metadata that are too long for a URL follow."""
        text = json.dumps(metadata)
        is_long = len(text) > _LONGEST_PARAMETER
        path = self._path("/item", id=row_id, metadata="{}" if is_long else text)
        self.client.send("PUT", path, data, "application/octet-stream")
        if is_long:
            self.update_metadata(row_id, metadata)

    def update_metadata(self, id: str, metadata: Metadata) -> dict[str, Any]:  # noqa: A002
        """Change columns of an item's metadata, None removes one; return all of its metadata."""
        body = {"metadata": metadata_changes(metadata)}
        response = self.client.json("PATCH", self._path("/item", id=_row_id(id)), body)
        with self.client._expected():
            return _object(response["metadata"])

    def remove(self, ids: str | Iterable[str]) -> int:
        """Delete rows by id, one or many; return how many.

        See :meth:`BaseGallery.remove`.
        """
        wanted = list(dict.fromkeys(as_ids(ids)))
        found: dict[str, None] = {}
        for row_id, item in zip(wanted, self._find(wanted), strict=True):
            if item is None:
                raise missing_row_error(row_id, self._ids_like(row_id))
            found[item.id] = None
        for row_id in found:
            self.client.json("DELETE", self._path("/item", id=row_id))
        return len(found)

    def _find(self, ids: Sequence[str]) -> list[GalleryItem | None]:
        unique = list(dict.fromkeys(ids))
        items = dict(zip(unique, thread_map(self._item, unique, batch_size=1), strict=True))
        return [items[row_id] for row_id in ids]

    def _item(self, row_id: str) -> GalleryItem | None:
        """Return an item; None if there is none."""
        try:
            row_id = _row_id(row_id)
            answer = self._object("GET", "/item", id=row_id)
        except MissingRowError:
            return None
        with self.client._expected():
            return self._gallery_item(answer)

    def _gallery_item(self, fields: Mapping[str, Any]) -> GalleryItem:
        return GalleryItem(
            _text(fields["id"]),
            self._url(fields["image_url"]),
            _object(fields["metadata"]),
            _text(fields["content_hash"]),
            self,
        )

    def _ids_like(self, id: str) -> list[str]:  # noqa: A002
        page = self._object("GET", "/ids", limit=str(_PAGE))
        with self.client._expected():
            return similar_ids(id, [_text(each) for each in page["ids"]])

    def _preview(self, count: int) -> list[tuple[ImageArray | None, str]]:
        sample = self.client.json("GET", self._path("/sample", count=str(count)))
        with self.client._expected():
            ids = [_text(item["id"]) for item in sample]
        return list(zip(map(self._thumbnail, ids), ids, strict=True))

    def __repr__(self) -> str:
        return f"<RemoteGallery {self.name!r} of {printable(self.client.url)}>"

    def _object(self, method: str, resource: str = "", **parameters: object) -> dict[str, Any]:
        """Return the JSON object that a resource is."""
        answer = self.client.json(method, self._path(resource, **parameters))
        with self.client._expected():
            return _object(answer)

    def _path(self, resource: str = "", **parameters: object) -> str:
        query = f"?{urlencode(parameters, doseq=True)}" if parameters else ""
        return f"/v1/galleries/{quote(self.name, safe='')}{resource}{query}"

    def _hits(self, result: Any, query: Query) -> Hits:
        """Return the hits of a query, which has the name that it has here."""
        image = query.examples[0].image if len(query.examples) == 1 else None
        uri = None if image is None else image.uri
        with self.client._expected():
            name = query.name if query.examples else _text(result["query"])
            hits = tuple(map(self._hit, result["hits"]))
            note = None if result.get("note") is None else _text(result["note"])
            ranked_by = RANKED_BY[RANKED_BY.index(result.get("ranked_by", "embedding"))]
            total = None if result.get("total") is None else _whole_number(result["total"])
            metric = Metric(result["metric"])
            return Hits(name, metric, hits, uri, self._thumbnails, ranked_by, note, total)

    def _thumbnails(self, hits: Sequence[Hit]) -> list[ImageArray | None]:
        """Return small images of hits; None where the service cannot read one."""
        return list(thread_map(lambda hit: self._thumbnail(hit.id), hits, batch_size=1))

    def _thumbnail(self, row_id: str) -> ImageArray | None:
        path = self._path("/item/thumbnail", id=row_id, size=str(_THUMBNAIL))
        try:
            return decode(self.client.send("GET", path), name=row_id)
        except LookalikeError:
            return None

    def _url(self, path: object) -> str:
        """Return the URL of an item's image, without version and signature, which change."""
        if not _text(path).startswith("/"):  # else it could lead to another host
            raise ValueError("not a path")
        place, _, query = _text(path).partition("?")
        lasting = [each for each in query.split("&") if each.startswith("id=")]
        return "?".join([self.client.url.rstrip("/") + place, *lasting])

    def _hit(self, hit: Mapping[str, Any]) -> Hit:
        return Hit(
            rank=_whole_number(hit["rank"]),
            id=_text(hit["id"]),
            uri=self._url(hit["image_url"]),
            distance=math.nan if hit["distance"] is None else _number(hit["distance"]),
            metadata=_object(hit["metadata"]),
        )


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class RemoteListing(BaseListing):
    """Rows of a gallery of a service in an order; see :class:`BaseListing`.

    They are those of one revision of the gallery: once it has changed, every method that requests
    more of them raises a :class:`ServiceError` of the kind ``revision-changed``.
    """

    gallery: RemoteGallery
    _selection: Mapping[str, str]
    _order: tuple[str, ...]
    _total: int
    _revision: str

    def __len__(self) -> int:
        return self._total

    @overload
    def __getitem__(self, place: int) -> GalleryItem: ...

    @overload
    def __getitem__(self, place: slice) -> list[GalleryItem]: ...

    def __getitem__(self, place: int | slice) -> GalleryItem | list[GalleryItem]:
        places = range(self._total)[place]
        if isinstance(places, range):
            return self._read(places, _ITEM_FIELDS, self.gallery._gallery_item)
        [item] = self._read(range(places, places + 1), _ITEM_FIELDS, self.gallery._gallery_item)
        return item

    def __repr__(self) -> str:
        return f"<RemoteListing of {self.gallery!r}: {format_count(len(self), 'row')}>"

    def ids(self, places: slice = slice(None)) -> list[str]:
        """Return the ids of the rows at some places, by default of all."""
        return self._read(range(self._total)[places], ("id",), lambda item: _text(item["id"]))

    def facets(
        self, columns: Iterable[str] | None = None, *, most_frequent: int = 50
    ) -> list[Facet]:
        """Count the values of metadata columns in these rows; see :meth:`BaseListing.facets`."""
        check_most_frequent(most_frequent)
        options: dict[str, object] = {"values": most_frequent}
        if columns is not None:
            names = columns if isinstance(columns, str) else [*columns]
            options["columns"] = as_texts("columns", names)
            if not names:
                return []
        answer = self._request("/facets", **options)
        with self.gallery.client._expected():
            return [_facet(column) for column in answer["columns"]]

    def groups(self, key: str = "date", by: str = "value") -> list[Group]:
        """Return the groups of rows next to each other; see :meth:`BaseListing.groups`."""
        check_period(by)
        answer = self._request("/groups", sort=self._order, key=key, by=by)
        with self.gallery.client._expected():
            return [
                Group(_value(each["value"]), _whole_number(each["count"]))
                for each in answer["groups"]
            ]

    def _read(
        self, places: range, fields: Sequence[str], build: Callable[[dict[str, Any]], T]
    ) -> list[T]:
        """Return what is built of the rows at some places, which are requested in pages."""
        ascending = places if places.step > 0 else places[::-1]
        step = ascending.step
        rows: list[T] = []
        per_page = max(1, _LISTED // step)
        for start in range(0, len(ascending), per_page):
            page = ascending[start : start + per_page]
            answer = self._request(
                "/items",
                sort=self._order,
                fields=fields,
                offset=page[0],
                limit=page[-1] - page[0] + 1,
                revision=self._revision,
            )
            with self.gallery.client._expected():
                items = answer["items"][::step]
                rows += [build(_object(item)) for item, _ in zip(items, page, strict=True)]
        return rows if places.step > 0 else rows[::-1]

    def _request(self, resource: str, **parameters: object) -> dict[str, Any]:
        """Return a resource of the rows.

        Raises:
            ServiceError: the gallery has changed since.
        """
        try:
            answer = self.gallery._object("GET", resource, **self._selection, **parameters)
        except ServiceError as error:
            if error.kind == _CHANGED:
                raise self._changed() from None
            raise
        with self.gallery.client._expected():
            revision = _text(answer["revision"])
        if revision != self._revision:
            raise self._changed()
        return answer

    def _changed(self) -> ServiceError:
        name = printable(self.gallery.name)
        return ServiceError(
            f"gallery {name!r} has changed since it was browsed; call browse() again",
            status=410,
            kind=_CHANGED,
        )


def _facet(column: Mapping[str, Any]) -> Facet:
    values = column["values"]
    return Facet(
        column=_text(column["column"]),
        kind=_text(column["kind"]),
        rows=_whole_number(column["rows"]),
        distinct=_whole_number(column["distinct"]),
        values=None if values is None else {value: _whole_number(n) for value, n in values},
        low=None if column["min"] is None else _number(column["min"]),
        high=None if column["max"] is None else _number(column["max"]),
    )


def _batches(request: SearchRequest) -> Iterator[tuple[list[Query], list[dict[str, Any]]]]:
    """Yield queries as JSON, as many at a time as a service takes in one request.

    Raises:
        ImageError: a file cannot be read.
    """
    most = max(1, min(_BATCH, _BATCH_HITS // request.k))
    queries: list[Query] = []
    bodies: list[dict[str, Any]] = []
    size = values = 0
    for query in request.queries:
        body = query.as_json()
        vectors = [each.vector for each in query.examples if each.vector is not None]
        more_values = sum(map(len, vectors)) + 10 * len(query.examples)
        images = body.get("like", []) + body.get("unlike", []) if "like" in body else [body]
        more_bytes = sum(len(each.get("image", "")) for each in images)
        if queries and (
            len(queries) == most
            or size + more_bytes > _BATCH_BYTES
            or values + more_values > _BATCH_VALUES
        ):
            yield queries, bodies
            queries, bodies, size, values = [], [], 0, 0
        queries.append(query)
        bodies.append(body)
        size += more_bytes
        values += more_values
    yield queries, bodies


def _row_id(value: object) -> str:
    """Return an id of an item.

    Raises:
        InputError: it is no text.
        MissingRowError: no item can have it.
    """
    row_id = as_id(value)
    if not can_be_id(row_id) or len(row_id) > _LONGEST_ID:
        raise missing_row_error(row_id)
    return row_id


def _check_file(image: InputImage) -> str:
    """Return the content hash of an image file.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    data = image.file_bytes()
    decode(data, name=image.name)
    return content_hash(data)


def _error_of_response(url: str, status: int, body: bytes) -> Exception:
    phrase = http.client.responses.get(status, "")
    unknown = ServiceError(
        f"{url}: the service responded {status} {phrase}".rstrip(), status=status
    )
    try:
        return _error_of_problem(parse_json(body, url, error=ServiceError))
    except (ServiceError, LookupError, TypeError, ValueError, OverflowError):
        return unknown


def _error_of_problem(problem: Mapping[str, Any]) -> Exception:
    """Return the error of a problem document, in one line whatever it holds."""
    kind = _text(problem["type"]).rpartition(":")[2]
    message = _one_line(f"{_text(problem['title'])}: {_text(problem['detail'])}")
    if kind in _PROBLEMS:
        return _PROBLEMS[kind](message)
    return ServiceError(message, status=_whole_number(problem["status"]), kind=_one_line(kind))
