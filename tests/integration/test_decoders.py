"""Files that crash, hang or bloat what decodes them: each costs the one request it came with."""

from __future__ import annotations

import asyncio
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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.errors import ImageError
from lookalike.gallery.gallery import Gallery
from lookalike.server.decoder_pool import Decoders
from lookalike.server.limits import Limits
from lookalike.server.settings import ServeSettings
from tests.bad_decoder import BABBLE, CRASH, EXIT, HOG, MARKS, SPIN
from tests.conftest import Require
from tests.processes import PROC, alive, children
from tests.raw import soon
from tests.serving import serving

BAD = "tests.bad_decoder"
SECONDS = 2.0
MEMORY = 1_500_000_000
ROOT = Path(__file__).parents[2]
SAID = {
    CRASH: "it crashed the decoder",
    EXIT: "it crashed the decoder",
    SPIN: "took longer than 2 s",
    HOG: "takes more memory",
    BABBLE: "it crashed the decoder",
}
KILLED = set(MARKS) - {HOG}


def png(gray: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), gray).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch, require: Require) -> Iterator[None]:
    """Decoders that can be made to fail; none is left behind."""
    require(PROC.exists(), "processes are listed in /proc only")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("lookalike.server.service.Decoders", partial(Decoders, module=BAD))
    yield
    assert not children(named=BAD)


def with_decoders(count: int, work: Callable[[Decoders], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with Decoders(count, seconds=SECONDS, memory=MEMORY, module=BAD) as decoders:
            assert len(children(named=BAD)) == count
            await work(decoders)

    asyncio.run(main())


@pytest.mark.parametrize("mark", MARKS)
def test_a_bad_file_costs_one_call(bad: None, mark: bytes) -> None:
    async def work(decoders: Decoders) -> None:
        for round_ in (1, 2):
            with pytest.raises(ImageError, match=SAID[mark]) as refused:
                await decoders.image(png() + mark, "the file")
            assert str(refused.value).startswith("the file: ")
            assert decoders.restarts == (round_ if mark in KILLED else 0)
            assert (await decoders.image(png(7), "a good one")).max() == 7
        assert len(children(named=BAD)) == 1

    with_decoders(1, work)


def test_bad_files_among_good_ones(bad: None) -> None:
    order = [*MARKS * 2, *[b""] * 40]
    random.Random(0).shuffle(order)

    async def work(decoders: Decoders) -> None:
        calls = [decoders.image(png(i) + mark, "x") for i, mark in enumerate(order)]
        for number, (mark, found) in enumerate(
            zip(order, await asyncio.gather(*calls, return_exceptions=True), strict=True)
        ):
            if mark:
                assert isinstance(found, ImageError)
                assert SAID[mark] in str(found)
            else:
                assert isinstance(found, np.ndarray)
                assert (found == number).all()
        assert decoders.restarts == 2 * len(KILLED)

    with_decoders(2, work)


def test_a_decoder_killed_while_idle_costs_no_call(bad: None) -> None:
    async def work(decoders: Decoders) -> None:
        (pid,) = children(named=BAD)
        os.kill(pid, signal.SIGKILL)
        assert soon(lambda: not alive(pid))
        assert (await decoders.image(png(7), "a good one")).max() == 7
        assert decoders.restarts == 1

    with_decoders(1, work)


def test_a_call_given_up_leaves_no_answer_for_the_next(bad: None) -> None:
    async def work(decoders: Decoders) -> None:
        call = asyncio.create_task(decoders.image(png() + SPIN, "slow"))
        await asyncio.sleep(0.3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await decoders.image(png(7), "a good one")).max() == 7

    with_decoders(1, work)


def test_a_service_goes_on(bad: None, gallery: Gallery) -> None:
    limits = Limits(decode_seconds=SECONDS, decode_memory=MEMORY, waiting=100)
    order = [*MARKS, *[b""] * 30]
    random.Random(1).shuffle(order)
    with serving({"digits": gallery}, ServeSettings(write=True, limits=limits)) as served:

        def ask(number: int) -> tuple[int, dict[str, Any]]:
            data = png(number) + order[number]
            way = ("POST", "search/image?") if number % 2 else ("PUT", f"item?id={number}&")
            answer, body = served.ask(way[0], f"/v1/galleries/digits/{way[1]}", data)
            return answer.status, json.loads(body)

        with ThreadPoolExecutor(len(order)) as pool:
            found = list(pool.map(ask, range(len(order))))
        for mark, (status, body) in zip(order, found, strict=True):
            assert status == (422 if mark else 200), body
            if mark:
                assert body["type"] == "urn:lookalike:problem:bad-image"
                assert SAID[mark] in body["detail"]
        text = served.ask("GET", "/metrics")[1].decode()
        restarts = re.search(r"^lookalike_decoder_restarts (.*)$", text, re.MULTILINE)
        assert restarts is not None
        assert float(restarts[1]) == len(KILLED)
        put = {f"api:{number}" for number in range(0, len(order), 2)}
        bad_ones = {f"api:{number}" for number, mark in enumerate(order) if mark}
        assert put & set(served.service.served("digits").gallery.store.ids()) == put - bad_ones


def test_a_batch_is_answered_around_a_bad_file(bad: None, gallery: Gallery) -> None:
    import base64

    limits = Limits(decode_seconds=SECONDS, decode_memory=MEMORY)
    files = [png(1), png(2) + CRASH, png(3), png(4) + HOG, png(5)]
    body = {"queries": [{"image": base64.b64encode(data).decode()} for data in files], "k": 1}
    with serving({"digits": gallery}, ServeSettings(limits=limits)) as served:
        answers = served.client().json("POST", "/v1/galleries/digits/search/batch", body)["answers"]
    assert [answer["problem"] is None for answer in answers] == [True, False, True, False, True]


def test_the_end_of_a_service_is_the_end_of_what_it_decodes(bad: None, gallery: Gallery) -> None:
    limits = Limits(decode_seconds=SECONDS, decode_memory=MEMORY)
    statuses: list[int] = []
    with serving({"digits": gallery}, ServeSettings(limits=limits)) as served:

        def ask() -> None:
            path = "/v1/galleries/digits/search/image"
            statuses.append(served.ask("POST", path, png() + SPIN)[0].status)

        asking = threading.Thread(target=ask)
        asking.start()
        assert soon(lambda: b"\nlookalike_waiting 1.0" in served.ask("GET", "/metrics")[1])
    asking.join(30)
    assert statuses == [422]


def test_decoders_do_not_outlive_a_service_that_is_killed(
    gallery: Gallery, require: Require
) -> None:
    require(PROC.exists(), "processes are listed in /proc only")
    command = [sys.executable, "-m", "lookalike", "serve", str(gallery.path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in iter(process.stderr.readline, "") if "serving at" in line)
        assert soon(lambda: children(process.pid, named="lookalike.server.decoder_process"))
        decoders = children(process.pid, named="lookalike.server.decoder_process")
        process.kill()
        process.wait(30)
    assert soon(lambda: not any(map(alive, decoders)))
