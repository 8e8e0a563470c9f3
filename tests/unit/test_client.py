"""The HTTP client among services that are broken or mean harm, over real connections."""

from __future__ import annotations

import contextlib
import copy
import http.server
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import lookalike as la
from lookalike import client as client_module
from lookalike.errors import InputError, LookalikeError, ServiceError, SettingError

KEY = "la_secret"
IMAGE = np.zeros((4, 4, 3), np.uint8)


@dataclass
class Server:
    """An HTTP server that answers what a test says, and notes the requests."""

    port: int = 0
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    write: Callable[[Any], None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running() -> Iterator[Server]:
    server = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.requests.append((self.command, self.path, dict(self.headers)))
            if server.write is not None:
                server.write(self.wfile)
                return
            status, headers, body = server.answers.pop(0)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Connections that the client closes are what is tested."""

    listening = Quiet(("127.0.0.1", 0), Handler)
    server.port = listening.server_address[1]
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are noted instead of passing."""
    seconds: list[float] = []

    class Time:
        sleep = staticmethod(seconds.append)

    monkeypatch.setattr(client_module, "time", Time)
    return seconds


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", ["http", "https", "file", "ftp"])
def test_a_redirect_to_another_origin_gets_no_key(server: Server, status: int, scheme: str) -> None:
    with running() as other:
        target = f"{scheme}://127.0.0.1:{other.port}/v1/galleries?token=x"
        server.answers = [(status, {"Location": target}, b"")] * 2
        client = la.Client(server.url, key=KEY, timeout=10)
        for call in (client.galleries, lambda: client.gallery("a").add(IMAGE, ids="x")):
            with pytest.raises(ServiceError) as refused:
                call()
            assert KEY not in str(refused.value)
            assert "token=x" not in str(refused.value)
        assert other.requests == []


def test_the_name_of_the_same_host_is_another_origin(server: Server) -> None:
    server.answers = [(302, {"Location": f"http://localhost:{server.port}/v1/galleries"}, b"")]
    with pytest.raises(ServiceError, match="redirects to http://localhost"):
        la.Client(server.url, key=KEY).galleries()
    assert len(server.requests) == 1


def test_a_redirect_within_the_service_is_followed(server: Server) -> None:
    server.answers = [(302, {"Location": "/moved"}, b""), (200, {}, b'[{"name": "a"}]')]
    assert la.Client(server.url, key=KEY).galleries() == ["a"]
    assert [path for _, path, _ in server.requests] == ["/v1/galleries", "/moved"]
    assert server.requests[1][2]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://h/", "data:,x", "h:8000", "", "http://", "//h/"),
        *("http://user:secret@h/", "http://user@h/", "http://h/?secret", "http://h/#secret"),
        *("http://h/\nx", "http://h /", "http://[::1", "http://h:99999/", "http://ä/"),
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(SettingError) as refused:
        la.Client(url)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["", "la_secret\n", "la secret", "sécret", "secret\x00"])
def test_a_key_that_cannot_be_one_is_not_repeated(key: str) -> None:
    with pytest.raises(InputError) as refused:
        la.Client("http://127.0.0.1:9", key=key)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("path", ["@127.0.0.1/", ".evil.example/", "", "x"])
def test_a_path_cannot_lead_to_another_host(server: Server, path: str) -> None:
    with pytest.raises(SettingError, match="slash"):
        la.Client(server.url, key=KEY).send("GET", path)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_positive(timeout: float) -> None:
    with pytest.raises(SettingError, match="timeout"):
        la.Client("http://h", timeout=timeout)


def test_a_key_is_neither_shown_nor_pickled() -> None:
    client = la.Client("http://127.0.0.1:9", key=KEY)
    gallery = client.gallery("a")
    assert KEY not in f"{client!r}{client}{gallery!r}"
    for each in (client, gallery):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(InputError, match="not pickled"):
                pickle.dumps(each, protocol)
    assert copy.copy(client) == copy.deepcopy(client) == client
    open_client = la.Client("http://127.0.0.1:9", timeout=3)
    assert pickle.loads(pickle.dumps(open_client)) == open_client


