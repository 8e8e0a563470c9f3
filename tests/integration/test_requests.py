"""Requests end with their clients and at their deadlines, and do not hold up those of others."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from lookalike.cancellation import check_cancelled
from lookalike.encoders.registry import open_encoder
from lookalike.errors import CancelledError, TimeLimitError
from lookalike.gallery.gallery import Gallery
from lookalike.search.request import SearchRequest
from lookalike.search.search import search_rows
from lookalike.server.limits import Limits
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.bad_decoder import HANG
from tests.conftest import Require
from tests.integration.test_cli import lookalike
from tests.processes import alive, children
from tests.raw_http import PATIENCE, connect, eventually, parse_responses, receive_all
from tests.serving import Serving, serving

ID = "few:1.png"
ITEM = f"/v1/galleries/a/item?id={quote(ID)}"
SEARCH = "/v1/galleries/a/search"
JSON = {"content-type": "application/json"}
PLAIN = json.dumps({"id": ID}).encode()
COSTLY = json.dumps({"id": ID, "rerank": "aqe"}).encode()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of forty images, one of them in a large file."""
    root = tmp_path_factory.mktemp("requests")
    (root / "few").mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(root / "few" / f"{number}.png")
    noise = rng.integers(0, 256, (1_200, 1_600, 3), np.uint8)
    Image.fromarray(noise).save(root / "few" / "large.png", compress_level=0)
    encoder = open_encoder("color", sample_images(open_source(root / "few")))
    gallery = Gallery.create(root / "a.gallery", encoder=encoder)
    gallery.sync(root / "few")
    return root / "a.gallery"


Start = Callable[..., Serving]


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Start services with other limits."""
    with contextlib.ExitStack() as stack:

        def run(limits: Limits | None = None, **options: Any) -> Serving:
            settings = ServeSettings(hosts=LOOPBACK, limits=limits or Limits(), **options)
            return stack.enter_context(serving({"a": Gallery.open(path)}, settings))

        yield run


class Endless:
    """Searches that go on until they are cancelled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, only: Callable[[SearchRequest], bool]):
        self.begun: list[SearchRequest] = []
        self.ended: list[type] = []
        self.release = threading.Event()

        def endless(request: SearchRequest, *arguments: Any) -> Any:
            if not only(request):
                return search_rows(request, *arguments)
            self.begun.append(request)
            try:
                while not self.release.wait(0.005):
                    check_cancelled()
            except CancelledError as error:
                self.ended.append(type(error))
                raise
            return search_rows(request, *arguments)

        monkeypatch.setattr("lookalike.server.service.search_rows", endless)


def post(body: bytes, path: str = SEARCH) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def metric(served: Serving, name: str) -> float:
    text = served.request("GET", "/metrics")[1].decode()
    match = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return 0.0 if match is None else float(match[1])


def cpu_seconds(pid: int) -> float:
    """Return the time that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def has_length(items: list[int], length: int) -> bool:
    return len(items) == length


DISCONNECTED = 'lookalike_cancelled_requests_total{reason="disconnected"}'


# ---- clients that leave --------------------------------------------------------------------------


def test_work_ends_when_its_client_leaves(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs is cancelled, and what waits for a thread is never begun."""
    endless = Endless(monkeypatch, lambda options: bool(options.rerankings))
    served = start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(served.port)) for _ in range(20)]
        for client in clients:
            client.sendall(post(COSTLY))
        assert eventually(lambda: served.service.quotas.searches.used == 20)
        assert eventually(lambda: len(endless.begun) == 2)  # a client leaves one of three threads
        assert served.request("POST", SEARCH, PLAIN, JSON)[0].status == 200
    assert eventually(lambda: metric(served, DISCONNECTED) == 20)
    assert eventually(lambda: served.service.workers.long.used == 0)
    assert endless.ended == [CancelledError] * 2
    assert len(endless.begun) == 2
    assert served.service.quotas.searches.used == 0
    assert served.service.quotas.work.used == 0


