"""Index jobs over HTTP: a gallery is synced in another process while it is searched."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from lookalike import url_fetch
from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.storage import INDEXING, LOCK
from lookalike.server import webhooks
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.integration.test_items_api import Shop, png
from tests.serving import serving

SECRET = "a secret of a webhook"
COUNT = 6


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "my photos" / "photos"
    root.mkdir(parents=True)
    for number in range(COUNT):
        (root / f"{number}.png").write_bytes(png(40 * number, 9, 9))
    return root


@pytest.fixture
def gallery(source: Path, tmp_path: Path) -> Gallery:
    encoder = open_encoder("color", sample_images(open_source(source)))
    gallery = Gallery.create(tmp_path / "shop.gallery", encoder=encoder)
    gallery.sync(source)
    return gallery


@pytest.fixture
def shop(gallery: Gallery) -> Iterator[Shop]:
    settings = ServeSettings(allow_writes=True, allow_webhooks=True, hosts=LOOPBACK)
    with serving({"shop": gallery}, settings) as served:
        yield Shop(served, gallery)


def start(shop: Shop, **fields: Any) -> Any:
    status, job = shop.send("POST", "/jobs", {"kind": "sync", **fields})
    assert status == 202, job
    return job


def wait(shop: Shop, job: Any, until: Callable[[Any], bool] | None = None) -> Any:
    """Return a job once it has ended, or is as it should be."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job = shop.get(f"/jobs/{job['id']}")
        if until(job) if until is not None else job["finished_at"] is not None:
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def test_a_job_brings_the_gallery_up_to_date(shop: Shop, source: Path) -> None:
    """New, changed, removed and broken files are counted; the broken one is named."""
    (source / "new.png").write_bytes(png(1, 200, 3))
    (source / "0.png").write_bytes(png(1, 2, 250))
    (source / "1.png").unlink()
    (source / "broken.png").write_bytes(b"not an image at all")
    (source / "notes.txt").write_text("no image")
    job = start(shop)
    assert (job["state"], job["kind"], job["gallery"]) == ("queued", "sync", "shop")
    job = wait(shop, job)
    assert job["state"] == "succeeded"
    counts = {name: count for name, count in job["summary"].items() if count}
    expected = {"added": 1, "updated": 1, "removed": 1, "failed": 1, "skipped": 1}
    assert counts == {**expected, "unchanged": COUNT - 2}
    [synced] = job["sources"]
    assert synced["source"] == "photos"
    assert [each["name"] for each in synced["failed"]] == ["broken.png"]
    assert sum(synced["skipped"].values()) == 1
    progress = job["progress"]
    assert (progress["done"], progress["source"]) == (progress["total"], "photos")
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert "my photos" not in json.dumps(job)
    page = shop.get("/items", sort="name")
    names = [item["name"] for item in page["items"]]
    assert names == ["0.png", "2.png", "3.png", "4.png", "5.png", "new.png"]
    assert shop.get("/jobs")["jobs"] == [job]


def test_removed_images_stay_removed_until_a_job_restores_them(shop: Shop) -> None:
    assert shop.send("DELETE", "/item?id=photos:1.png")[0] == 204
    [synced] = wait(shop, start(shop))["sources"]
    assert synced["skipped"] == {"removed from the gallery before": 1}
    assert len(shop.gallery) == COUNT - 1
    assert wait(shop, start(shop, restore_removed=True))["summary"]["added"] == 1
    assert len(shop.gallery) == COUNT


def test_a_gallery_has_one_job_which_can_be_cancelled(shop: Shop, source: Path) -> None:
    """While another process writes, the job waits; the gallery is searched meanwhile."""
    (source / "new.png").write_bytes(png(1, 200, 3))
    with FileLock(shop.gallery.path / LOCK):
        job = start(shop)
        wait(shop, job, lambda job: job["state"] == "running")
        status, problem = shop.send("POST", "/jobs", {"kind": "sync"})
        assert (status, problem["job"]) == (409, job["id"])
        assert problem["type"] == "urn:lookalike:problem:job-exists"
        assert shop.send("POST", "/search", {"id": "photos:1.png"})[0] == 200
        status, cancelled = shop.send("DELETE", f"/jobs/{job['id']}")
        assert (status, cancelled["state"]) == (200, "cancelled")
        assert cancelled["finished_at"] is not None
    assert shop.send("DELETE", f"/jobs/{job['id']}") == (200, cancelled)
    assert len(shop.gallery) == COUNT
    assert wait(shop, start(shop))["summary"]["added"] == 1


