"""What tests share: real skips that CI forbids, small collections, encoders and galleries."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.sources import Source, open_source
from lookalike.sources.sampling import sample_images
from tests import milvus_server
from tests.milvus_server import MilvusServer

Require = Callable[[object, str], None]

LONGEST_FIRST = ("milvus",)
"""Groups of tests in the order in which processes take them; the others follow by name."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for ``--dist loadgroup``, so that processes share no slow fixture.

    A file is a group; all files that use Milvus are one, so that one server serves them. Tests
    that need a database server are marked ``engine``.
    """
    uses_milvus = {item.path for item in items if "milvus" in _fixtures(item)}
    for item in items:
        params: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
        names = [value for value in params.values() if isinstance(value, str)]  # not arrays
        engine = "milvus" in names
        by_engine = item.path.parent.name == "contract"  # the same tests over several stores
        in_group = engine or (
            "milvus" in _fixtures(item) if by_engine else item.path in uses_milvus
        )
        group = "milvus" if in_group else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
        if engine or "lance" in names:
            item.add_marker(pytest.mark.engine)
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(_group(item), len(rank)))


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())


def _group(item: pytest.Item) -> str:
    return str(next(item.iter_markers("xdist_group")).args[0])


@pytest.fixture(scope="session")
def require() -> Require:
    """Skip with a reason where something is not there; fail instead under LOOKALIKE_REQUIRE=all."""

    def check(there: object, reason: str) -> None:
        if not there:
            if os.environ.get("LOOKALIKE_REQUIRE") == "all":
                pytest.fail(f"LOOKALIKE_REQUIRE=all, but {reason}")
            pytest.skip(reason)

    return check


def without_torchvision(require: Require, package: str) -> None:
    """Have a package imported that imports torchvision, which may be built for another torch.

    It then lacks its own operators, and what describes them to torch fails on import; the packages
    here use none of them.
    """
    require(find_spec(package), f"{package} is not installed")
    described = "torchvision._meta_registrations"
    sys.modules.setdefault(described, ModuleType(described))


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