@pytest.mark.parametrize(
    ("asked", "waited"), [("2", 2), ("30", 30), ("31", 30), ("9" * 5_000, 30), ("0", 0)]
)
def test_a_wait_is_bounded(server: Server, waits: list[float], asked: str, waited: float) -> None:
    server.answers = [(503, {"Retry-After": asked}, b""), (200, {}, b"[]")]
    assert la.Client(server.url).galleries() == []
    assert waits == [waited]


@pytest.mark.parametrize("asked", ["-1", "x", "1e9", "\u00b2", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_wait_that_is_none_is_an_error(server: Server, waits: list[float], asked: str) -> None:
    server.answers = [(503, {"Retry-After": asked}, b"")]
    with pytest.raises(ServiceError, match="503 Service Unavailable"):
        la.Client(server.url).galleries()
    assert waits == []


def test_a_request_is_sent_four_times_at_most(server: Server, waits: list[float]) -> None:
    server.answers = [(429, {"Retry-After": "100"}, b"")] * 5
    with pytest.raises(ServiceError, match="429"):
        la.Client(server.url).galleries()
    assert (len(server.requests), waits) == (4, [30, 30, 30])


HIT = {"rank": 1, "id": "a", "image_url": "/x", "distance": 0.5, "metadata": {}}
RESULT = {"query": "q", "metric": "cosine", "hits": [HIT]}
CALLS: dict[str, Callable[[la.client.RemoteGallery], object]] = {
    "galleries": lambda gallery: gallery.client.galleries(),
    "info": lambda gallery: gallery.info(),
    "rows": len,
    "search": lambda gallery: gallery.search(id="a"),
    "batch": lambda gallery: gallery.search([IMAGE, IMAGE]),
    "items": list,
    "item": lambda gallery: gallery["a"],
    "embedding": lambda gallery: gallery.embedding("a"),
    "patch": lambda gallery: gallery.update_metadata("a", {}),
    "evaluation": lambda gallery: gallery.evaluation(),
}
ODD: tuple[object, ...] = (None, [], "@h/", -1)
WRONG: list[object] = [
    *(None, 1, "x", [], {}, [1], [[]], [None], {"rows": -1}, {"rows": 2**70}, {"rows": "x"}),
    *({"rows": True}, {"results": []}, {"results": 1}, {"results": [1]}, {"hits": []}),
    *({"results": [{"result": None, "problem": 1}]}, {"metadata": []}, {"created": []}),
    {"results": [{"result": None, "problem": {"type": 1, "title": 1, "detail": 1}}]},
    {"results": [{"result": RESULT}] * 3},
    {**RESULT, "metric": "x"},
    {**RESULT, "metric": []},
    *({**RESULT, "hits": [{**HIT, name: odd}]} for name in HIT for odd in ODD),
]


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_answer_is_one_line(server: Server, name: str) -> None:
    gallery = la.Client(server.url, key=KEY).gallery("g")
    raw = [b"{", b"\xff", b"[" * 100_000, b'{"rows":' + b"1" * 5_000 + b"}", b"NaN", b'"\\ud800"']
    refused = 0
    for body in [*(json.dumps(each).encode() for each in WRONG), *raw]:
        server.answers = [(200, {}, body)]
        with contextlib.suppress(ServiceError):  # some of them are right for some calls
            CALLS[name](gallery)
            continue
        refused += 1
    assert refused > len(raw)


PAGE = {"total": 1, "revision": "1-a"}
LISTING_CALLS: dict[str, Callable[[la.RemoteListing], object]] = {
    "item": lambda listing: listing[0],
    "ids": lambda listing: listing.ids(),
    "facets": lambda listing: listing.facets(),
    "groups": lambda listing: listing.groups("label"),
}


@pytest.mark.parametrize("name", LISTING_CALLS)
def test_a_wrong_page_is_one_line(server: Server, name: str) -> None:
    facet = {"column": "a", "kind": "text", "rows": 1, "distinct": 1, "values": None}
    odd: tuple[Any, ...] = (1, [1], [[[], 1]])
    values = [{**facet, "min": 1, "max": 1, "values": each} for each in odd]
    items: tuple[Any, ...] = (None, {}, [], [1], [{}], [{"id": 1}], [HIT] * 2)
    columns: tuple[Any, ...] = (None, [1], [{}], [facet], values)
    groups: tuple[Any, ...] = (1, {"value": []}, {"value": 1, "count": -1})
    wrong: list[object] = [
        *(*WRONG, PAGE),
        *({**PAGE, "items": each} for each in items),
        *({**PAGE, "columns": each} for each in (*columns, *([each] for each in values))),
        *({**PAGE, "groups": [each]} for each in groups),
    ]
    for body in wrong:
        server.answers = [(200, {}, json.dumps(each).encode()) for each in (PAGE, body)]
        listing = la.Client(server.url, key=KEY).gallery("g").browse()
        with pytest.raises(ServiceError):
            LISTING_CALLS[name](listing)
    for body in (*WRONG, {**PAGE, "total": -1}, {**PAGE, "revision": 3}):
        server.answers = [(200, {}, json.dumps(body).encode())]
        with pytest.raises(ServiceError):
            la.Client(server.url, key=KEY).gallery("g").browse()


def test_right_answers_are_taken(server: Server) -> None:
    gallery = la.Client(server.url).gallery("g")
    server.answers = [(200, {}, json.dumps(RESULT).encode())]
    assert gallery.search(id="a")[0] == la.Hit(1, "a", f"{server.url}/x", 0.5, {})
    server.answers = [(200, {}, json.dumps({"results": [{"result": RESULT}] * 2}).encode())]
    assert [hits.ids for hits in gallery.search([IMAGE, IMAGE])] == [["a"], ["a"]]


@pytest.mark.parametrize("status", [400, 404, 422, 500, 599])
def test_a_wrong_problem_is_one_line(server: Server, status: int) -> None:
    forged = {"type": "urn:x", "title": "a\nb\x1b[31m", "detail": "c" * 10_000, "status": status}
    problems: list[object] = [
        forged,
        {**forged, "status": "x"},
        {**forged, "type": []},
        [],
        1,
        None,
    ]
    for problem in problems:
        server.answers = [(status, {}, json.dumps(problem).encode())]
        with pytest.raises(LookalikeError) as refused:
            la.Client(server.url).galleries()
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 2_000


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 1_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
    ],
)
def test_a_broken_response_is_one_line(server: Server, sent: bytes) -> None:
    server.write = lambda file: file.write(sent)
    with pytest.raises(ServiceError) as refused:
        la.Client(server.url, key=KEY).info() if False else la.Client(
            server.url, key=KEY
        ).galleries()
    assert "\n" not in str(refused.value)
    assert KEY not in str(refused.value)