def test_a_job_that_waits_for_others_is_cancelled_before_it_begins(
    shop: Shop, gallery: Gallery, tmp_path: Path
) -> None:
    shutil.copytree(gallery.path, tmp_path / "other.gallery")
    other = Gallery.open(tmp_path / "other.gallery")
    settings = ServeSettings(allow_writes=True, hosts=LOOPBACK)
    with (
        serving({"shop": gallery, "other": other}, settings) as served,
        FileLock(gallery.path / LOCK),
    ):
        shop = Shop(served, gallery)
        first = start(shop)
        wait(shop, first, lambda job: job["state"] == "running")
        response, content = served.request(
            "POST",
            "/v1/galleries/other/jobs",
            b'{"kind": "sync"}',
            {"content-type": "application/json"},
        )
        location = response.headers["location"]
        assert (response.status, json.loads(content)["state"]) == (202, "queued")
        assert location == f"/v1/galleries/other/jobs/{json.loads(content)['id']}"
        waiting = json.loads(served.request("DELETE", location)[1])
        assert (waiting["state"], waiting["started_at"]) == ("cancelled", None)
        assert shop.send("GET", f"/jobs/{waiting['id']}")[0] == 404  # of another gallery


def test_a_job_on_a_gallery_that_another_process_indexes(shop: Shop) -> None:
    with FileLock(shop.gallery.path / INDEXING):
        status, problem = shop.send("POST", "/jobs", {"kind": "sync"})
    assert (status, problem["type"]) == (409, "urn:lookalike:problem:gallery-locked")
    assert "try again" in problem["detail"]
    assert shop.get("/jobs")["jobs"] == []


def test_the_process_ends_with_the_service(gallery: Gallery) -> None:
    settings = ServeSettings(allow_writes=True, hosts=LOOPBACK)
    with FileLock(gallery.path / LOCK):
        with serving({"shop": gallery}, settings) as served:
            shop = Shop(served, gallery)
            job = start(shop)
            wait(shop, job, lambda job: job["state"] == "running")
            running = served.service.jobs._jobs[job["id"]]
            assert running.process is not None
            assert running.process.poll() is None
        assert running.process.poll() is not None
        assert running.job.state == "cancelled"


def test_a_process_that_dies_is_a_failure_with_what_to_do(shop: Shop) -> None:
    with FileLock(shop.gallery.path / LOCK):
        job = start(shop)
        wait(shop, job, lambda job: job["state"] == "running")
        process = shop.served.service.jobs._jobs[job["id"]].process
        assert process is not None
        process.kill()
        job = wait(shop, job)
    assert job["state"] == "failed"
    assert "start a new job" in job["problem"]["detail"]


def test_a_source_that_is_gone_fails_without_its_path(shop: Shop, source: Path) -> None:
    shutil.rmtree(source)
    job = wait(shop, start(shop))
    assert job["state"] == "failed"
    problem = job["sources"][0]["problem"]
    assert problem["status"] == 422
    assert "no such file or folder" in problem["detail"]
    assert str(source.parent) not in json.dumps(job)
    assert len(shop.gallery) == COUNT


def test_most_images_are_removed_only_where_that_is_allowed(shop: Shop, source: Path) -> None:
    for number in range(COUNT - 1):
        (source / f"{number}.png").unlink()
    refused = wait(shop, start(shop))
    assert refused["state"] == "failed"
    assert len(shop.gallery) == COUNT
    allowed = wait(shop, start(shop, allow_removals=True, sources=["photos"]))
    assert allowed["summary"]["removed"] == COUNT - 1


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({}, "body/kind"),
        ({"kind": "nosuch"}, "body/kind"),
        ({"kind": "sync", "sources": ["nosuch"]}, "body/sources"),
        ({"kind": "sync", "sources": []}, "body/sources"),
        ({"kind": "sync", "nosuch": 1}, "body/nosuch"),
        (
            {"kind": "sync", "webhook": {"url": "ftp://a/", "secret": SECRET}},
            "body/webhook/url",
        ),
        (
            {"kind": "sync", "webhook": {"url": "http://a/", "secret": "short"}},
            "body/webhook/secret",
        ),
    ],
)
def test_bad_jobs_are_refused(shop: Shop, body: object, location: str) -> None:
    status, problem = shop.send("POST", "/jobs", body)
    assert status == 422
    assert problem["errors"][0]["location"] == location
    assert SECRET not in json.dumps(problem)


def test_a_gallery_without_sources_has_nothing_to_sync_with(gallery: Gallery) -> None:
    gallery.remove_rows(source="photos")
    with serving({"shop": gallery}) as served:
        status, problem = Shop(served, gallery).send("POST", "/jobs", {"kind": "sync"})
    assert (status, "lookalike index" in problem["detail"]) == (422, True)