def test_a_client_that_left_with_queued_requests_is_noticed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more is read of such a connection, so its end has to be looked for.

    What is sent fits into the buffers of every system: the end of a connection comes after it.
    """
    endless = Endless(monkeypatch, lambda options: bool(options.rerankings))
    served = start()
    with connect(served.port) as client:
        client.sendall(post(COSTLY) + post(PLAIN) + post(b" " * 60_000 + PLAIN)[:30_000])
        assert eventually(lambda: len(endless.begun) == 1)
    assert eventually(lambda: endless.ended == [CancelledError])
    assert eventually(lambda: served.count_connections() == 0)


def test_decoders_and_encoders_do_not_work_for_clients_that_left(
    start: Start, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    served = start()
    encoder = type(served.service.handle("a").gallery.encoder)
    encode, sizes, release = encoder.encode_batch, [], threading.Event()

    def waiting(self: Any, images: Any) -> Any:
        sizes.append(len(images))
        assert release.wait(PATIENCE)
        return encode(self, images)

    image = (path.parent / "few" / "2.png").read_bytes()
    threads = len(served.service.handle("a").open().batcher._threads)
    monkeypatch.setattr(encoder, "encode_batch", waiting)
    with contextlib.ExitStack() as stack:
        for number in range(threads + 10):
            client = stack.enter_context(connect(served.port))
            client.sendall(post(image, f"{SEARCH}/image"))
            if number < threads:  # each in a batch of its own
                assert eventually(partial(has_length, sizes, number + 1))
        assert eventually(lambda: served.service.quotas.searches.used == threads + 10)
    assert eventually(lambda: metric(served, DISCONNECTED) == threads + 10)
    release.set()
    assert served.request("POST", f"{SEARCH}/image", image)[0].status == 200
    assert sizes == [1] * (threads + 1)


# ---- deadlines -----------------------------------------------------------------------------------


def test_a_request_that_takes_too_long_gets_a_503(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(monkeypatch, lambda options: bool(options.rerankings))
    served = start(Limits(request_seconds=0.3))
    response, body = served.request("POST", SEARCH, COSTLY, JSON)
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert json.loads(body)["type"] == "urn:lookalike:problem:time-limit"
    assert eventually(lambda: served.service.workers.long.used == 0)
    assert endless.ended[0] in (CancelledError, TimeLimitError)
    assert served.request("POST", SEARCH, PLAIN, JSON)[0].status == 200
    assert b'failures_total{reason="time-limit"} 1.0' in served.request("GET", "/metrics")[1]


SPINNING = """
import sys
from lookalike.gallery.gallery import Gallery
from lookalike.server import http_protocol, service, uvicorn_server
from lookalike.server.app import create_app
from lookalike.server.settings import LOOPBACK, ServeSettings

def spin(*_):
    print("spinning", flush=True)
    while True:
        pass

service.search_rows = spin
uvicorn_server._STOP_SECONDS, uvicorn_server._EXIT_SECONDS = 0.2, 1.5
settings = ServeSettings(hosts=LOOPBACK)
listening = uvicorn_server.listen("127.0.0.1", 0)
app = create_app({"a": Gallery.open(sys.argv[1])}, settings)
print(listening.getsockname()[1], flush=True)
uvicorn_server.run(app, listening, settings.limits)
"""


@pytest.mark.slow
def test_the_service_stops_though_a_thread_never_ends(path: Path) -> None:
    command = [sys.executable, "-c", SPINNING, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            port = int(running.stdout.readline())
            with connect(port) as client:
                client.sendall(post(PLAIN))
                assert "spinning" in running.stdout.readline()
                running.send_signal(signal.SIGTERM)
                (response,) = parse_responses(receive_all(client))
            assert response.status == 503
            assert json.loads(response.body)["type"] == "urn:lookalike:problem:stopping"
            assert running.wait(PATIENCE) == 0
            assert "cut off" in running.stderr.read()
        finally:
            running.kill()


HANGING = """
import sys
from functools import partial
from lookalike.gallery.gallery import Gallery
from lookalike.server import service, uvicorn_server
from lookalike.server.app import create_app
from lookalike.server.settings import LOOPBACK, ServeSettings