def test_an_endless_response_is_not_read_to_its_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_MAX_ANSWER_BYTES", 1_000_000)
    written = [0]

    def endless(file: Any) -> None:
        file.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            written[0] += file.write(b"[" * 10_000)

    server.write = endless
    with pytest.raises(ServiceError, match="larger than 1 MB"):
        la.Client(server.url).galleries()


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n["])
def test_a_dripping_response_ends_with_the_timeout(server: Server, before: bytes) -> None:
    """Each byte comes well within the timeout of a socket; the sum does not."""
    dripping = threading.Event()

    def drip(file: Any) -> None:
        file.write(before)
        while not dripping.wait(0.05):
            file.write(b" ")
            file.flush()

    server.write = drip
    try:
        with pytest.raises(ServiceError, match=r"no complete response within 0.4 s"):
            la.Client(server.url, timeout=0.4).galleries()
    finally:
        dripping.set()


def test_ids_are_read_a_page_at_a_time(server: Server) -> None:
    pages = [{"ids": ["a", "b"], "next": "b", "rows": 3}, {"ids": ["c"], "next": None, "rows": 3}]
    server.answers = [(200, {}, json.dumps(page).encode()) for page in pages]
    assert list(iter(la.Client(server.url).gallery("g"))) == ["a", "b", "c"]
    assert [path.partition("?")[2] for _, path, _ in server.requests] == [
        "after=&limit=10000",
        "after=b&limit=10000",
    ]