def test_jobs_need_the_right_to_write(gallery: Gallery) -> None:
    with serving({"shop": gallery}, ServeSettings(hosts=LOOPBACK)) as served:
        shop = Shop(served, gallery)
        assert shop.send("POST", "/jobs", {"kind": "sync"})[0] == 403
        assert shop.send("DELETE", "/jobs/x")[0] == 403
        assert shop.send("GET", "/jobs/x")[0] == 404
        assert shop.get("/jobs") == {"jobs": []}


def test_the_rate_is_that_of_the_last_seconds(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that first skips unchanged images quickly does not promise to go on like that."""
    from lookalike.server import jobs

    clock = [100.0]
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    running = jobs._Running(jobs.Job("a", "shop", ["photos"]), shop.served.service.handle("shop"))

    def report(seconds: float, done: int) -> jobs.JobProgress:
        clock[0] = 100 + seconds
        fields = {"source": "photos", "task": "index", "unit": "images"}
        running._receive({"progress": {**fields, "done": done, "total": 10_000}})
        assert running.job.progress is not None
        return running.job.progress

    assert report(0, 0).per_second is None
    assert report(10, 5_000).per_second == 500
    for second in range(11, 40):
        progress = report(second, 5_000 + 10 * (second - 10))
    assert progress.per_second == pytest.approx(10)
    assert progress.remaining_seconds == pytest.approx((5_000 - 290) / 10)


# ---- webhooks ------------------------------------------------------------------------------------


@dataclass
class Receiver:
    """An HTTP server that answers webhooks with some statuses, the last one from then on."""

    statuses: Sequence[int]
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""


@contextmanager
def receiver(*statuses: int) -> Iterator[Receiver]:
    state = Receiver(statuses)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.received.append((headers, body))
            place = min(len(state.received), len(state.statuses)) - 1
            self.send_response(state.statuses[place])
            self.send_header("location", "http://127.0.0.1:1/")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/hook?token=hidden"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def own_machine_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is tested in test_url_fetch; here a server on this machine stands for another."""
    monkeypatch.setattr(url_fetch, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(webhooks, "_RETRY_AFTER_S", (0.01, 0.01, 0.01))


def hook_is_over(job: Any) -> bool:
    return bool(job["webhook"]["state"] != "pending")


def test_a_webhook_is_signed_and_sent_again_after_an_error(
    shop: Shop, own_machine_is_public: None
) -> None:
    with receiver(500, 429, 204) as hook:
        job = start(shop, webhook={"url": hook.url, "secret": SECRET})
        job = wait(shop, job, hook_is_over)
    assert (job["webhook"]["state"], job["webhook"]["attempts"]) == ("delivered", 3)
    assert len(hook.received) == 3
    headers, body = hook.received[-1]
    assert headers["content-type"] == "application/json"
    seconds, _, digest = headers["x-lookalike-signature"].removeprefix("t=").partition(",v1=")
    expected = hmac.new(SECRET.encode(), f"{seconds}.".encode() + body, hashlib.sha256)
    assert hmac.compare_digest(digest, expected.hexdigest())
    assert abs(time.time() - int(seconds)) < 60
    sent = json.loads(body)
    assert (sent["id"], sent["state"]) == (job["id"], "succeeded")
    assert "hidden" not in json.dumps(job)
    assert SECRET not in json.dumps(job) + body.decode()


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (302, 1), (503, 4)])
def test_a_webhook_that_is_refused_has_failed(
    shop: Shop, own_machine_is_public: None, status: int, attempts: int
) -> None:
    """Redirects are not followed, and nothing is sent for ever."""
    with receiver(status) as hook:
        job = start(shop, webhook={"url": hook.url, "secret": SECRET})
        job = wait(shop, job, hook_is_over)
    assert job["webhook"] == {
        "origin": hook.url.partition("/hook")[0],
        "state": "failed",
        "attempts": attempts,
        "error": f"the server responded {status}",
    }
    assert job["state"] == "succeeded"


def test_a_webhook_goes_to_public_addresses_only(shop: Shop) -> None:
    with receiver(204) as hook:
        job = start(shop, webhook={"url": hook.url, "secret": SECRET})
        job = wait(shop, job, hook_is_over)
    assert hook.received == []
    assert "not on the public internet" in job["webhook"]["error"]


def test_webhooks_are_off_unless_allowed(gallery: Gallery) -> None:
    settings = ServeSettings(allow_writes=True, hosts=LOOPBACK)
    with serving({"shop": gallery}, settings) as served:
        shop = Shop(served, gallery)
        body = {"kind": "sync", "webhook": {"url": "http://a/", "secret": SECRET}}
        status, problem = shop.send("POST", "/jobs", body)
        assert (status, "--allow-webhooks" in problem["detail"]) == (403, True)
        assert shop.get("/jobs") == {"jobs": []}
