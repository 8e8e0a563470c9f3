"""What tests share: real skips that CI forbids, small collections, encoders and galleries."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.sources import Source, open_source
from lookalike.sources.sampling import sample_images
from tests import milvus_server
from tests.milvus_server import MilvusServer

if TYPE_CHECKING:
    from tests.hub_models import Reference

# No test may depend on how busy the machine is.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

Require = Callable[[object, str], None]

_MILVUS_FILES = frozenset({"test_milvus", "test_milvus_faults", "test_ray", "test_replicas"})
"""Test files that share one Milvus server, beside the contract tests of its store."""

_CORPUS = "pillow==13.0.0"
"""The package whose source distribution has test images, broken and hostile ones too."""

_CORPUS_FILES = frozenset({"test_corpus", "test_trust"})
"""Test files that share them."""

_LONGEST_FIRST = (
    "milvus",
    "corpus",
    "test_openapi",
    "test_demo_products",
    "test_pretrained",
    "test_contrastive",
    "test_training",
    "test_hub_models",
    "test_demo",
    "test_page",
    "test_readme",
    "test_diagnostics",
    "test_faults",
    "test_embedded_damage",
)
"""Groups of tests that processes take first; the others follow by name."""


class _GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Give each process whole groups of tests, so that a slow fixture is made once."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _GroupScheduling:
    return _GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a store on disk or a server; put the longest groups first.

    Milvus is killed while it has few collections: restarting it takes longer the more it has.
    """
    for item in items:
        if re.search(r"\[.*(milvus|embedded)", item.name):
            item.add_marker(pytest.mark.engine)
    rank = {name: number for number, name in enumerate(_LONGEST_FIRST)}
    items.sort(
        key=lambda item: (
            rank.get(_group(item.nodeid), len(rank)),
            item.path.stem != "test_milvus_faults",
        )
    )


def _group(nodeid: str) -> str:
    """Return the group of a test: its file, or the one of all tests on a Milvus server."""
    path, _, name = nodeid.partition("::")
    file = Path(path)
    on_server = file.parent.name == "contract" and "milvus" in name.lower()
    if on_server or file.stem in _MILVUS_FILES:
        return "milvus"
    return "corpus" if file.stem in _CORPUS_FILES else file.stem


@pytest.fixture(scope="session")
def require() -> Require:
    """Skip with a reason where something is not there; fail instead under LOOKALIKE_REQUIRE=all."""

    def check(there: object, reason: str) -> None:
        if not there:
            if os.environ.get("LOOKALIKE_REQUIRE") == "all":
                pytest.fail(f"LOOKALIKE_REQUIRE=all, but {reason}")
            pytest.skip(reason)

    return check


@pytest.fixture(scope="session")
def milvus(require: Require, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """A real Milvus server for the tests of this process, and its token in the environment."""
    reason = milvus_server.missing()
    require(not reason, reason)
    server = MilvusServer(tmp_path_factory.mktemp("milvus"))
    with pytest.MonkeyPatch.context() as patch:
        lock = tmp_path_factory.getbasetemp().parent / "milvus.lock"  # of all test processes
        patch.setenv("LOOKALIKE_TEST_MILVUS_LOCK", str(lock))
        patch.setenv("LOOKALIKE_MILVUS_TOKEN", milvus_server.TOKEN)
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:
    """Take what is in memory already out of collections of garbage.

    Each takes half a second else, of all modules of tests and what they import.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _width_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print tables as into a pipe, whatever terminal the tests are started from."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def hub_model(
    require: Require, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Reference]]:
    """Small random models as they lie on the hub, by kind, with what torch computes of them."""
    for package in ("transformers", "torchvision", "onnx"):
        require(find_spec(package), f"{package} is not installed")
    root = tmp_path_factory.mktemp("hub_models")
    built: dict[str, Reference] = {}

    def get(kind: str) -> tuple[Path, Reference]:
        from tests.hub_models import build

        if kind not in built:
            built[kind] = build(kind, root / kind)
        return root / kind, built[kind]

    return get


@pytest.fixture(scope="session")
def digits() -> Source:
    return open_source("dataset:digits/train[:400]")


@pytest.fixture(scope="session")
def pixels(digits: Source) -> Encoder:
    return open_encoder("pixels", sample_images(digits))


@pytest.fixture
def gallery(tmp_path: Path, digits: Source, pixels: Encoder) -> Gallery:
    made = Gallery.create(tmp_path / "digits.gallery", encoder=pixels)
    made.sync(digits)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve color images of three labels in sub-folders, each label of one color."""
    rng = np.random.default_rng(0)
    root = tmp_path / "shapes"
    for label, color in {
        "red": (200, 20, 20),
        "green": (20, 200, 20),
        "blue": (20, 20, 200),
    }.items():
        (root / label).mkdir(parents=True)
        for number in range(4):
            noise = rng.integers(-15, 15, (40, 50, 3))
            pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Path:
    """Pillow's source distribution, downloaded by pip."""
    folder = tmp_path_factory.mktemp("corpus")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    process = subprocess.run(
        [*command, "--no-binary", ":all:", "--dest", str(folder), _CORPUS],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    archives = list(folder.glob("*.tar.gz"))
    require(archives, f"pip did not download {_CORPUS}: {process.stderr[-200:]}")
    with tarfile.open(archives[0]) as tar:
        tar.extractall(folder / "pillow", filter="data")
    return folder / "pillow"
