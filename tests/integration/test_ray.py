"""Indexing on a real Ray cluster of two nodes gives the same rows and failures as threads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_source
from tests.conftest import Require
from tests.milvus_server import MilvusServer
from tests.ray_cluster import ENVIRONMENT, RayNodes

MANY = 2_400
POISON = """
import os, sys
def watch(event, arguments):
    if event == "open" and "poison" in str(arguments[0]):
        os._exit(3)
sys.addaudithook(watch)
"""
"""Makes every process that opens a file called poison crash."""


@pytest.fixture(scope="module")
def cluster(require: Require, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    require(find_spec("ray"), "ray is not installed")
    customized = tmp_path_factory.mktemp("site")
    (customized / "sitecustomize.py").write_text(POISON)
    with tempfile.TemporaryDirectory(
        prefix="ray"
    ) as short:  # sockets in it have names of 107 bytes
        nodes = RayNodes(Path(short), {"PYTHONPATH": str(customized)})
        try:
            nodes.start()
            yield nodes
        finally:
            nodes.stop()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thousands of images in folders; some are broken in two ways, some are duplicates."""
    root = tmp_path_factory.mktemp("images") / "photos"
    rng = np.random.default_rng(0)
    for number in range(MANY):
        folder = root / f"{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:05}.png"
        if number % 100 == 50:
            path.write_bytes(b"not an image")
        elif number % 100 == 51:
            path.write_bytes(b"")
        elif number % 100 == 52:
            shutil.copy(root / f"{(number - 3) % 7}" / f"{number - 3:05}.png", path)
        else:
            pixels = np.repeat(rng.integers(0, 256, (20, 1, 3), dtype=np.uint8), 20, axis=1)
            Image.fromarray(pixels).resize((160, 160)).save(path, compress_level=1)
    return root


@pytest.fixture(scope="module")
def local(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """The photos, indexed by threads of this process."""
    source = open_source(photos)
    encoder = open_encoder("color", [source[0].image()])
    gallery = Gallery.create(tmp_path_factory.mktemp("local") / "local.gallery", encoder=encoder)
    gallery.sync(source)
    return gallery


def index(gallery: Path | str, photos: Path, nodes: RayNodes, *more: str) -> subprocess.Popen[str]:
    command = ["index", str(gallery), str(photos), "--runner", "ray", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "lookalike", *command, "--address", nodes.address, *more],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int) -> dict[str, Any]:
    """Wait until a process ends with this exit code, and return its report."""
    stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert stdout.startswith("{") or not stdout, stdout[:2000]
    return json.loads(stdout) if stdout else {"stderr": stderr}


