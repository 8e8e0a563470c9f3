"""The code samples of the OpenAPI document run: curl and Python, and JavaScript where node is."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lookalike.cli import app
from lookalike.client import Client
from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.server.api_keys import add_key, read_keys
from lookalike.server.code_samples import IMAGE_FILE, KEY, SERVICE, add_code_samples
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.conftest import Require
from tests.serving import Serving, serving

pytestmark = pytest.mark.slow

LANGUAGES = ("Shell", "JavaScript", "Python")
JOB = "8d1f0c2b9a7e6354"
SHARED = "f02f3c10-5d1e0b7a9c3f4e2d8b6a1c0f9e7d5b3a"
CHANGES = ("update_item_metadata", "update_items_metadata", "delete_item", "delete_items")
"""Operations on items that must be there before."""

FILE_INPUT = f"""
const {{ readFileSync }} = await import("node:fs");
const picked = new File([readFileSync("{IMAGE_FILE}")], "1.jpg", {{ type: "image/jpeg" }});
globalThis.document = {{ querySelector: () => ({{ files: [picked] }}) }};
"""
"""What a page has and node has not: an input with a file."""


@dataclass(frozen=True)
class Samples:
    """A service, its document, and a folder with the image file."""

    served: Serving
    key: str
    folder: Path
    document: dict[str, Any]

    @property
    def client(self) -> Client:
        return self.served.client(self.key)

    def each(self, language: str) -> Iterator[tuple[str, str]]:
        """Yield the samples of a language with the names of their operations."""
        for methods in self.document["paths"].values():
            for operation in methods.values():
                for sample in operation["x-codeSamples"]:
                    if sample["lang"] == language:
                        yield operation["operationId"], sample["source"]

    def prepare(self, name: str, source: str) -> str:
        """Store what the sample of an operation changes or names; return it for this service."""
        if name in CHANGES:
            gallery = self.client.gallery("photos")
            gallery.add([self.folder / IMAGE_FILE] * 2, ids=["new-1", "new-2"])
        if name.endswith("_job"):
            source = source.replace(JOB, self._job(new=name != "start_job"))
        if SHARED in source:
            path, image = "/v1/galleries/photos/shared-queries", self.folder / IMAGE_FILE
            answer = self.client.send("POST", path, image.read_bytes(), "image/jpeg")
            source = source.replace(SHARED, json.loads(answer)["id"])
        return source.replace(SERVICE, self.served.url).replace(KEY, self.key)

    def _job(self, *, new: bool) -> str:
        """Return the id of the latest job, once none is running; begin one if there is none."""
        path = "/v1/galleries/photos/jobs"
        if new and not self.client.json("GET", path)["jobs"]:
            self.client.json("POST", path, {"kind": "sync"})
        while True:
            jobs = self.client.json("GET", path)["jobs"]
            if all(each["finished_at"] is not None for each in jobs):
                return str(jobs[0]["id"]) if jobs else JOB
            time.sleep(0.05)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Samples]:
    folder = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(5)
    lines = ["path,year,label"]
    for number in range(1, 16):
        for label, gray in (("cats", 80), ("dogs", 170)):
            path = folder / "photos" / label / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(gray - 60, gray + 60, (24, 24, 3)).astype(np.uint8)
            Image.fromarray(noise).save(path)
            lines.append(f"{label}/{number}.jpg,{2010 + number},{label}")
    (folder / "photos" / "metadata.csv").write_text("\n".join(lines))
    source = open_source(folder / "photos")
    gallery = Gallery.create(
        folder / "photos.gallery", encoder=open_encoder("color", sample_images(source))
    )
    gallery.sync(source)
    for command in (
        ["evaluate", str(gallery.path), "--save"],
        ["explore", "map", str(gallery.path)],
        ["label", "suggest", str(gallery.path), "--save", "-k", "6"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command, result.output)
    key = add_key(folder / "keys.json", "writer", write=True)
    settings = ServeSettings(
        keys=read_keys(folder / "keys.json"),
        hosts=LOOPBACK,
        share_days=1,
        share_folder=folder / "shared",
    )
    with serving({"photos": gallery}, settings) as served:
        document = served.client().json("GET", "/openapi.json")
        yield Samples(served, key, folder, document)


def test_every_operation_has_samples_in_each_language(samples: Samples) -> None:
    operations = {
        operation["operationId"]
        for methods in samples.document["paths"].values()
        for operation in methods.values()
    }
    for language in LANGUAGES:
        assert {name for name, _ in samples.each(language)} == operations
    for _, source in samples.each("Shell"):
        assert max(map(len, source.splitlines())) < 300
    public = next(source for name, source in samples.each("Shell") if name == "get_health")
    assert "Authorization" not in public


def test_curl_samples_run(samples: Samples, require: Require) -> None:
    require(shutil.which("curl"), "curl is not installed")
    for name, source in samples.each("Shell"):
        command = samples.prepare(name, source.replace("curl ", "curl -sS --fail-with-body ", 1))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=samples.folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (name, source, done.stdout, done.stderr)


def test_python_samples_run(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(samples.folder)
    for name, source in samples.each("Python"):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(samples.prepare(name, source), f"{name}.py", "exec"), {})
        assert output.getvalue() or "image" in name or "thumbnail" in name, source


def test_javascript_samples_run(samples: Samples, require: Require) -> None:
    """Those for which nothing must be prepared run in one process, one after another."""
    require(shutil.which("node"), "node is not installed")
    several: list[tuple[str, str]] = [
        (name, samples.prepare(name, source))
        for name, source in samples.each("JavaScript")
        if name not in CHANGES and not name.endswith("_job")
    ]
    run_javascript(samples.folder, several)
    for name, source in samples.each("JavaScript"):
        if name in CHANGES or name.endswith("_job"):
            run_javascript(samples.folder, [(name, samples.prepare(name, source))])


def run_javascript(folder: Path, sources: Sequence[tuple[str, str]]) -> None:
    blocks = [f"console.error({json.dumps(name)});\n{{\n{source}\n}}" for name, source in sources]
    done = subprocess.run(
        ["node", "--input-type=module", "-e", "\n".join([FILE_INPUT, *blocks])],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == [name for name, _ in sources]


def test_samples_of_operations_without_examples() -> None:
    """A document of parameters and bodies without examples has samples too, without a key."""
    document: dict[str, Any] = {
        "paths": {
            "/a/{b}": {
                "put": {
                    "operationId": "change",
                    "parameters": [
                        {"name": "b", "in": "path", "required": True, "schema": {}},
                        {"name": "c", "in": "query", "required": True, "schema": {}},
                    ],
                    "requestBody": {
                        "content": {
                            "application/json": {
                                "schema": {"properties": {"d": {"examples": ["it's"]}, "e": {}}}
                            }
                        }
                    },
                    "responses": {"204": {}},
                }
            }
        },
        "components": {"schemas": {}},
    }
    add_code_samples(document)
    found = {
        each["lang"]: each["source"] for each in document["paths"]["/a/{b}"]["put"]["x-codeSamples"]
    }
    assert found["Shell"].startswith("curl -X PUT 'http://127.0.0.1:8000/a/b?c=c'")
    assert "it'\"'\"'s" in found["Shell"]
    assert '"d": "it\'s"' in found["Python"]
    assert json.dumps("PUT") in found["JavaScript"]
    assert not any("Authorization" in source for source in found.values())
