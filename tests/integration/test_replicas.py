"""Several replicas of a service over one gallery in Milvus, behind nginx, under load."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.base import Encoder
from lookalike.gallery.gallery import Gallery
from lookalike.sources import Source
from tests.conftest import Require
from tests.milvus_server import MilvusServer
from tests.processes import alive, children
from tests.raw_http import PATIENCE, eventually

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
SEARCH = "/v1/galleries/replicas/search"
QUERIES = 20
KIND = {"content-type": "application/json"}
CALLERS = 6
SLOW = 1
"""Callers that send a batch of all queries."""

PAUSE_S = 0.05
MAX_LATENCY_S = 10
"""Limit for every search, whatever happens to a replica."""

TIMEOUT_S = 5
RELOAD_S = 120
"""Time for Milvus to load the rows after a restart, mostly waiting for a session to expire."""

_LOGGED = "$upstream_addr;$upstream_status;$upstream_connect_time;$status;$request_completion"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def send(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path, body or None, KIND if body.startswith(b"{") else {})
        response = connection.getresponse()
        return response.status, response.read()


def problem(response: tuple[int, bytes]) -> tuple[int, str]:
    return response[0], json.loads(response[1])["type"].removeprefix("urn:lookalike:problem:")


@dataclass(frozen=True)
class SearchRequest:
    """A search request, and the expected ids of the hits of each of its queries."""

    path: str
    body: bytes
    expected: Sequence[Sequence[str]]

    @property
    def headers(self) -> dict[str, str]:
        return KIND if self.body.startswith(b"{") else {}

    def ids_in(self, data: bytes) -> list[list[str]]:
        """Return the ids of the hits in a response."""
        document = json.loads(data)
        results = document.get("results", [{"result": document}])
        each = [result["result"] for result in results]
        return [[hit["id"] for hit in one["hits"]] for one in each]


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def search_requests(gallery: Gallery, digits: Source) -> list[SearchRequest]:
    """Return searches by image and by id, with the results of the gallery itself."""
    requests = []
    for item in itertools.islice(digits, QUERIES):
        by_image = gallery.search(item.image(), k=5)
        assert by_image[0].id == item.id
        by_id = gallery.search(id=item.id, k=5)
        body = json.dumps({"id": item.id, "k": 5}).encode()
        right = [[hit.id for hit in by_image]], [[hit.id for hit in by_id]]
        requests.append(SearchRequest(f"{SEARCH}/image?k=5", png(item.image()), right[0]))
        requests.append(SearchRequest(SEARCH, body, right[1]))
    return requests


def as_batch(requests: Sequence[SearchRequest]) -> SearchRequest:
    """Return the searches by image as one slow batch."""
    few = [request for request in requests if request.path != SEARCH]
    queries = [{"image": base64.b64encode(request.body).decode()} for request in few]
    body = json.dumps({"queries": queries, "k": 5}).encode()
    return SearchRequest(f"{SEARCH}/batch", body, [request.expected[0] for request in few])


class Replica:
    """``lookalike serve`` as a process, with a port and a folder of cached files of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it with an empty cache."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        command = [sys.executable, "-m", "lookalike", "serve", *self._arguments]
        own = {"LOOKALIKE_DATA": str(self._folder / "data")}
        threads = {"LOOKALIKE_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (self._folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)],
                env={**os.environ, **threads, **own},
                stderr=log,
            )

    def wait(self) -> None:
        """Wait until it is ready."""
        serving = f"serving at http://127.0.0.1:{self.port}/"
        assert eventually(lambda: serving in self.log() or self.ended), self.log()
        assert eventually(lambda: self.ended or send(self.port, "GET", "/readyz")[0] == 200)
        assert not self.ended, self.log()

    def send(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)

    def end(self, how: signal.Signals) -> int:
        """Send it a signal, and return what it ended with."""
        assert self._process is not None
        self.send(how)
        return self._process.wait(PATIENCE)

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    @property
    def decoders(self) -> set[int]:
        assert self._process is not None
        return children(self._process.pid)

    def log(self) -> str:
        return (self._folder / "log.txt").read_text()

    def count(self, pattern: str) -> int:
        """Return the sum of the figures whose names match."""
        text = send(self.port, "GET", "/metrics")[1].decode()
        return sum(int(float(each)) for each in re.findall(rf"(?m)^{pattern} (\S+)$", text))

    def searches(self) -> int:
        """Return how many it has answered."""
        return self.count(r'lookalike_requests_total\{method="POST",.*status="200"\}')