def assert_same_rows(one: Gallery, other: Gallery) -> None:
    """Assert that two galleries hold the same rows, with identical embeddings."""
    assert list(one.store.records()) == list(other.store.records())
    ids = one.store.ids()
    np.testing.assert_array_equal(one.store.get(ids).embeddings, other.store.get(ids).embeddings)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Return the first true value of a condition while a process runs."""
    until = time.monotonic() + 90
    while not (value := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    return value


def test_rows_and_failures_match_local_indexing(
    cluster: RayNodes, photos: Path, local: Gallery, tmp_path: Path
) -> None:
    path = tmp_path / "ray.gallery"
    Gallery.create(path, encoder=local.encoder)
    report = finish(index(path, photos, cluster), 1)  # some images are broken
    assert report["added"] == len(local)
    failures = [(each["uri"], each["reason"]) for each in report["failed"]]
    assert failures == [(each.uri, each.reason) for each in local.sync(photos).failed]
    assert len(failures) == MANY // 50
    assert_same_rows(Gallery.open(path), local)


def test_killed_workers_lose_no_rows_in_milvus(
    cluster: RayNodes, photos: Path, local: Gallery, milvus: MilvusServer
) -> None:
    """Workers write to Milvus themselves; the rows are the same although some are killed."""
    address = f"milvus://{milvus.host}/ray_workers"
    Gallery.create(address, encoder=local.encoder)
    running = index(address, photos, cluster)
    killed: set[int] = set()
    while running.poll() is None and len(killed) < 4:
        new = {pid for node in cluster.nodes for pid in node.workers()} - killed
        if new:
            time.sleep(0.7)
            pid = min(new)
            killed.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    report = finish(running, 1)
    assert len(killed) >= 2
    assert (report["added"], len(report["failed"])) == (len(local), MANY // 50)
    assert_same_rows(Gallery.open(address), local)
    again = finish(index(address, photos, cluster), 1)
    assert (again["added"], again["unchanged"]) == (0, len(local))


def test_indexing_resumes_after_the_driver_is_killed(
    cluster: RayNodes, photos: Path, local: Gallery, milvus: MilvusServer
) -> None:
    address = f"milvus://{milvus.host}/ray_driver"
    gallery = Gallery.create(address, encoder=local.encoder)
    running = index(address, photos, cluster)
    written = wait_for(lambda: len(gallery), running)
    running.kill()
    running.communicate()
    report = finish(index(address, photos, cluster), 1)
    assert written <= report["unchanged"] < len(local)
    assert report["added"] + report["unchanged"] == len(local)
    assert_same_rows(gallery, local)


def test_an_image_that_crashes_its_reader_is_reported(
    cluster: RayNodes, local: Gallery, tmp_path: Path
) -> None:
    root = tmp_path / "few"
    root.mkdir()
    for number in range(40):
        name = "poison" if number == 17 else f"{number:02}"
        Image.new("RGB", (30, 30), (number, 0, 0)).save(root / f"{name}.png")
    path = tmp_path / "few.gallery"
    Gallery.create(path, encoder=local.encoder)
    report = finish(index(path, root, cluster), 1)
    assert report["added"] == 39
    [failed] = report["failed"]
    assert failed["uri"].endswith("poison.png")
    assert "the process that read it crashed" in failed["reason"]


def test_workers_with_another_version_are_refused(
    cluster: RayNodes, photos: Path, local: Gallery, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(Path(la.__file__).parent, other / "lookalike")
    file = other / "lookalike" / "_version.py"
    file.write_text(file.read_text().replace(f'"{la.__version__}"', '"0.0.1"'))
    path = tmp_path / "ray.gallery"
    Gallery.create(path, encoder=local.encoder)
    node = cluster.add({"PYTHONPATH": str(other)})
    try:
        stderr = finish(index(path, photos, cluster, "--workers", "3"), 2)["stderr"]
    finally:
        node.kill()
        cluster.nodes.remove(node)
    assert f"has lookalike 0.0.1, this machine has {la.__version__}; install the same" in stderr
    assert len(Gallery.open(path)) < len(local)  # others may have begun


def test_a_killed_node_loses_no_rows(
    cluster: RayNodes, photos: Path, local: Gallery, tmp_path: Path
) -> None:
    """Must be the last test of the cluster, which has one node afterwards."""
    path = tmp_path / "ray.gallery"
    Gallery.create(path, encoder=local.encoder)
    running = index(path, photos, cluster)
    second = cluster.nodes[1]
    wait_for(second.workers, running)
    time.sleep(1)
    second.kill()
    report = finish(running, 1)
    assert (report["added"], len(report["failed"])) == (len(local), MANY // 50)
    assert_same_rows(Gallery.open(path), local)


def test_errors_name_the_cause_and_the_next_step(
    require: Require, folder: Path, tmp_path: Path
) -> None:
    require(find_spec("ray"), "ray is not installed")

    def error(*more: str, **environment: str) -> str:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "lookalike",
                "index",
                str(tmp_path / "x.gallery"),
                str(folder),
                *more,
            ],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        return done.stderr.splitlines()[-1]

    assert "unknown runner 'rya': did you mean 'ray'?" in error("--runner", "rya")
    assert "--address and --workers need --runner ray" in error("--workers", "2")
    hidden = tmp_path / "hidden"
    (hidden / "ray").mkdir(parents=True)
    (hidden / "ray" / "__init__.py").write_text("raise ModuleNotFoundError('ray')")
    missing = error("--runner", "ray", PYTHONPATH=str(hidden))
    assert "pip install 'lookalike[scale]'" in missing
    unreachable = error("--runner", "ray", "--address", "127.0.0.1:1")
    assert "--address 127.0.0.1:1: no Ray cluster answers" in unreachable


SYNC = """
import sys
import numpy as np
import ray
from pathlib import Path
import lookalike as la
from lookalike.gallery.ray_runner import RayRunner
from tests.process_state import changes, snapshot

encoder = la.open_encoder("pixels", [np.zeros((9, 9, 3), np.uint8)])
gallery = la.Gallery.create(sys.argv[1], encoder=encoder)
import lookalike.gallery.ray_driver, ray.util.client.logsclient, sklearn.cluster
before = snapshot("ray", "ray._private.worker")
report = gallery.sync(
    Path(sys.argv[2]), runner=RayRunner(chunk_size=4), progress=lambda _: print("the program's")
)
changed = changes(before, snapshot("ray", "ray._private.worker"))
changed.pop("random", None)  # Ray draws names from it
assert changed == {}, changed
print(report.added, "added")
"""


def test_the_runner_leaves_no_trace_in_the_process(
    require: Require, folder: Path, tmp_path: Path
) -> None:
    """It starts and ends a local cluster; output of the program in between is not swallowed."""
    require(find_spec("ray"), "ray is not installed")
    done = subprocess.run(
        [sys.executable, "-c", SYNC, str(tmp_path / "x.gallery"), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LOOKALIKE_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "12 added"
    assert set(lines[:-1]) == {"the program's"}
    assert len(lines) > 3
