"""The service conforms to its OpenAPI document, for any requests in any order."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from PIL import Image

from lookalike.client import RemoteGallery
from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError, MissingRowError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.storage import IMAGES
from lookalike.server.api_keys import add_key, read_keys
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.serving import Serving, serving

CONFIG = Path(__file__).parents[1] / "schemathesis.toml"
ROWS = 40


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, str]]:
    """A service with API keys, and a key with write permission."""
    folder = tmp_path_factory.mktemp("openapi")
    source = open_source(f"dataset:digits/train[:{ROWS}]")
    gallery = Gallery.create(
        folder / "digits.gallery", encoder=open_encoder("pixels", sample_images(source))
    )
    gallery.sync(source)
    key = add_key(folder / "keys.json", "writer", write=True)
    allowed = ServeSettings(
        keys=read_keys(folder / "keys.json"),
        hosts=LOOPBACK,
        share_days=1,
        share_folder=folder / "shared",
    )
    with serving({"digits": gallery}, allowed) as served:
        yield served, key


@pytest.fixture(scope="module")
def document(keyed: tuple[Serving, str]) -> dict[str, Any]:
    document: dict[str, Any] = keyed[0].client().json("GET", "/openapi.json")
    return document


def test_requests_conform_to_the_document(keyed: tuple[Serving, str], tmp_path: Path) -> None:
    """Thousands of reproducible requests by schemathesis, with all of its checks but one.

    It generates them from examples, from the limits of the schema, at random, and by following the
    links of the document. API keys are not random: one valid key is enough of the two schemes.
    """
    served, key = keyed
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    options = ["--checks", "all", "--max-examples", "100", "--generation-deterministic"]
    # It compares paths without their query: a GET of another item than the deleted one counts as
    # one of the deleted one. Deletions are tested against a model below.
    options += ["--exclude-checks", "use_after_free"]
    options += ["--generation-with-security-parameters", "false", "--warnings", "off", "--no-color"]
    done = subprocess.run(
        [*command, f"{served.url}/openapi.json", "-H", f"Authorization: Bearer {key}", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=1_200,
        check=False,
    )
    output = re.sub(r"(%[0-9A-F]{2}){50,}", "...", done.stdout[-20_000:])
    assert done.returncode == 0, output + done.stderr
    cases = re.search(r"(\d+) generated, (\d+) passed", output)
    assert cases is not None, output
    assert cases[1] == cases[2]
    assert int(cases[1]) > 1_000
    links = re.search(r"API Links: +(\d+) covered", output)
    assert links is not None
    assert int(links[1]) >= 5


def test_schemathesis_reached_every_route(keyed: tuple[Serving, str]) -> None:
    """The test before got successful responses from each route: not everything was refused."""
    served, key = keyed
    text = served.request("GET", "/metrics", headers={"x-api-key": key})[1].decode()
    routes = set(
        re.findall(r'requests_total{method="(\w+)",route="([^"]+)",status="20[014]"}', text)
    )
    gallery = "/v1/galleries/{gallery}"
    assert routes >= {
        ("GET", "/v1/galleries"),
        ("GET", gallery),
        ("GET", f"{gallery}/sample"),
        ("GET", f"{gallery}/item"),
        ("GET", f"{gallery}/item/image"),
        ("GET", f"{gallery}/item/thumbnail"),
        ("GET", f"{gallery}/item/neighbors"),
        ("POST", f"{gallery}/search/image"),
        ("PUT", f"{gallery}/item"),
        ("POST", f"{gallery}/shared-queries"),
        ("GET", f"{gallery}/shared-queries/{{id}}/image"),
    }
    assert not re.search(r'requests_total{[^}]*status="5', text)


def test_document_describes_every_operation(document: dict[str, Any]) -> None:
    operations = [
        (path, method, each)
        for path, methods in document["paths"].items()
        for method, each in methods.items()
    ]
    names = [each["operationId"] for *_, each in operations]
    assert len(set(names)) == len(names)
    for path, method, each in operations:
        assert each["tags"], (path, method)
        assert each["summary"][0].isupper(), (path, method)
        assert each["description"], (path, method)
        for parameter in each.get("parameters", ()):
            assert parameter["description"], (path, method, parameter["name"])
        public = path in ("/healthz", "/readyz")
        assert (each.get("security") == []) is public
        if path != "/healthz":
            assert {"400", "401", "403", "404", "408", "413", "421", "422", "429", "431"} <= set(
                each["responses"]
            )
        for response in each["responses"].values():
            for link in response.get("links", {}).values():
                assert link["operationId"] in names
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        for field, properties in schema.get("properties", {}).items():
            assert properties.get("description"), (name, field)
    assert document["security"] == [{"bearer": []}, {"header": []}]


def test_405_lists_the_allowed_methods(
    keyed: tuple[Serving, str], document: dict[str, Any]
) -> None:
    served, key = keyed
    for path, methods in document["paths"].items():
        address = path.replace("{gallery}", "digits")
        expected = {each.upper() for each in methods} | ({"HEAD"} if "get" in methods else set())
        for method in {"OPTIONS", "TRACE", "HEAD"} - expected:
            response, _ = served.request(method, address, headers={"x-api-key": key})
            assert response.status == 405
            assert response.headers["allow"].split(", ") == sorted(expected)


# ---- items against a model -----------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b/c", "ä ö", "..", "%2e%2e", "<script>", "'\"", "x" * 500])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
VALUES = TEXTS | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
METADATA = st.dictionaries(TEXTS.filter(bool), VALUES | st.booleans(), max_size=4)


def png(gray: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), gray).save(file, "PNG")
    return file.getvalue()


class Items(RuleBasedStateMachine):
    """Puts, updates and deletes items, and compares them with a dictionary."""

    served: ClassVar[Serving]
    key: ClassVar[str]
    gallery: ClassVar[Gallery]
    remote: ClassVar[RemoteGallery]

    def __init__(self) -> None:
        super().__init__()
        self.items: dict[str, tuple[int, dict[str, Any]]] = {}

    @rule(name=KEYS, gray=st.integers(0, 255), metadata=METADATA)
    def put(self, name: str, gray: int, metadata: dict[str, Any]) -> None:
        assert self.remote.add(png(gray), ids=name, metadata=metadata) == [f"api:{name}"]
        self.items[name] = gray, metadata

    @rule(name=KEYS, metadata=METADATA)
    def update_metadata(self, name: str, metadata: dict[str, Any]) -> None:
        if name not in self.items:
            with pytest.raises(MissingRowError):
                self.remote.update_metadata(f"api:{name}", metadata)
            return
        gray, before = self.items[name]
        assert self.remote.update_metadata(f"api:{name}", metadata) == {**before, **metadata}
        self.items[name] = gray, {**before, **metadata}

    @rule(name=KEYS)
    def remove_column(self, name: str) -> None:
        if name in self.items and self.items[name][1]:
            gray, before = self.items[name]
            column = next(iter(before))
            rest = {each: value for each, value in before.items() if each != column}
            assert self.remote.update_metadata(f"api:{name}", {column: None}) == rest
            self.items[name] = gray, rest

    @rule(name=KEYS)
    def remove(self, name: str) -> None:
        if self.items.pop(name, None) is None:
            with pytest.raises(MissingRowError):
                self.remote.remove(f"api:{name}")
            return
        self.remote.remove(f"api:{name}")
        for what in ("", "/image", "/thumbnail", "/neighbors"):
            path = f"/v1/galleries/digits/item{what}?id={quote('api:' + name, safe='')}"
            assert (
                self.served.request("GET", path, headers={"x-api-key": self.key})[0].status == 404
            )

    @rule(name=KEYS)
    def read(self, name: str) -> None:
        if name not in self.items:
            with pytest.raises(InputError):
                self.remote.search(id=f"api:{name}")
            return
        gray, metadata = self.items[name]
        assert self.remote[f"api:{name}"].metadata == metadata
        assert np.array_equal(self.remote.image(f"api:{name}"), np.full((8, 8), gray, np.uint8))
        assert f"api:{name}" not in {hit.id for hit in self.remote.search(id=f"api:{name}", k=100)}

    @invariant()
    def count(self) -> None:
        assert len(self.remote) == ROWS + len(self.items)
        assert len(list((self.gallery.path / IMAGES).glob("*"))) == len(self.items)

    def teardown(self) -> None:
        for name in self.items:
            self.remote.remove(f"api:{name}")


def test_items_match_a_model(keyed: tuple[Serving, str]) -> None:
    """Random sequences of put, update and delete give the same items as a dictionary."""
    served, key = keyed
    gallery = served.service.handle("digits").gallery
    remote = served.client(key).gallery("digits")
    for row_id in [each for each in gallery.store.ids() if each.startswith("api:")]:
        remote.remove(row_id)
    gallery.sync(gallery.sources["digits/train"], restore_removed=True, progress=False)
    Items.served, Items.key, Items.gallery, Items.remote = served, key, gallery, remote
    run_state_machine_as_test(
        Items,
        settings=settings(
            max_examples=12,
            stateful_step_count=12,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