class Proxy:
    """nginx as docs/serving.md configures it, between here and the replicas."""

    def __init__(self, binary: str, folder: Path, replicas: Sequence[Replica]) -> None:
        self.port = free_port()
        self._log = folder / "access.log"
        documented = DOCS.read_text().partition("## Several replicas")[2]
        [config] = re.findall(r"```nginx\n(.*?)```", documented.partition("\n## ")[0], re.DOTALL)
        ports = iter(replica.port for replica in replicas)
        config, servers = re.subn(
            r"server 10\.0\.0\.\d+:8000", lambda _: f"server 127.0.0.1:{next(ports)}", config
        )
        config, listening = re.subn("listen 80;", f"listen 127.0.0.1:{self.port};", config)
        assert (servers, listening) == (len(replicas), 1)
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off;\nuser root;\nworker_processes 2;\npid {folder}/nginx.pid;\n"
            f"events {{}}\nhttp {{\nlog_format tried '{_LOGGED}';\n"
            f"access_log {self._log} tried;\n{temporary}{config}}}\n"
        )
        self._errors = folder / "error.log"
        self._process = subprocess.Popen(
            [binary, "-p", folder, "-c", folder / "nginx.conf", "-e", self._errors]
        )

    def wait(self) -> None:
        """Wait until it passes requests on."""

        def passes() -> bool:
            with contextlib.suppress(ConnectionError):
                return send(self.port, "GET", "/healthz")[0] == 200
            return self._process.poll() is not None

        assert eventually(passes)
        assert self._process.poll() is None, self._errors.read_text()

    def lost(self, replica: Replica) -> int:
        """Return how many requests a replica received without responding; others may have."""
        lost = 0
        for line in self._log.read_text().splitlines():
            fields = [part.split(", ") for part in line.split(";")]
            for where, status, connected in zip(*fields[:3], strict=True):
                here = where == f"127.0.0.1:{replica.port}" and connected != "-"
                lost += here and (status == "502" or not fields[4][0])
        return lost

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)


class Load:
    """Searches by several threads until the end, comparing the results."""

    def __init__(self, port: int, requests: Sequence[SearchRequest]) -> None:
        self.failures: list[str] = []
        self.latencies: list[float] = []
        self._port = port
        self._ended = threading.Event()
        many = [[as_batch(requests)]] * SLOW
        single = [[*requests[start:], *requests[:start]] for start in range(CALLERS - SLOW)]
        self._threads = [threading.Thread(target=self._run, args=(own,)) for own in many + single]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for_responses(self, count: int = 50) -> None:
        """Wait until that many more responses have arrived."""
        before = len(self.latencies)
        assert eventually(lambda: len(self.latencies) >= before + count), self.failures

    def _run(self, requests: Sequence[SearchRequest]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2 * PATIENCE)
        with contextlib.closing(connection):
            for request in itertools.cycle(requests):
                if self._ended.wait(PAUSE_S):
                    return
                start_time = time.monotonic()
                try:
                    connection.request("POST", request.path, request.body, request.headers)
                    response = connection.getresponse()
                    self._check(request, response.status, response.read())
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(f"{request.path}: {error!r}")
                    connection.close()
                self.latencies.append(time.monotonic() - start_time)

    def _check(self, request: SearchRequest, status: int, data: bytes) -> None:
        if status != 200 or request.ids_in(data) != request.expected:
            self.failures.append(f"{request.path}: {status} {data[:500]!r}")