service.DecoderPool = partial(service.DecoderPool, module="tests.bad_decoder")
uvicorn_server._STOP_SECONDS, uvicorn_server._EXIT_SECONDS = 60, float(sys.argv[2])
settings = ServeSettings(hosts=LOOPBACK)
listening = uvicorn_server.listen("127.0.0.1", 0)
app = create_app({"a": Gallery.open(sys.argv[1])}, settings)
print(listening.getsockname()[1], flush=True)
uvicorn_server.run(app, listening, settings.limits)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_decoders_end_with_the_service_in_the_middle_of_a_file(
    path: Path, end: signal.Signals, require: Require
) -> None:
    require(sys.platform == "linux", "elsewhere they end after the file")
    command = [sys.executable, "-c", HANGING, str(path), "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None

        def decoders_now() -> set[int]:
            return children(running.pid, named="tests.bad_decoder")

        try:
            port = int(running.stdout.readline())
            with connect(port) as client:
                image = (path.parent / "few" / "2.png").read_bytes() + HANG
                client.sendall(post(image, f"{SEARCH}/image"))
                assert eventually(lambda: any(cpu_seconds(each) > 1.5 for each in decoders_now()))
                decoders = decoders_now()
                running.send_signal(end)
                running.wait(PATIENCE)
        finally:
            running.kill()
    assert eventually(lambda: not any(map(alive, decoders)))


# ---- others are not held up ----------------------------------------------------------------------


def test_costly_work_of_one_client_leaves_room_for_another(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(monkeypatch, lambda options: bool(options.rerankings) and options.k == 5)
    served = start(Limits(concurrent_requests=8))
    body = json.dumps({"id": ID, "rerank": "aqe", "k": 5}).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connect(served.port)).sendall(post(body))
        assert eventually(lambda: served.service.quotas.searches.used == 8)
        assert eventually(lambda: len(endless.begun) == 2)
        assert served.request("POST", SEARCH, PLAIN, JSON)[0].status == 429
        for each in (PLAIN, COSTLY):
            with socket.create_connection(
                ("127.0.0.1", served.port), PATIENCE, ("127.0.0.2", 0)
            ) as other:
                other.sendall(post(each).replace(b"host:", b"connection: close\r\nhost:"))
                assert parse_responses(receive_all(other))[0].status == 200
        endless.release.set()


def test_a_gallery_that_does_not_answer_does_not_hold_up_the_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.server.api._FACTS_SECONDS", 0.2)
    monkeypatch.setattr("lookalike.server.readiness._PROBE_SECONDS", 0.2)
    galleries = {"a": Gallery.open(path), "slow": Gallery.open(path)}
    with serving(galleries, ServeSettings(hosts=LOOPBACK)) as served:
        assert json.loads(served.request("GET", "/readyz")[1])["status"] == "ok"
        release = threading.Event()
        slow = served.service.handle("slow")
        opened = slow.open()
        monkeypatch.setattr(slow, "open", lambda: release.wait(PATIENCE) and opened)
        try:
            listed = json.loads(served.request("GET", "/v1/galleries")[1])
            assert [each["name"] for each in listed] == ["a", "slow"]
            assert listed[0]["problem"] is None
            assert "did not answer" in listed[1]["problem"]
            readiness = json.loads(served.request("GET", "/readyz")[1])
            assert readiness == {"status": "degraded", "galleries": 2, "ready": 1}
            assert metric(served, 'lookalike_gallery_ready{gallery="a"}') == 1
            assert metric(served, 'lookalike_gallery_ready{gallery="slow"}') == 0
            assert served.request("POST", SEARCH, PLAIN, JSON)[0].status == 200
        finally:
            release.set()


def test_a_batch_costs_as_much_as_its_queries(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(monkeypatch, lambda options: options.k == 5)
    served = start(Limits(queued_work=40))
    batch = json.dumps({"queries": [{"id": ID}] * 30, "k": 5}).encode()
    with connect(served.port) as client:
        client.sendall(post(batch, f"{SEARCH}/batch"))
        assert eventually(lambda: endless.begun)
        assert served.service.quotas.work.used == 30
        small = json.dumps({"queries": [{"id": ID}] * 11}).encode()
        assert served.request("POST", f"{SEARCH}/batch", small, JSON)[0].status == 429
        costly = json.dumps({"id": ID, "rerank": "geometric", "multi_crop": True}).encode()
        assert served.request("POST", SEARCH, costly, JSON)[0].status == 429
        endless.release.set()
        assert b"200 OK" in client.recv(1 << 16)


def test_results_of_a_batch_are_bounded_together(start: Start) -> None:
    body = json.dumps({"queries": [{"id": ID}] * 11, "k": 1_000}).encode()
    response, answer = start().request("POST", f"{SEARCH}/batch", body, JSON)
    assert response.status == 422
    assert "10,000" in json.loads(answer)["detail"]


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (SEARCH, {f"a{i}": i for i in range(40_000)}),
        (f"{SEARCH}/batch", {"queries": [{f"a{i}": i for i in range(600)}] * 64}),
        (
            "/v1/galleries/a/labeling/coverage",
            {"labels": {f"few:{i}.png": [""] * 20 for i in range(9_000)}},
        ),
    ],
)
def test_many_invalid_fields_are_few_errors(start: Start, url: str, body: Any) -> None:
    """An error for each would hold up everybody for seconds."""
    response, answer = start().request("POST", url, json.dumps(body).encode(), JSON)
    assert response.status == 422
    assert answer.count(b'"location"') == (20 if "batch" in url else 1)


