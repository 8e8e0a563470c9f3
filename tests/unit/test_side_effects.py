"""The library leaves process-wide state unchanged."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.errors import ImageError, StorageError, UnreachableError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import graph_from_embeddings
from lookalike.images.decode import decode
from lookalike.images.header import read_header
from lookalike.labels.suggest import suggest
from lookalike.process_state import IgnoreWarnings, MuteLoggers, default_environment
from lookalike.sources import open_source
from lookalike.stores.milvus.address import Address
from lookalike.stores.milvus.client import Connection
from tests.conftest import Require
from tests.process_state import changes, snapshot, unchanged
from tests.unit import test_depth, test_formats, test_repair

BAD_EXIF = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\xff\xff\x00\x00"
"""Truncated EXIF data, of which Pillow warns."""


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_THREADS", "4")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images that decode slowly enough for threads to overlap; some have broken EXIF data."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)
        exif = BAD_EXIF if number % 4 == 0 else b""
        Image.fromarray(pixels).save(folder / f"{number:02}.png", compress_level=1, exif=exif)
    return folder


def test_decoding_ignores_warnings_of_pillow(photos: Path) -> None:
    data = (photos / "00.png").read_bytes()
    with Image.open(BytesIO(data)) as image, pytest.warns(UserWarning, match="EXIF"):
        image.getexif()
    assert decode(data).shape == (300, 300, 3)


def test_reading_damaged_and_unusual_files_leaves_no_trace(require: Require) -> None:
    for package in ("pi_heif", "rawpy", "pyjpegxl", "resvg_py", "tifffile"):
        require(find_spec(package), f"{package} is not installed")
    rows = {kind: data[: len(data) // 2] for kind, data in test_repair.ROWS.items()}
    optional = {kind: test_formats.optional_file(kind) for kind in test_formats.OPTIONAL}
    floats = test_depth.deep_tiff(np.zeros((9, 9, 3), np.float32))
    (kind, text) = test_repair.TEXTS["zTXt"]
    chunks = test_repair.chunks(test_repair.ROWS["png"])
    long_text = test_repair.png([*chunks[:1], (kind, text), *chunks[1:]])
    files = [*rows.values(), *optional.values(), floats, floats[:300], long_text]

    def attempt(data: bytes) -> None:
        with contextlib.suppress(ImageError):
            decode(data)
        with contextlib.suppress(ImageError):
            read_header(data)

    with unchanged("tifffile"), ThreadPoolExecutor(4) as pool:
        list(pool.map(attempt, files * 3))


def test_indexing_and_searching_leave_no_trace(photos: Path, tmp_path: Path) -> None:
    with unchanged():
        for number in range(5):
            encoder = open_encoder("pixels", [np.zeros((30, 30, 3), np.uint8)])
            gallery = Gallery.create(tmp_path / f"{number}.gallery", encoder=encoder)
            assert gallery.sync(open_source(photos)).added == 40
        gallery.search(photos / "00.png")
        (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
        assert len(gallery.sync(open_source(photos)).failed) == 1


def test_opening_an_onnx_encoder_leaves_no_trace() -> None:
    with unchanged():
        open_encoder("untrained", []).encode([np.zeros((28, 28), np.uint8)])


def test_suggesting_images_to_label_leaves_no_trace() -> None:
    import sklearn.cluster  # noqa: F401 - it and scipy set filters and variables then

    rows = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    graph = graph_from_embeddings(tuple(f"{number:02}" for number in range(12)), rows)
    with unchanged(), ThreadPoolExecutor(2) as pool:
        for chosen in pool.map(lambda seed: suggest(graph, 6, seed=seed), range(4)):
            assert len(chosen) == 6


@pytest.mark.parametrize(
    "module",
    [
        "lookalike",
        "lookalike.encoders.onnx",
        "lookalike.stores.embedded.store",
        "lookalike.gallery.gallery",
    ],
)
def test_imports_set_no_variables(module: str) -> None:
    code = (
        f"import os; before = dict(os.environ); import {module}; "
        "print(sorted({*os.environ.items()} ^ {*before.items()}))"
    )
    variables = ("ORT_DISABLE_TELEMETRY", "LANCE_LOG", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_milvus_leaves_loggers_and_variables_unchanged(
    require: Require, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(find_spec("pymilvus"), "pymilvus is not installed")
    import pymilvus

    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{probe.getsockname()[1]}"
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    monkeypatch.setattr(handler, "emit", records.append)
    names = ("pymilvus", "pymilvus.decorators", "pymilvus.client.grpc_handler")
    monkeypatch.setattr(logging.getLogger("pymilvus"), "handlers", [handler])
    log = logging.getLogger("pymilvus.decorators")

    def refused() -> None:
        log.error("RPC error")
        raise pymilvus.MilvusException(1100, "refused")

    with unchanged(*names):
        connection = Connection(Address.parse(f"milvus://{closed}/rows?timeout=1"))
        with pytest.raises(UnreachableError):
            connection.has_collection("rows")
        with pytest.raises(StorageError):
            connection._retry("search", "rows", refused)
    assert records == []
    log.error("of the program")
    assert len(records) == 1


def test_threads_in_overlapping_blocks_leave_the_filters() -> None:
    ignore = IgnoreWarnings(UserWarning, "some of these")
    first, second = threading.Event(), threading.Event()

    def enters_first() -> None:
        with ignore:
            first.set()
            second.wait(5)

    with unchanged():
        thread = threading.Thread(target=enters_first)
        thread.start()
        first.wait(5)
        with ignore:
            second.set()
            thread.join()
            warnings.warn("Some of these", stacklevel=1)
            with pytest.raises(UserWarning, match="others"):
                warnings.warn("others", stacklevel=1)
        with pytest.raises(UserWarning, match="some"):
            warnings.warn("some of these", stacklevel=1)


def while_another_thread_is_in(block: Any, work: Callable[[], None]) -> None:
    """Call a function while another thread is in a block."""
    inside, done = threading.Event(), threading.Event()

    def wait() -> None:
        with block:
            inside.set()
            done.wait(5)

    thread = threading.Thread(target=wait)
    thread.start()
    inside.wait(5)
    try:
        work()
    finally:
        done.set()
        thread.join()


def test_warnings_are_ignored_only_in_the_thread_of_the_block() -> None:
    def warn() -> None:
        with pytest.raises(UserWarning, match="mine"):
            warnings.warn("mine", stacklevel=1)

    while_another_thread_is_in(IgnoreWarnings(UserWarning), warn)


def test_filters_set_inside_the_block_stay() -> None:
    with warnings.catch_warnings():
        ignore = IgnoreWarnings(UserWarning)
        before = list(warnings.filters)
        with ignore:
            warnings.filterwarnings("error", "theirs")
            with ignore:  # goes before filters added since
                warnings.warn("theirs", stacklevel=1)
        assert warnings.filters[1:] == before
        assert warnings.filters[0][0] == "error"
        with ignore:
            warnings.resetwarnings()
        assert warnings.filters == []


def test_blocks_that_overlap_with_catch_warnings() -> None:
    ignore = IgnoreWarnings(UserWarning)
    with unchanged():
        theirs = warnings.catch_warnings()
        with ignore:
            theirs.__enter__()
        theirs.__exit__(None, None, None)
    with unchanged():
        with warnings.catch_warnings():
            ignore.__enter__()
        ignore.__exit__()


def test_active_filters_can_be_pickled() -> None:
    with IgnoreWarnings(UserWarning, "mine"):
        sent = pickle.loads(pickle.dumps(warnings.filters[0]))
        assert copy.copy(warnings.filters[0]) is not None
    assert sent[1].match("mine") is None


def test_the_registry_of_shown_warnings_stays() -> None:
    shown: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda message, *_: shown.append(str(message))
        for _ in range(3):
            with IgnoreWarnings(UserWarning):
                pass
            warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
    assert shown == ["deprecated"]


def test_loggers_are_muted_only_in_the_thread_of_the_block(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mute = MuteLoggers("some.package", logging.ERROR)
    below = logging.getLogger("some.package.module")
    beside = logging.getLogger("some.packages")
    names = ("some", "some.package", "some.package.module", "some.packages")
    with unchanged(*names), mute, mute:
        below.warning("dropped")
        below.error("kept: an error")
        beside.warning("kept: of another")
    while_another_thread_is_in(mute, lambda: below.warning("kept: of another thread"))
    below.warning("kept: afterwards")
    assert len(caplog.messages) == 4
    assert all(message.startswith("kept") for message in caplog.messages)


def test_a_logger_is_muted_that_its_library_makes_later(caplog: pytest.LogCaptureFixture) -> None:
    name = "a.library.that.is.loaded.later"
    with MuteLoggers(name):
        logging.getLogger(name).warning("dropped")
    logging.getLogger(name).warning("kept")
    assert caplog.messages == ["kept"]


def test_existing_environment_variables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_ONE", "theirs")
    with unchanged(), default_environment(LOOKALIKE_ONE="ours", LOOKALIKE_TWO="ours"):
        assert (os.environ["LOOKALIKE_ONE"], os.environ["LOOKALIKE_TWO"]) == ("theirs", "ours")
    with default_environment(LOOKALIKE_TWO="ours"):
        monkeypatch.setenv("LOOKALIKE_TWO", "theirs")
    assert os.environ["LOOKALIKE_TWO"] == "theirs"


def test_changes_are_detected() -> None:
    before = snapshot()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(changes(before, snapshot())) == ["warning filters"]