@dataclass
class Fleet:
    """A gallery, two replicas of its service and the proxy before them."""

    gallery: Gallery
    replicas: list[Replica]
    proxy: Proxy
    requests: list[SearchRequest]

    def load(self) -> Load:
        return Load(self.proxy.port, self.requests)

    def all_answer(self) -> bool:
        """Return whether all replicas receive searches."""
        before = [replica.searches() for replica in self.replicas]

        def grown() -> bool:
            now = [replica.searches() for replica in self.replicas]
            return all(new >= old + 5 for new, old in zip(now, before, strict=True))

        return eventually(grown)


@pytest.fixture(scope="module")
def address(
    milvus: MilvusServer, digits: Source, pixels: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a gallery of digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOKALIKE_DATA", str(tmp_path_factory.mktemp("data")))
        there = f"milvus://{milvus.host}/replicas"
        Gallery.create(there, encoder=pixels).sync(digits)
        yield there


@pytest.fixture(scope="module")
def fleet(
    require: Require, address: str, digits: Source, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    require(binary, "nginx is not installed")
    assert binary is not None
    folder = tmp_path_factory.mktemp("fleet")
    replicas = [Replica(folder / name, address) for name in ("one", "two")]
    with contextlib.ExitStack() as stack:
        for replica in replicas:
            replica.start()
            stack.callback(replica.end, signal.SIGKILL)
        gallery = Gallery.open(address)
        requests = search_requests(gallery, digits)
        for replica in replicas:
            replica.wait()
        proxy = Proxy(binary, folder, replicas)
        stack.callback(proxy.close)
        proxy.wait()
        yield Fleet(gallery, replicas, proxy, requests)


@pytest.fixture(scope="module")
def impatient(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """A replica with a short timeout for Milvus, and with writing enabled."""
    folder = tmp_path_factory.mktemp("impatient") / "replica"
    replica = Replica(folder, f"{address}?timeout={TIMEOUT_S}", "--write")
    replica.start()
    try:
        replica.wait()
        yield replica
    finally:
        replica.end(signal.SIGKILL)


def test_killed_replica_loses_at_most_its_own_requests(fleet: Fleet) -> None:
    """nginx asks the other one; the service goes on, and the killed one comes back into it."""
    killed, other = fleet.replicas
    with fleet.load() as load:
        load.wait_for_responses()
        decoders = killed.decoders
        killed.send(signal.SIGSTOP)
        load.wait_for_responses(10)  # of the other replica; this one has requests that hang
        killed.end(signal.SIGKILL)
        load.wait_for_responses()
        assert eventually(lambda: not any(map(alive, decoders)))
        killed.start()
        killed.wait()
        assert fleet.all_answer()
    lost = fleet.proxy.lost(killed)
    assert lost
    assert len(load.failures) <= lost, load.failures
    assert fleet.proxy.lost(other) == 0
    assert max(load.latencies) < MAX_LATENCY_S
    for request in fleet.requests:
        one, two = (send(each.port, "POST", request.path, request.body) for each in fleet.replicas)
        assert one == two
        assert request.ids_in(one[1]) == request.expected


def test_stopped_replica_loses_no_request(fleet: Fleet) -> None:
    """As each is in turn when a new version is rolled out."""
    replica = fleet.replicas[1]
    with fleet.load() as load:
        load.wait_for_responses()
        assert eventually(lambda: replica.count("lookalike_requests_in_progress"))
        assert replica.end(signal.SIGTERM) == 0
        assert len(replica.log().splitlines()) == 2  # logged at the start
        load.wait_for_responses()
        replica.start()
        replica.wait()
        assert fleet.all_answer()
    assert load.failures == []
    assert max(load.latencies) < MAX_LATENCY_S


def test_new_rows_are_found_by_all_replicas(fleet: Fleet, tmp_path: Path) -> None:
    """Also by a column that no row had before, and while others search."""
    rng = np.random.default_rng(0)
    images = [png(rng.integers(0, 256, (8, 8), np.uint8)) for _ in range(4)]
    lines = [f"{number}.png,noise {number}\n" for number in range(len(images))]
    for number, image in enumerate(images):
        (tmp_path / f"{number}.png").write_bytes(image)
    manifest = tmp_path / "new.csv"
    manifest.write_text("path,shade\n" + "".join(lines))
    path = f"{SEARCH}/image?k=1&where=shade%20=%20'noise%203'"

    def finds_new_row(replica: Replica) -> bool:
        status, data = send(replica.port, "POST", path, images[3])
        if status == 422:
            return "shade" not in json.loads(data)["detail"]  # there is no such column yet
        return [hit["id"] for hit in json.loads(data)["hits"]] == ["new:3.png"]

    with fleet.load() as load:
        load.wait_for_responses()
        assert not any(map(finds_new_row, fleet.replicas))
        assert fleet.gallery.sync(manifest).added == len(images)
        written = time.monotonic()
        assert eventually(lambda: all(map(finds_new_row, fleet.replicas)))
        took = time.monotonic() - written
    assert load.failures == []
    assert took < MAX_LATENCY_S


def test_images_cannot_be_put_through_a_replica(impatient: Replica, digits: Source) -> None:
    path = SEARCH.replace("/search", "/item?id=mine")
    status, data = send(impatient.port, "PUT", path, png(digits[0].image()))
    assert (status, json.loads(data)["title"]) == (422, "Invalid request")
    assert "cannot be uploaded to a gallery with rows at milvus://" in json.loads(data)["detail"]
    assert send(impatient.port, "GET", f"{path.replace('mine', 'api:mine')}")[0] == 404


def test_replica_recovers_when_milvus_returns(
    milvus: MilvusServer, impatient: Replica, digits: Source
) -> None:
    """Meanwhile it says within Milvus' timeout that they are away, however many ask."""
    search = ("POST", f"{SEARCH}/image?k=1", png(digits[0].image()))
    many = [{"image": base64.b64encode(search[2]).decode()}] * 40
    batch = ("POST", f"{SEARCH}/batch", json.dumps({"queries": many}).encode())
    ready = ("GET", "/readyz")

    def timed(number: int) -> tuple[tuple[int, str], float]:
        start_time = time.monotonic()
        request = batch if number == 5 else search
        return problem(send(impatient.port, *request)), time.monotonic() - start_time

    assert send(impatient.port, *search)[0] == 200
    milvus.kill()
    try:
        with ThreadPoolExecutor(12) as pool:
            pending = pool.map(timed, range(12))
            assert send(impatient.port, "GET", "/healthz")[0] == 200
            assert eventually(
                lambda: b"store-unavailable" in send(impatient.port, *ready)[1]
            )  # it was just ready
            outcomes = list(pending)
        assert {response for response, _ in outcomes} == {(503, "store-unavailable")}
        assert max(took for _, took in outcomes) < 3 * TIMEOUT_S
    finally:
        milvus.start()
    start_time = time.monotonic()
    while send(impatient.port, *search)[0] != 200:
        assert time.monotonic() - start_time < RELOAD_S, impatient.log()
        time.sleep(0.1)
    # It counts rows too, for which the server must have caught up with its log.
    assert eventually(lambda: send(impatient.port, *ready)[0] == 200), impatient.log()
    assert impatient.count(r'lookalike_failures_total\{reason="store-unavailable"\}') >= len(
        outcomes
    )
    lines = impatient.log().splitlines()[2:]
    log = [line for line in lines if "lookalike.audit: " not in line]
    assert all(" ERROR lookalike.server.app: " in line for line in log), log