def test_what_takes_long_to_parse_is_refused_before(start: Start) -> None:
    served = start(Limits(json_escapes=1_000))
    digits = b'{"k":%b,"id":"%b"}' % (b"1" * 4_000, b"x" * 20_000)
    escapes = b'{"id":"%b"}' % (b"\\n" * 20_000)
    for body, status in ((digits, 400), (escapes, 413)):
        assert served.request("POST", SEARCH, body, JSON)[0].status == status
    response, answer = served.request("POST", f"{SEARCH}/image?{'a&' * 1_000}", b"x")
    assert response.status == 422
    assert "1,001 parameters; the limit is 1,000" in json.loads(answer)["detail"]


def test_json_of_very_many_values_is_refused_before_it_is_parsed(start: Start) -> None:
    body = b'{"queries": [' + b"{}," * 600_000 + b"{}]}"
    response, answer = start().request("POST", f"{SEARCH}/batch", body, JSON)
    assert response.status == 413
    assert "50,000 values" in json.loads(answer)["detail"]


# ---- clients that do not read --------------------------------------------------------------------


def holds(served: Serving, size: int) -> bool:
    return served.service.quotas.responses.used == size


def unread(port: int, request: bytes) -> socket.socket:
    """Send a request, and read nothing of its response."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.connect(("127.0.0.1", port))
    client.sendall(request)
    return client


def test_files_that_nobody_reads_are_not_in_memory_and_limited_in_number(start: Start) -> None:
    served = start(Limits(files=3))
    large = f"/v1/galleries/a/item/image?id={quote('few:large.png')}"
    get = f"GET {large} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(unread(served.port, get)) for _ in range(3)]
        assert eventually(lambda: served.service.quotas.files.used == 3)
        assert served.request("GET", large)[0].status == 429
        assert served.request("GET", ITEM)[0].status == 200
        assert served.service.quotas.responses.used == 0
        assert served.service.quotas.requests.used == 0  # their work is done
        clients[0].close()
        assert eventually(lambda: served.service.quotas.files.used == 2)
        size = int(served.request("GET", large)[0].headers["content-length"])
        assert size > 5_000_000
    assert eventually(lambda: served.service.quotas.files.used == 0)


def test_responses_that_nobody_reads_have_a_budget_of_memory(start: Start) -> None:
    served = start(Limits(unsent_bytes=4_000_000))
    batch = json.dumps({"queries": [{"id": ID}] * 64, "k": 150}).encode()
    size = len(served.request("POST", f"{SEARCH}/batch", batch, JSON)[1])
    assert size > 500_000
    fitting = 3_000_000 // size
    with contextlib.ExitStack() as stack:
        for number in range(fitting):
            stack.enter_context(unread(served.port, post(batch, f"{SEARCH}/batch")))
            used = (number + 1) * size
            assert eventually(partial(holds, served, used))
        response, body = served.request("POST", f"{SEARCH}/batch", batch, JSON)
        assert response.status == 429
        assert "responses that are not read" in json.loads(body)["detail"]
        assert metric(served, "lookalike_unsent_response_bytes") == fitting * size
        assert served.request("POST", SEARCH, PLAIN, JSON)[0].status == 200
    assert eventually(lambda: served.service.quotas.responses.used == 0)


def test_a_response_in_json_is_bounded(start: Start) -> None:
    served = start(Limits(response_bytes=5_000))
    body = json.dumps({"id": ID, "k": 100}).encode()
    response, answer = served.request("POST", SEARCH, body, JSON)
    assert response.status == 422
    assert "fewer results" in json.loads(answer)["detail"]


@pytest.mark.slow
def test_idle_connections_do_not_use_up_the_file_descriptors(path: Path, require: Require) -> None:
    require(sys.platform == "linux", "file descriptors are limited with ulimit")
    serve = [sys.executable, "-m", "lookalike", "serve", str(path), "--port", "0"]
    command = ["/bin/sh", "-c", 'ulimit -n 700; exec "$@"', "sh", *serve]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            line = next(line for line in iter(running.stderr.readline, "") if "serving" in line)
            port = int(line.split("127.0.0.1:")[1].split("/")[0])
            with contextlib.ExitStack() as stack:
                for _ in range(600):
                    client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                    with contextlib.suppress(ConnectionError):
                        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ")
                with connect(port) as healthy:
                    healthy.sendall(
                        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
                    )
                    assert parse_responses(receive_all(healthy))[0].status == 200
            running.send_signal(signal.SIGTERM)
            assert running.wait(PATIENCE) == 0
            assert running.stderr.read() == ""
        finally:
            running.kill()


# ---- pages of other sites ------------------------------------------------------------------------

CROSS_SITE = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
LINK = {
    "sec-fetch-site": "cross-site",
    "sec-fetch-mode": "navigate",
    "sec-fetch-dest": "document",
    "sec-fetch-user": "?1",
    "accept": "text/html",
}
OWN = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
ADDRESSES = (
    *("/", "/g/a", f"/g/a?id={quote(ID)}", "/g/a/map", "/readyz"),
    *("/g/a/report", "/g/a/label", "/g/a/judge", "/metrics", "/v1/galleries", "/v1/galleries/a"),
    *(ITEM, ITEM.replace("item?", "item/image?"), ITEM.replace("item?", "item/thumbnail?")),
    *(ITEM.replace("item?", "item/neighbors?"), "/v1/galleries/a/sample", "/v1/galleries/a/map"),
    *("/v1/galleries/a/labeling", "/v1/galleries/a/evaluation"),
)


@pytest.mark.parametrize(
    "headers",
    [
        CROSS_SITE,
        {**CROSS_SITE, "sec-fetch-site": "same-site"},
        {**CROSS_SITE, "sec-fetch-dest": "image"},
        {**LINK, "sec-fetch-dest": "iframe"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"referer": "https://evil.example/page"},
    ],
)
def test_other_sites_cannot_use_the_service(start: Start, headers: dict[str, str]) -> None:
    served = start()
    stages = 'lookalike_stage_seconds_count{stage="search"}'
    before = metric(served, stages)
    for address in ADDRESSES:
        response, body = served.request("GET", address, headers=headers)
        assert response.status == 403, address
        if "accept" not in headers:
            assert json.loads(body)["type"] == "urn:lookalike:problem:cross-site"
    for body in (PLAIN, COSTLY):
        assert served.request("POST", SEARCH, body, {**JSON, **headers})[0].status == 403
    assert served.request("GET", "/healthz", headers=headers)[0].status == 200
    assert metric(served, stages) == before


def test_own_pages_and_other_programs_use_the_service(start: Start) -> None:
    served = start()
    for headers in (
        OWN,
        {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
        {"origin": served.url},
        {"referer": f"{served.url}/g/a"},
        {"origin": "https://localhost:8443", "host": "localhost"},
        {},
    ):
        for address in ADDRESSES:
            assert served.request("GET", address, headers=headers)[0].status in (200, 303, 404)


def test_a_link_on_another_site_leads_to_a_question_first(start: Start) -> None:
    served = start()
    for address in ("/", "/g/a", "/g/a/map"):
        assert served.request("GET", address, headers=LINK)[0].status in (200, 303)
    permalink = f"/g/a?id={quote(ID)}&k=3&where=label%3D%27%22%3E%27"
    response, body = served.request("GET", permalink, headers=LINK)
    assert response.status == 403
    link = re.search(r'class="button" href="([^"]*)"', body.decode())
    assert link is not None
    target = link[1].replace("&amp;", "&")
    assert target == permalink
    assert served.request("GET", target, headers={**OWN, "accept": "text/html"})[0].status == 200


def test_allowed_origins_may_search(start: Start) -> None:
    served = start(origins=("https://shop.example",))
    for origin, status in (("https://shop.example", 200), ("https://evil.example", 403)):
        headers = {**CROSS_SITE, "sec-fetch-mode": "cors", "origin": origin}
        assert served.request("POST", SEARCH, PLAIN, {**JSON, **headers})[0].status == status


def test_two_host_headers_are_refused(start: Start) -> None:
    served = start()
    for second in (b"evil.example", b"localhost"):
        with connect(served.port) as client:
            client.sendall(
                b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: " + second + b"\r\n\r\n"
            )
            assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_writes_from_every_website_need_a_key(path: Path) -> None:
    refused = lookalike("serve", path, "--write", "--allow-origin", "*")
    assert refused.returncode == 2
    assert "--allow-origin" in refused.stderr
    assert "--write" in refused.stderr


# ---- no file paths -------------------------------------------------------------------------------

BREAKS: dict[str, Callable[[Path], None]] = {
    "gone": lambda folder: shutil.rmtree(folder),
    "no manifest": lambda folder: (folder / "gallery.json").unlink(),
    "broken manifest": lambda folder: _truncate(folder / "gallery.json"),
    "no rows": lambda folder: shutil.rmtree(folder / "store"),
    "broken rows": lambda folder: _overwrite_all(folder / "store", b"x"),
    "broken files": lambda folder: _break_files(folder),
    "no images": lambda folder: shutil.rmtree(folder.parent / "few"),
}


def _truncate(file: Path) -> None:
    file.write_bytes(b"{")


def _overwrite_all(folder: Path, data: bytes) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(data)


def _break_files(folder: Path) -> None:
    for name in ("evaluation", "map", "labeling"):
        (folder / f"{name}.json").write_text('{"format": 99}')


@pytest.mark.parametrize("name", BREAKS)
def test_no_response_has_a_file_path(path: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / "secret place"
    shutil.copytree(path.parent, root)
    image = (root / "few" / "3.png").read_bytes()
    gallery = Gallery.open(root / "a.gallery")
    settings = ServeSettings(hosts=LOOPBACK, allow_writes=True)
    requests = [
        *(("GET", address, None) for address in ADDRESSES),
        ("GET", "/v1/galleries/a/evaluation/report", None),
        ("POST", SEARCH, PLAIN),
        ("POST", SEARCH, json.dumps({"id": ID, "box": [0, 0, 9, 9]}).encode()),
        ("POST", SEARCH, json.dumps({"keywords": "x"}).encode()),
        ("POST", f"{SEARCH}/batch", json.dumps({"queries": [{"id": ID}]}).encode()),
        ("POST", f"{SEARCH}/image", image),
        ("POST", "/v1/galleries/a/labeling/coverage", json.dumps({"labels": {ID: ["x"]}}).encode()),
        ("PUT", "/v1/galleries/a/item?id=new", image),
        ("PATCH", "/v1/galleries/a/item?id=api:new", b'{"metadata": {"a": 1}}'),
        ("DELETE", "/v1/galleries/a/item?id=api:new", None),
    ]
    failed = 0
    with serving({"a": gallery}, settings) as served:
        assert served.request("GET", "/readyz")[0].status == 200
        BREAKS[name](root / "a.gallery")
        for method, address, body in requests:
            for accept in ("text/html", "application/json"):
                headers = {**JSON, "accept": accept}
                response, answer = served.request(method, address, body, headers)
                text = answer.decode(errors="replace") + str(response.headers)
                assert not re.search(r"secret|pytest-of|/tmp/", text), (method, address, text)
                failed += response.status >= 400
    assert failed
