"""Files that crash, hang or bloat the decoder only fail their own request."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.cancellation import Cancellation, cancellable
from lookalike.encoders.registry import open_encoder
from lookalike.errors import CancelledError, ImageError
from lookalike.gallery.gallery import Gallery
from lookalike.images.options import DecodeOptions
from lookalike.server.admission import identify
from lookalike.server.decoder_pool import DecoderPool, decoding_batch
from lookalike.server.limits import Limits
from lookalike.server.problems import ProblemError
from lookalike.server.settings import ServeSettings
from lookalike.types import ImageArray
from tests.bad_decoder import BLOAT, CRASH, EXIT, EXTRA, FAULTS, GARBAGE, HANG, ONCE
from tests.conftest import Require
from tests.processes import PROC, alive, children
from tests.raw_http import eventually
from tests.serving import Serving, serving
from tests.unit.test_formats import SVG

BAD = "tests.bad_decoder"
SECONDS = 5.0
MEMORY = 1_500_000_000
ROOT = Path(__file__).parents[2]
JSON = {"Content-Type": "application/json"}
MESSAGES = {
    CRASH: "it crashed the decoder",
    EXIT: "it crashed the decoder",
    HANG: "decoding took longer than 5 s",
    BLOAT: "needs more memory",
    GARBAGE: "it crashed the decoder",
}
RESTARTS = {CRASH: 2, EXIT: 2, HANG: 1, BLOAT: 0, GARBAGE: 2}
"""Decoders that a file costs: one that crashes is tried again on a fresh one."""


def png(gray: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), gray).save(file, "PNG")
    return file.getvalue()


def metrics(served: Serving) -> bytes:
    return served.request("GET", "/metrics")[1]


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch, require: Require) -> Iterator[None]:
    """Decoders that can be made to fail; none may be left running."""
    require(PROC.exists(), "processes are listed in /proc only")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("lookalike.server.service.DecoderPool", partial(DecoderPool, module=BAD))
    yield
    assert not children(named=BAD)


def with_decoders(
    count: int, work: Callable[[DecoderPool], Coroutine[Any, Any, None]], **options: Any
) -> None:
    async def main() -> None:
        limits: dict[str, Any] = {"seconds": SECONDS, "memory": MEMORY, **options}
        async with DecoderPool(count, module=BAD, **limits) as decoders:
            assert eventually(lambda: len(children(named=BAD)) == count)
            await work(decoders)

    asyncio.run(main())


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_file_fails_only_its_own_request(bad: None, fault: bytes) -> None:
    async def work(decoders: DecoderPool) -> None:
        for round_ in (1, 2):
            with pytest.raises(ImageError, match=MESSAGES[fault]) as refused:
                await decoders.image(png() + fault, "the file")
            assert str(refused.value).startswith("the file: ")
            assert decoders.restarts == round_ * RESTARTS[fault]
            assert (await decoders.image(png(7), "a good one")).max() == 7
        assert len(children(named=BAD)) == 1

    with_decoders(1, work)


def test_bad_files_among_good_ones(bad: None) -> None:
    order = [*FAULTS * 2, *[b""] * 40]
    random.Random(0).shuffle(order)

    async def work(decoders: DecoderPool) -> None:
        calls = [decoders.image(png(i) + fault, "x") for i, fault in enumerate(order)]
        for number, (fault, result) in enumerate(
            zip(order, await asyncio.gather(*calls, return_exceptions=True), strict=True)
        ):
            if fault:
                assert isinstance(result, ImageError)
                assert MESSAGES[fault] in str(result)
            else:
                assert isinstance(result, np.ndarray)
                assert (result == number).all()
        assert decoders.restarts == 2 * sum(RESTARTS.values())

    with_decoders(2, work, queue_seconds=120.0)


def test_idle_decoder_is_replaced_when_killed(bad: None) -> None:
    async def work(decoders: DecoderPool) -> None:
        (pid,) = children(named=BAD)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not alive(pid))
        assert (await decoders.image(png(7), "a good one")).max() == 7
        assert decoders.restarts == 1

    with_decoders(1, work)


def test_a_response_too_many_is_not_taken_for_that_to_the_next_request(bad: None) -> None:
    async def work(decoders: DecoderPool) -> None:
        for number in range(5):
            with contextlib.suppress(ImageError):
                await decoders.image(png() + EXTRA, "the file")
            await asyncio.sleep(0.02 * number)
            assert (await decoders.image(png(7), "a good one")).max() == 7

    with_decoders(1, work)


def test_decoders_without_work_are_ended_but_one_and_start_again(bad: None) -> None:
    async def work(decoders: DecoderPool) -> None:
        for _ in range(2):
            while len(children(named=BAD)) > 1:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)
            assert len(children(named=BAD)) == 1
            calls = [decoders.image(png(i), "x") for i in range(60)]
            for number, image in enumerate(await asyncio.gather(*calls)):
                assert (image == number).all()
            slow = [asyncio.create_task(decoders.image(png() + HANG, "slow")) for _ in range(2)]
            assert (await decoders.image(png(7), "a good one")).max() == 7  # in the third
            assert len(children(named=BAD)) >= 3
            for result in await asyncio.gather(*slow, return_exceptions=True):
                assert isinstance(result, ImageError)
        assert decoders.restarts == 4

    with_decoders(3, work, idle_seconds=0.2)


def test_response_of_a_cancelled_request_is_discarded(bad: None) -> None:
    async def work(decoders: DecoderPool) -> None:
        call = asyncio.create_task(decoders.image(png() + HANG, "slow"))
        await asyncio.sleep(0.3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await decoders.image(png(7), "a good one")).max() == 7

    with_decoders(1, work)


def test_a_file_whose_decoder_was_killed_from_outside_is_decoded_again(
    bad: None, tmp_path: Path
) -> None:
    async def work(decoders: DecoderPool) -> None:
        file = png(7) + ONCE + str(tmp_path / "killed").encode()
        assert (await decoders.image(file, "a good one")).max() == 7
        assert (tmp_path / "killed").exists()
        assert decoders.restarts == 1

    with_decoders(1, work)


def test_requests_that_are_cancelled_leave_the_queue(bad: None) -> None:
    async def work(decoders: DecoderPool) -> None:
        hanging = asyncio.create_task(decoders.image(png() + HANG, "slow"))
        queued = [asyncio.create_task(decoders.image(png(), "x")) for _ in range(9)]
        limit = Cancellation()
        with cancellable(limit):
            limited = asyncio.create_task(decoders.image(png(), "x"))
        while decoders.waiting < 10:
            await asyncio.sleep(0)
        for task in queued:
            task.cancel()
        limit.cancel()
        results = await asyncio.gather(*queued, limited, return_exceptions=True)
        assert {type(each) for each in results[:-1]} == {asyncio.CancelledError}
        assert isinstance(results[-1], CancelledError)
        assert decoders.waiting == 0
        hanging.cancel()
        assert (await decoders.image(png(7), "a good one")).max() == 7

    with_decoders(1, work)


def test_no_request_waits_for_ever(bad: None) -> None:
    async def work(decoders: DecoderPool) -> None:
        hanging = asyncio.create_task(decoders.image(png() + HANG, "slow"))
        await asyncio.sleep(0)
        with pytest.raises(ProblemError, match="wait to be decoded") as refused:
            await decoders.image(png(), "x")
        assert refused.value.status == 429
        assert decoders.waiting == 0
        hanging.cancel()

    with_decoders(1, work, queue_seconds=0.1)


def test_one_client_does_not_wait_for_all_images_of_another(bad: None) -> None:
    order: list[str] = []

    async def work(decoders: DecoderPool) -> None:
        async def decode(client: str, **options: Any) -> None:
            identify({}, client)
            if options:
                await decoders.thumbnail(png(), "x", 8)
            else:
                await decoders.image(png(), "x")
            order.append(client)

        hanging = asyncio.create_task(decoders.image(png() + HANG, "slow"))
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(decode("busy", size=8)) for _ in range(5)]
        while decoders.waiting < 5:
            await asyncio.sleep(0)
        tasks += [asyncio.create_task(decode(client)) for client in ("busy", "other")]
        while decoders.waiting < 7:
            await asyncio.sleep(0)
        hanging.cancel()
        await asyncio.gather(*tasks)
        assert "other" in order[:2]

    with_decoders(1, work)


def test_slow_images_of_one_client_leave_a_decoder_to_others(bad: None) -> None:
    async def work(decoders: DecoderPool) -> None:
        async def hang() -> None:
            identify({}, "slow")
            await decoders.image(png() + HANG, "slow")

        async def decode(client: str) -> int:
            identify({}, client)
            return int((await decoders.image(png(7), "a good one")).max())

        hanging = [asyncio.create_task(hang()) for _ in range(5)]
        while decoders.waiting < 4:
            await asyncio.sleep(0)
        for client in ("a", "b", "a"):
            assert await asyncio.create_task(decode(client)) == 7
        assert decoders.waiting == 4
        for task in hanging:
            task.cancel()

    with_decoders(2, work)


def test_images_of_a_batch_have_a_limit_of_time(bad: None) -> None:
    async def work(decoders: DecoderPool) -> None:
        with decoding_batch(1e-9):
            assert (await decoders.image(png(7), "the first")).max() == 7
            with pytest.raises(ImageError, match="the second: not decoded") as refused:
                await decoders.image(png(7), "the second")
        assert "the limit; send fewer or smaller ones" in str(refused.value)
        assert (await decoders.image(png(7), "a good one")).max() == 7

    with_decoders(1, work)


def test_decoded_images_in_memory_are_limited(bad: None) -> None:
    async def work(decoders: DecoderPool) -> None:
        first = await decoders.image(png(7), "a good one", side=200)
        held = decoders.held_bytes
        assert held == first.nbytes
        part = first[2:4]
        second = asyncio.create_task(decoders.image(png(8), "a good one", side=200))
        while not decoders.waiting:
            await asyncio.sleep(0)
        await decoders.thumbnail(png(9), "a thumbnail is not counted", 8)
        del first
        assert not second.done()
        assert decoders.held_bytes == held
        del part
        assert (await second).max() == 8

    with_decoders(2, work, image_bytes=100)


def test_one_large_image_is_decoded_at_a_time(bad: None) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3_400, 3_400)).save(file, "PNG", compress_level=1)
    large = file.getvalue()

    async def main() -> None:
        async with DecoderPool(3, seconds=SECONDS, memory=MEMORY) as pool:
            turn = await pool._large.acquire()
            decoding = [asyncio.create_task(pool.image(large, "large")) for _ in range(2)]
            while pool._large.waiting < 2:
                await asyncio.sleep(0.01)
            assert (await pool.image(png(), "small")).shape == (8, 8)
            decoding[0].cancel()
            await asyncio.wait(decoding[:1])
            assert not decoding[1].done()
            pool._large.release(turn)
            assert (await decoding[1]).shape == (2_048, 2_048, 3)
            while pool._large.waiting or pool._large.used:
                await asyncio.sleep(0.01)
            assert (await pool.image(large, "large")).shape == (2_048, 2_048, 3)

    asyncio.run(main())


def test_images_that_one_client_holds_do_not_keep_others_waiting(bad: None) -> None:
    async def work(decoders: DecoderPool) -> None:
        async def decode(client: str) -> ImageArray:
            identify({}, client)
            return await decoders.image(png(7), f"an image of {client}", side=8)

        held = [await asyncio.create_task(decode("busy")) for _ in range(5)]
        size = held[0].nbytes
        assert decoders.held_bytes == 5 * size
        further = asyncio.create_task(decode("busy"))
        while not decoders.waiting:
            await asyncio.sleep(0)
        others = [await asyncio.create_task(decode(client)) for client in ("a", "b")]
        assert not further.done()
        assert decoders.held_bytes == (5 + len(others)) * size
        held.clear()
        assert (await further).max() == 7

    with_decoders(2, work, image_bytes=1_000)


def file_of(kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("1", size, 1).save(file, kind)
    return file.getvalue()


def test_uploads_have_limits_that_indexed_files_do_not(bad: None) -> None:
    large, tiff = file_of("PNG", (10_001, 5000)), file_of("TIFF")

    async def work(decoders: DecoderPool) -> None:
        with pytest.raises(ImageError, match="more than the limit of 50 megapixels"):
            await decoders.image(large, "a")
        with pytest.raises(ImageError, match="unsupported image format TIFF"):
            await decoders.image(tiff, "a")
        image = await decoders.image(large, "a", options=DecodeOptions())
        assert image.shape == (1024, 2048)
        assert (await decoders.image(tiff, "a", options=DecodeOptions())).shape == (30, 40)
        kind, thumbnail = await decoders.thumbnail(tiff, "a", 200)
        assert (kind, Image.open(io.BytesIO(thumbnail)).size) == ("image/png", (40, 30))

    with_decoders(1, work)


def test_indexed_files_are_shown_as_they_were_indexed(bad: None) -> None:
    pages = [Image.fromarray(np.full((9, 9), value, np.uint16)) for value in (100, 300)]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    options = DecodeOptions(window=(0, 510))

    async def work(decoders: DecoderPool) -> None:
        for page, shown in ((0, 50), (1, 150)):
            image = await decoders.image(file.getvalue(), "a", options=options, page=page)
            assert (image == shown).all()
            kind, data = await decoders.thumbnail(
                file.getvalue(), "a", 32, options=options, page=page
            )
            assert kind == "image/png"
            assert (np.asarray(Image.open(io.BytesIO(data))) == shown).all()

    with_decoders(1, work)


def test_service_shows_indexed_formats_that_it_refuses_in_uploads(
    bad: None, tmp_path: Path, require: Require
) -> None:
    require(find_spec("resvg_py"), "resvg-py is not installed")
    photos = tmp_path / "photos"
    photos.mkdir()
    files = {"a.tif": file_of("TIFF"), "b.svg": SVG, "c.png": file_of("PNG")}
    for name, data in files.items():
        (photos / name).write_bytes(data)
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("color", [np.zeros((30, 40, 3), np.uint8)])
    )
    assert gallery.sync(photos).added == 3
    with serving({"g": gallery}) as served:
        for name, data in files.items():
            response, body = served.request("GET", f"/v1/galleries/g/item/image?id=photos:{name}")
            assert response.status == 200
            web = name == "c.png"
            shown = ("image/png",) if web else ("image/png", "image/jpeg")
            assert response.headers["Content-Type"] in shown
            assert (body == data) == web
            size = (1024, 512) if name == "b.svg" else (40, 30)
            assert Image.open(io.BytesIO(body)).size == size
            part = json.dumps({"id": f"photos:{name}", "box": [0, 0, 20, 20]}).encode()
            response, body = served.request("POST", "/v1/galleries/g/search", part, JSON)
            assert response.status == 200, body
            for method, path in (("POST", "search/image"), ("PUT", "item?id=new")):
                response, body = served.request(method, f"/v1/galleries/g/{path}", data)
                created = 201 if method == "PUT" else 200
                assert response.status == (created if web else 422), body
                assert web or b"unsupported image format" in body


def test_service_survives_bad_files(bad: None, gallery: Gallery) -> None:
    limits = Limits(decode_seconds=SECONDS, decode_memory=MEMORY, concurrent_requests=100)
    order = [*FAULTS, *[b""] * 30]
    random.Random(1).shuffle(order)
    with serving({"digits": gallery}, ServeSettings(allow_writes=True, limits=limits)) as served:

        def send(number: int) -> tuple[int, dict[str, Any]]:
            data = png(number) + order[number]
            route = ("POST", "search/image?") if number % 2 else ("PUT", f"item?id={number}&")
            response, body = served.request(route[0], f"/v1/galleries/digits/{route[1]}", data)
            return response.status, json.loads(body)

        with ThreadPoolExecutor(len(order)) as pool:
            responses = list(pool.map(send, range(len(order))))
        for number, (fault, (status, body)) in enumerate(zip(order, responses, strict=True)):
            assert status == (422 if fault else 200 if number % 2 else 201), body
            if fault:
                assert body["type"] == "urn:lookalike:problem:invalid-image"
                assert MESSAGES[fault] in body["detail"]
        text = metrics(served).decode()
        restarts = re.search(r"^lookalike_decoder_restarts (.*)$", text, re.MULTILINE)
        assert restarts is not None
        assert float(restarts[1]) == sum(RESTARTS.values())
        put = {f"api:{number}" for number in range(0, len(order), 2)}
        bad_ones = {f"api:{number}" for number, fault in enumerate(order) if fault}
        assert put & set(served.service.handle("digits").gallery.store.ids()) == put - bad_ones


def test_batch_with_bad_files(bad: None, gallery: Gallery) -> None:
    import base64

    limits = Limits(decode_seconds=SECONDS, decode_memory=MEMORY)
    files = [png(1), png(2) + CRASH, png(3), png(4) + BLOAT, png(5)]
    body = {"queries": [{"image": base64.b64encode(data).decode()} for data in files], "k": 1}
    with serving({"digits": gallery}, ServeSettings(limits=limits)) as served:
        results = served.client().json("POST", "/v1/galleries/digits/search/batch", body)["results"]
    assert [each["problem"] is None for each in results] == [True, False, True, False, True]


def test_decoding_ends_when_the_service_stops(bad: None, gallery: Gallery) -> None:
    limits = Limits(decode_seconds=SECONDS, decode_memory=MEMORY)
    statuses: list[int] = []
    with serving({"digits": gallery}, ServeSettings(limits=limits)) as served:

        def search() -> None:
            path = "/v1/galleries/digits/search/image"
            statuses.append(served.request("POST", path, png() + HANG)[0].status)

        searching = threading.Thread(target=search)
        searching.start()
        assert eventually(lambda: b"\nlookalike_requests_in_progress 1.0" in metrics(served))
    searching.join(30)
    assert statuses == [422]


def test_decoders_end_when_the_service_is_killed(gallery: Gallery, require: Require) -> None:
    require(PROC.exists(), "processes are listed in /proc only")
    command = [sys.executable, "-m", "lookalike", "serve", str(gallery.path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in iter(process.stderr.readline, "") if "serving at" in line)
        assert eventually(lambda: children(process.pid, named="lookalike.server.decoder_process"))
        decoders = children(process.pid, named="lookalike.server.decoder_process")
        process.kill()
        process.wait(30)
    assert eventually(lambda: not any(map(alive, decoders)))
