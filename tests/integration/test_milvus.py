"""Galleries in a real Milvus server: search, filters, copies, consistency and errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import (
    ArtifactError,
    FingerprintError,
    InputError,
    LookalikeError,
    MissingDependencyError,
    ReplacedError,
    SettingError,
    UnreachableError,
)
from lookalike.filters import (
    OPERATORS,
    AllOf,
    AnyOf,
    Compare,
    Filter,
    In,
    IsNull,
    Like,
    Not,
    as_filter,
)
from lookalike.gallery.copy import CopyReport, copy
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.storage import MANIFEST, gallery_exists
from lookalike.metadata import parse_metadata
from lookalike.sources import open_source
from lookalike.stores.base import Record, Rows
from lookalike.stores.memory import MemoryStore
from lookalike.stores.milvus import client, sidecar
from lookalike.stores.milvus import store as milvus_module
from lookalike.stores.milvus.address import Address
from lookalike.stores.milvus.client import Connection
from lookalike.stores.milvus.collection import to_entity
from lookalike.stores.milvus.filters import FIELD, ORDER
from lookalike.stores.milvus.sidecar import SidecarCollection
from lookalike.stores.milvus.store import MilvusStore
from lookalike.types import Metric, Progress
from tests.conftest import Require
from tests.integration.test_cli import lookalike, process, run
from tests.integration.test_sync import counts, draw, state, write_label
from tests.milvus_server import MESSAGE_BYTES, MilvusServer, emptied

log = logging.getLogger(__name__)

DIM = 4
LARGE, LARGE_DIM = 5_000, 32
STEPS = (("_notes", "create_index"), ("", "create_index"), ("_notes", "upsert"))
"""Requests before which the creation of a gallery is interrupted: suffix of the name, method."""

Made = dict[str, Any]


def rows_of(ids: Sequence[str], embeddings: np.ndarray, metadata: Any = None) -> Rows:
    """Return rows whose uris and hashes are their ids."""
    return Rows(ids, ids, embeddings.astype(np.float32), metadata or [{} for _ in ids], ids)


@pytest.fixture(scope="module")
def place(milvus: MilvusServer) -> Callable[[str], str]:
    """Return the address of a collection by name."""
    return lambda name: f"milvus://{milvus.host}/{name}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources") / "photos"
    for i in range(12):
        draw(root / f"{'ab'[i % 2]}" / f"{i:02}.png", i)
    return root


@pytest.fixture(scope="module")
def encoders(photos: Path) -> tuple[Encoder, Encoder]:
    """Two encoders of the same dimensions."""
    images = [item.image() for item in open_source(photos)]
    return open_encoder("color", images), open_encoder("color,mirror", images)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOKALIKE_DATA", str(folder))
        yield folder


@pytest.fixture(scope="module")
def made(
    milvus: MilvusServer,
    place: Callable[[str], str],
    encoders: tuple[Encoder, Encoder],
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    """Collections and galleries, created in parallel: each takes seconds."""
    folder = tmp_path_factory.mktemp("galleries")

    def store(name: str, dim: int, metric: Metric = Metric.COSINE) -> MilvusStore:
        return MilvusStore.create(Address.parse(place(name)), dim, metric)

    def filled(name: str, metric: Metric) -> MilvusStore:
        large = store(name, LARGE_DIM, metric)
        large.upsert(many_rows())
        Connection(large.address).call("flush", large.address.name)
        return large

    def gallery(name: str, encoder: Encoder = encoders[0]) -> Gallery:
        return Gallery.create(folder / f"{name}.gallery", encoder=encoder, store=place(name))

    def remade() -> tuple[Gallery, Gallery]:
        """Return galleries opened by folder and by address before the collection was remade."""
        before = gallery("remade"), Gallery.open(place("remade"))
        for each in before:
            assert each.encoder.fingerprint == encoders[0].fingerprint
        MilvusStore.open(Address.parse(place("remade"))).drop()
        Gallery.create(place("remade"), encoder=encoders[1])
        return before

    def unfinished(step: int) -> Gallery:
        name = f"unfinished_{step}"
        with pytest.raises(KeyboardInterrupt):
            gallery(name)
        assert not (folder / f"{name}.gallery").exists()
        assert not gallery_exists(place(name))
        with pytest.raises(ArtifactError, match=r"check the address|not a complete gallery"):
            Gallery.open(place(name))
        return gallery(name)

    makers: dict[str, Callable[[], Any]] = {
        "small": lambda: store("small", DIM),
        "filters": lambda: store("filters", DIM),
        "large": lambda: filled("large", Metric.COSINE),
        "flat": lambda: filled("flat?index=flat", Metric.L2),
        "home": lambda: gallery("home"),
        "remade": remade,
        **{f"unfinished_{i}": partial(unfinished, i) for i in range(len(STEPS))},
    }
    remaining = {f"unfinished_{i}{end}": method for i, (end, method) in enumerate(STEPS)}
    call = Connection.call

    def interrupt(self: Connection, method: str, name: str, *rest: Any, **more: Any) -> Any:
        if remaining.get(name) == method:
            del remaining[name]
            raise KeyboardInterrupt
        return call(self, method, name, *rest, **more)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(makers)) as pool:
        patch.setattr(Connection, "call", interrupt)
        futures = {name: pool.submit(make) for name, make in makers.items()}
        return {name: future.result() for name, future in futures.items()}


@pytest.fixture
def small(made: Made) -> MilvusStore:
    """A collection without rows."""
    return emptied(made["small"])


# Filters.

NAMES = ("year", "tag", "ü", "a b", 'q"x', "x.y", "", "a/b~0", "and", "none", "空")
WITH_OBJECTS = ("a b", "")
PURE = ("only texts", "only booleans", "only numbers", "nothing but empty")
TEXTS = (
    *("", "a", "A", "b", "ab", "it's", 'say "no"', "back\\slash", "tab\tnew\nline", "ü✓", "😀"),
    *("\uffee", "%_", "null", "'' or 1=1 --", "\x00\x1f\x7f", "n123", "\u2028", "ß", "a" * 300),
)
NUMBERS = (
    *(0, 1, -1, 2020, 2020.0, -0.0, 0.5, 1e-300, -1.5e300, 2**53, 2**53 + 1, 2**63 - 1),
    *(2**64 - 1, -(2**63), 5e-324),
)


def hostile_metadata(rng: random.Random) -> dict[str, Any]:
    def scalar() -> Any:
        few = rng.choice((rng.choice(TEXTS), rng.choice(NUMBERS), rng.random() < 0.5))
        return rng.choice((few, rng.randint(-5, 5)))

    def value(name: str) -> Any:
        kind, objects = rng.random(), name in WITH_OBJECTS
        odd = ({"x": [1]}, [scalar()], None) if objects else ()
        if kind < 0.25:
            return rng.choice((None, [], {"k": [1, {"deep": scalar()}]} if objects else []))
        if kind < 0.5:
            return [rng.choice((scalar(), scalar(), *odd)) for _ in range(rng.randint(1, 4))]
        return scalar()

    fields = {name: value(name) for name in NAMES if name != "none" and rng.random() < 0.5}
    pure: tuple[Any, ...] = (
        rng.choice(TEXTS),
        rng.random() < 0.5,
        rng.choice(NUMBERS),
        rng.choice(([], None)),
    )
    fields |= {name: each for name, each in zip(PURE, pure, strict=True) if rng.random() < 0.4}
    return fields | ({"none": None} if rng.random() < 0.2 else {})


SCALARS = st.one_of(
    st.sampled_from((*TEXTS, *NUMBERS, True, False)),
    st.text(max_size=3),
    st.integers(-10, 10),
    st.floats(allow_nan=False, allow_infinity=False),
)
COLUMNS = st.sampled_from((*NAMES, *PURE, *PURE, "nowhere"))
LEAVES: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Compare, COLUMNS, st.sampled_from(sorted(OPERATORS)), SCALARS),
    st.builds(
        In,
        COLUMNS.filter(lambda name: name not in WITH_OBJECTS),
        st.lists(SCALARS, min_size=1, max_size=4).map(tuple),
    ),
    st.builds(Like, COLUMNS, st.one_of(st.text("ab%_ß'ü\\", max_size=4), st.sampled_from(TEXTS))),
    st.builds(IsNull, COLUMNS),
)


def groups(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(st.builds(Not, inner), st.builds(AllOf, several), st.builds(AnyOf, several))


FILTERS = st.recursive(LEAVES, groups, max_leaves=5)


@pytest.fixture(scope="module")
def both(made: Made) -> tuple[MilvusStore, MemoryStore]:
    """The same rows in Milvus, half of them in a sealed segment, and in a memory store."""
    rng = random.Random(7)
    ids = [f"r{i:03}" for i in range(200)]
    embeddings = np.random.default_rng(0).normal(size=(len(ids), DIM))
    metadata = [hostile_metadata(rng) for _ in ids]
    store, oracle = made["filters"], MemoryStore(DIM)
    oracle.upsert(rows_of(ids, embeddings, metadata))
    store.upsert(rows_of(ids[:120], embeddings[:120], metadata[:120]))
    Connection(store.address).call("flush", store.address.name)
    store.upsert(rows_of(ids[100:], embeddings[100:], metadata[100:]))
    return store, oracle


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=FILTERS)
def test_filters_match_the_same_rows_as_in_memory(
    both: tuple[MilvusStore, MemoryStore], where: Filter
) -> None:
    """1,500 filters were compared in a longer run."""
    store, oracle = both

    def expected() -> list[str]:
        return np.array(oracle.ids())[where.mask(oracle.columns())].tolist()

    def actual() -> list[str]:
        query = np.ones((1, DIM), np.float32)
        return sorted(
            hit.id for hit in store.search(query, oracle.count(), Metric.COSINE, where)[0]
        )

    assert _outcome(actual) == _outcome(expected)
    assert _outcome(lambda: store.count(where)) == _outcome(lambda: oracle.count(where))


def test_facets_are_those_of_the_same_rows_in_memory(
    both: tuple[MilvusStore, MemoryStore],
) -> None:
    store, oracle = both
    read = MemoryStore(DIM)  # stored as JSON, NUL becomes an escape
    rows = oracle.get(oracle.ids())
    read.upsert(
        replace(rows, metadata=[parse_metadata(json.dumps(each)) for each in rows.metadata])
    )
    assert store.facets() == read.facets()
    names = [facet.column for facet in read.facets()][::-2]
    assert store.facets(names) == read.facets(names)


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except InputError as error:
        return f"refused: {error}"


# Small questions.


@pytest.fixture
def transferred(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows in each answer of the server; sidecars do not count."""
    sizes: list[int] = []
    call = Connection.call

    def counted(self: Connection, method: str, name: str, *arguments: Any, **options: Any) -> Any:
        answer = call(self, method, name, *arguments, **options)
        if method == "query" and name == self.address.name:
            sizes.append(len(answer))
        return answer

    monkeypatch.setattr(Connection, "call", counted)
    return sizes


def test_small_questions_read_few_rows(small: MilvusStore, transferred: list[int]) -> None:
    ids = [f"r{i:04}" for i in range(1_000)]
    embeddings = np.random.default_rng(0).normal(size=(len(ids), DIM))
    metadata: list[dict[str, Any]] = [
        {"label": "ab"[i % 2], **({"rare": i} if i < 30 else {})} for i in range(len(ids))
    ]
    small.upsert(rows_of(ids, embeddings, metadata))

    def rows_read(work: Callable[[], Any]) -> int:
        transferred.clear()
        work()
        return sum(transferred)

    assert rows_read(lambda: small.sample(5)) < 250
    assert rows_read(small.count) == 1
    assert rows_read(lambda: small.count(as_filter("label = 'a' and not (rare > 7)"))) == 1
    assert rows_read(lambda: small.facets(["rare"])) == 1 + 30
    assert rows_read(lambda: small.snapshot().facets(["rare"])) == 1  # known of this revision
    assert rows_read(small.facets) == 1 + len(ids)
    assert rows_read(small.facets) == 1
    small.delete(ids[:1])
    assert rows_read(lambda: small.facets(["rare"])) == 1 + 29


def test_a_sample_of_rows_of_older_versions(
    small: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their place in a random order was not stored."""

    def without_place(record: Record, embedding: NDArray[np.float32]) -> dict[str, Any]:
        entity = to_entity(record, embedding)
        del entity[FIELD][ORDER]
        return entity

    ids = [f"r{i:03}" for i in range(300)]
    embeddings = np.random.default_rng(0).normal(size=(len(ids), DIM)).astype(np.float32)
    rows = rows_of(ids, embeddings, [{} for _ in ids])
    with monkeypatch.context() as patch:
        patch.setattr("lookalike.stores.milvus.store.to_entity", without_place)
        small.upsert(rows)
    small.upsert(rows_of(ids[:150], embeddings[:150], [{} for _ in ids[:150]]))
    drawn: set[str] = set()
    for seed in range(30):
        sample = small.sample(40, seed)
        assert len(set(sample.ids)) == 40
        drawn.update(sample.ids)
    assert len(drawn) > 280
    assert small.sample(40, 3).ids == small.sample(40, 3).ids != small.sample(40, 4).ids


# Paging.

HOSTILE = ("it's", 'a"b', "x' OR '1'='1", "ü/ö ✓.png", "", "a\nb", "%_\\", "\\", '\\"', '"', "😀")


def test_pages_may_end_at_any_id(small: MilvusStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = sorted({f"{a}{b}" for a in HOSTILE for b in HOSTILE})
    embeddings = np.random.default_rng(0).normal(size=(len(ids), DIM)).astype(np.float32)
    small.upsert(rows_of(ids, embeddings, [{"i": i} for i in range(len(ids))]))
    sizes = []
    iter_pages = Connection.iter_pages

    def small_pages(
        connection: Connection, name: str, key: str, expression: str, fields: Sequence[str], _: int
    ) -> Iterator[list[dict[str, Any]]]:
        for page in iter_pages(connection, name, key, expression, fields, page_size=3):
            sizes.append(len(page))
            yield page

    monkeypatch.setattr(Connection, "iter_pages", small_pages)
    assert [record.id for record in small.records()] == ids
    assert max(sizes) == 3
    for prefix in (*HOSTILE, '"a', "nobody", "\U0010ffff"):
        expected = [row_id for row_id in ids if row_id.startswith(prefix)]
        assert [record.id for record in small.records(prefix)] == expected
    monkeypatch.setattr(Connection, "iter_pages", iter_pages)
    for count in (1, 7, len(ids), 10_000):
        parts = list(small.rows(count))
        assert [len(part) for part in parts[:-1]] == [count] * (len(parts) - 1)
        assert [row_id for part in parts for row_id in part.ids] == ids
        read = np.concatenate([part.embeddings for part in parts])
        np.testing.assert_array_equal(read, embeddings)
        assert [row["i"] for part in parts for row in part.metadata] == list(range(len(ids)))


def test_rows_larger_than_a_message_are_split(small: MilvusStore) -> None:
    """Each text of a row may have 64 kB."""
    ids = [f"r{i:03}" for i in range(MESSAGE_BYTES // 100_000)]
    text = "u" * 60_000
    embeddings = np.random.default_rng(0).normal(size=(len(ids), DIM)).astype(np.float32)
    hashes = [f"{row_id}{text}" for row_id in ids]
    stored = Rows(ids, [text] * len(ids), embeddings, [{} for _ in ids], hashes)
    small.upsert(stored)
    records = list(small.records())
    assert [record.id for record in records] == ids
    assert [record.content_hash for record in records] == hashes
    got = small.get(ids[::-1])
    assert got.hashes == hashes[::-1]
    np.testing.assert_array_equal(got.embeddings, embeddings[::-1])
    hits = small.search(embeddings[:3], len(ids), Metric.COSINE)
    assert [near[0].id for near in hits] == ids[:3]
    assert [len({hit.id for hit in near}) for near in hits] == [len(ids)] * 3
    with pytest.raises(InputError, match=r"r: its uri has 70,000 bytes, Milvus allows 65,535"):
        small.upsert(Rows(["r"], ["u" * 70_000], embeddings[:1], [{}], [""]))


# Galleries.


def test_folder_and_address_open_the_same_gallery(
    made: Made, place: Callable[[str], str], photos: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(photos, tmp_path / "photos")
    by_folder: Gallery = made["home"]
    assert counts(by_folder.sync(own)) == (12, 0, 0, 0, 0)
    by_address = Gallery.open(place("home"))
    assert by_address.path != by_folder.path
    assert (len(by_address), by_address.sources) == (12, {"photos": str(own)})
    assert by_address.fingerprint == by_folder.fingerprint == by_address.encoder.fingerprint
    assert by_address.info()["store"] == by_folder.info()["store"] == place("home")
    assert by_address.info()["index"] == {"type": "HNSW", "M": 16, "efConstruction": 200, "ef": 128}
    assert counts(by_address.sync(own)) == (0, 0, 0, 0, 12)

    def hits(gallery: Gallery) -> list[tuple[str, float]]:
        results = gallery.search(own / "a" / "00.png", k=5, where="label = 'a'")
        return [(hit.id, hit.distance) for hit in results]

    assert hits(by_folder) == hits(by_address)
    assert hits(by_folder)[0][0] == "photos:a/00.png"
    assert hits(by_folder)[0][1] < 1e-6

    (own / "b" / "01.png").unlink()
    (own / "b" / "03.png").rename(own / "b" / "moved.png")
    draw(own / "a" / "02.png", 50)
    draw(own / "a" / "new.png", 51)
    assert counts(by_address.sync(own)) == (1, 1, 1, 1, 9)
    assert counts(by_folder.sync(own)) == (0, 0, 0, 0, 12)
    assert state(by_folder) == state(by_address)
    assert "photos:b/01.png" not in by_folder.store.ids()
    assert by_folder.search(own / "a" / "new.png", k=1)[0].id == "photos:a/new.png"

    evaluated = []
    for where in (by_folder.path, place("home")):
        fields = json.loads(run("evaluate", where, "--json"))
        assert fields.pop("gallery")
        assert fields.pop("latency_ms")
        evaluated.append(fields)
    assert evaluated[0] == evaluated[1]
    for where in (by_folder.path, place("home")):
        assert json.loads(run("info", where, "--json"))["rows"] == 12
        query = own / "a" / "new.png"
        hits_json = json.loads(run("search", where, query, "--include-self", "--json"))["hits"]
        assert hits_json[0]["id"] == "photos:a/new.png"
    again = json.loads(run("index", place("home"), own, "--json"))
    assert (again["unchanged"], again["added"]) == (12, 0)


def test_a_collection_recreated_with_another_encoder_is_refused(
    made: Made, place: Callable[[str], str], encoders: tuple[Encoder, Encoder]
) -> None:
    before, by_address = made["remade"]
    with pytest.raises(FingerprintError, match="was recreated with another encoder") as caught:
        Gallery.open(before.path)
    assert f"({encoders[1].fingerprint[:12]}, not {encoders[0].fingerprint[:12]})" in str(
        caught.value
    )
    assert Gallery.open(place("remade")).fingerprint == encoders[1].fingerprint
    assert Gallery.open(place("remade")).encoder.fingerprint == encoders[1].fingerprint
    image = np.zeros((8, 8, 3), np.uint8)
    rows = rows_of(["x"], np.ones((1, encoders[0].dim)))
    for use in (
        lambda: before.search(image),
        lambda: before.state,
        lambda: before.upsert(rows, fingerprint=encoders[0].fingerprint),
    ):
        with pytest.raises(FingerprintError, match="was recreated with another encoder"):
            use()
    old = by_address.store
    with pytest.raises(ReplacedError, match="another gallery was put in its place"):
        old.ids()
    with pytest.raises(ReplacedError):
        old.search(rows.embeddings, 1, Metric.COSINE)
    own = by_address.snapshot().encoder.encode([image])
    assert by_address.encoder.fingerprint == encoders[1].fingerprint
    by_address.upsert(rows_of(["y"], own), fingerprint=encoders[1].fingerprint)
    assert by_address.search(image)[0].distance < 1e-6
    assert by_address.state == Gallery.open(place("remade")).state


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_an_interrupted_creation_starts_again(
    made: Made, place: Callable[[str], str], encoders: tuple[Encoder, Encoder], step: int
) -> None:
    gallery: Gallery = made[f"unfinished_{step}"]
    assert len(gallery) == 0
    assert gallery_exists(place(f"unfinished_{step}"))
    assert Gallery.open(place(f"unfinished_{step}")).encoder.fingerprint == encoders[0].fingerprint


def test_written_labels_come_back_with_the_image(
    place: Callable[[str], str], encoders: tuple[Encoder, Encoder], tmp_path: Path
) -> None:
    photos = tmp_path / "p"
    for i in range(4):
        draw(photos / f"{i}.png", i)
    gallery = Gallery.create(place("labels_back"), encoder=encoders[0])
    gallery.sync(gallery.open_source(photos, options={"exclude": ["3.*"]}))
    write_label(gallery, "p:0.png", "mine")
    (photos / "0.png").rename(tmp_path / "0.png")
    assert gallery.sync(photos).removed == 1
    (tmp_path / "0.png").rename(photos / "back.png")
    again = Gallery.open(place("labels_back"))
    report = again.sync(photos)
    assert (report.added, {each.reason for each in report.skipped}) == (1, {"excluded"})
    assert again.store.get(["p:back.png"]).metadata == [{"mark": "mine"}]
    assert again.select(["p:[b1]*"]) == ["p:1.png", "p:back.png"]
    assert again.remove_rows(where="mark = 'mine'") == 1
    assert again.remove_rows(source="p") == 2
    assert (again.sources, again.source_options) == ({}, {})


def test_existing_galleries_and_collections_are_not_replaced(
    made: Made, place: Callable[[str], str], encoders: tuple[Encoder, Encoder], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="there is already a gallery; open it by its address"):
        Gallery.create(tmp_path / "new.gallery", encoder=encoders[0], store=place("home"))
    assert not (tmp_path / "new.gallery").exists()
    with pytest.raises(ArtifactError, match="this collection already exists"):
        MilvusStore.create(Address.parse(place("home")), DIM, Metric.L2)


def test_names_that_a_server_holds_are_never_paths(
    place: Callable[[str], str],
    encoders: tuple[Encoder, Encoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server of somebody else cannot have files written outside of the cache's folder."""
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "a" / "b" / "data"))
    address = place("others")
    Gallery.create(address, encoder=encoders[0])
    sidecar = MilvusStore.open(Address.parse(address)).sidecar
    manifest = json.loads(sidecar.read("encoder/encoder.json"))
    shutil.rmtree(tmp_path / "a")
    for name in ("../../../../../evil.txt", "/evil.txt", "notes.txt"):
        sidecar.write(f"encoder/{name}", b"owned")
        changed = {**manifest, "files": [*manifest["files"], name], "sha256": {}}
        sidecar.write("encoder/encoder.json", json.dumps(changed).encode())
        with pytest.raises(ArtifactError, match="names the file"):
            Gallery.open(address)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    sidecar.write("encoder/encoder.json", b"[" * 100_000)
    with pytest.raises(ArtifactError, match="levels deep"):
        Gallery.open(address)
    sidecar.write("encoder/encoder.json", json.dumps(manifest).encode())
    assert len(Gallery.open(address)) == 0
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"gallery.json", "encoder.json", *manifest["files"]}


def foreign(place: Callable[[str], str]) -> str:
    """Return the address of a collection that lookalike did not create."""
    address = Address.parse(place("foreign"))
    client = Connection(address).client
    if not client.has_collection("foreign"):
        client.create_collection("foreign", dimension=DIM)
    return place("foreign")


def test_errors_of_the_command_line_are_one_line(
    made: Made,
    place: Callable[[str], str],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, other = made["home"].path, foreign(place)
    closed = f"milvus://127.0.0.1:{free_port()}/x"
    local = tmp_path / "local.gallery"
    run("index", local, photos, "--encoder", "color")
    query = photos / "a" / "00.png"
    new = ("index", tmp_path / "k", photos, "--encoder", "color")
    named = ("index", place("y"), photos, "--encoder", "color")
    for arguments, message in (
        (("index", home, photos, "--store", place("elsewhere")), "its rows are in milvus://"),
        (("index", local, photos, "--store", place("x")), "its rows are in its folder, not in"),
        (("index", other, photos), "this collection was not created by lookalike; choose another"),
        ((*new, "--store", other), "was not created by lookalike"),
        (("search", place("nobody"), query), "the server has no complete collection 'nobody'"),
        (("info", other), "this collection was not created by lookalike"),
        (("info", closed), "the server does not answer"),
        (("info", "milvus://h"), "invalid collection name"),
        (("info", f"{place('home')}?index=hsnw"), "did you mean 'hnsw'?"),
        (("search", place("home"), query, "--where", "labl = 'a'"), "did you mean 'label'?"),
        (("copy", place("home"), f"{place('home')}?timeout=9"), "is the gallery itself"),
        (("copy", home, place("home")), "is the gallery itself"),
        (("copy", local, home, "--store", place("x")), "its rows are in milvus://"),
        (
            ("copy", local, place("y"), "--store", place("x")),
            "its rows are in this collection, not in milvus",
        ),
        ((*named, "--store", place("x")), "its rows are in this collection, not in milvus"),
        (("copy", local, other), "was not created by lookalike"),
        (("copy", local, place("remade")), "has another encoder"),
    ):
        done = lookalike(*arguments)
        assert done.returncode == 2, (arguments, done)
        assert message in done.stderr, (arguments, done)
        assert len(done.stderr.strip().splitlines()) == 1, (arguments, done)
    assert not (tmp_path / "k").exists()


def test_other_dimensions_are_refused(made: Made, place: Callable[[str], str]) -> None:
    gallery: Gallery = made["unfinished_1"]
    files = MilvusStore.open(Address.parse(place("unfinished_1"))).sidecar
    fields = json.loads(files.read(MANIFEST))
    files.write(MANIFEST, json.dumps({**fields, "dim": 7}).encode())
    with pytest.raises(
        ArtifactError, match=r"its rows have \d+ dimensions, but gallery.json has dim 7"
    ):
        Gallery.open(gallery.path)
    with pytest.raises(InputError, match="expected 4 dimensions, got 5"):
        made["small"].upsert(rows_of(["x"], np.ones((1, 5))))


def test_files_are_never_read_half_written(small: MilvusStore) -> None:
    """Each file repeats one letter over several parts."""
    small.sidecar.write("text", b"a" * 100_000)
    ends = time.monotonic() + 3
    broken: list[object] = []

    def write(letter: bytes) -> None:
        files = SidecarCollection(Connection(small.address))
        while time.monotonic() < ends:
            files.write("text", letter * 100_000)
            time.sleep(0.1)

    def read() -> None:
        files = SidecarCollection(Connection(small.address))
        while time.monotonic() < ends:
            try:
                data = files.read("text")
            except LookalikeError as error:
                broken.append(error)
                return
            if len(set(data)) != 1 or len(data) != 100_000:
                broken.append(data[:10])

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"b", b"c")]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not broken
    assert len(set(small.sidecar.read("text"))) == 1
    assert small.sidecar.files() == ["text"]


# Copies.


def test_a_round_trip_copies_everything(
    place: Callable[[str], str],
    encoders: tuple[Encoder, Encoder],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lookalike.gallery.copy.BATCH", 20)
    rng = np.random.default_rng(0)
    source = Gallery.create(tmp_path / "source.gallery", encoder=encoders[0])
    ids = [f"photos:{number:03}{HOSTILE[number % len(HOSTILE)]}" for number in range(100)]
    vectors = rng.normal(size=(len(ids), source.store.dim))
    metadata = [hostile_metadata(random.Random(number)) for number in range(len(ids))]
    stored = rows_of(ids, vectors, metadata)
    fingerprint = encoders[0].fingerprint
    source.upsert(stored, fingerprint=fingerprint, sources={"photos": "/p"}, written={"tag"})

    target = place("copied")

    def interrupt(progress: Progress) -> None:
        if progress.done >= 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(source, target, on_progress=interrupt)
    copied = Gallery.open(target)
    assert 20 <= len(copied) < len(ids)
    before = len(copied)
    report = copy(source, target)
    assert done(report) == (len(ids) - before, 0, 0, before)
    assert (report.rows, report.compared, report.queries, report.recall) == (100, 100, 100, 1.0)
    assert done(copy(source, target)) == (0, 0, 0, len(ids))

    copied = Gallery.open(target)
    copy(copied, tmp_path / "back.gallery")
    back = Gallery.open(tmp_path / "back.gallery")
    for gallery in (Gallery.open(target), back):
        assert same(gallery, source)
        assert gallery.sources == {"photos": "/p"}
        assert gallery.written == {"tag"}
        assert gallery.encoder.fingerprint == fingerprint

    source.remove(ids[:5])
    source.upsert(
        rows_of(ids[10:12], vectors[10:12], [{"new": 1}, {"new": 2}]), fingerprint=fingerprint
    )
    with pytest.raises(
        ArtifactError, match=r"has 5 rows that source\.gallery does not have"
    ) as caught:
        copy(source, target)
    assert "to delete them, set allow_removals. Nothing was changed" in str(caught.value)
    assert same(Gallery.open(target), back)
    assert done(copy(source, target, allow_removals=True)) == (0, 2, 5, 93)
    assert same(Gallery.open(target), source)

    with pytest.raises(InputError, match="is the gallery itself; choose another target"):
        copy(copied, f"{target}?timeout=99")
    other = Gallery.create(tmp_path / "other.gallery", encoder=encoders[1])
    with pytest.raises(FingerprintError, match="has another encoder"):
        copy(other, target)
    assert same(Gallery.open(target), source)


def done(report: CopyReport) -> tuple[int, int, int, int]:
    return (report.added, report.updated, report.removed, report.unchanged)


def same(one: Gallery, other: Gallery) -> bool:
    """Return whether all rows of two galleries are the same, with identical embeddings."""
    ids = [record.id for record in one.store.records()]
    if ids != [record.id for record in other.store.records()] or state_of(one) != state_of(other):
        return False
    rows = one.store.get(ids).embeddings, other.store.get(ids).embeddings
    return rows[0].tobytes() == rows[1].tobytes()


def state_of(gallery: Gallery) -> list[str]:
    return [
        json.dumps([r.id, r.uri, dict(r.metadata), r.content_hash, r.signature], sort_keys=True)
        for r in gallery.store.records()
    ]


# Searches.


def clustered(seed: int, count: int) -> np.ndarray:
    """Return unit vectors in 50 clusters, always the same ones, ``(count, 32)``."""
    centers = np.random.default_rng(99).normal(size=(50, LARGE_DIM))
    rng = np.random.default_rng(seed)
    rows = centers[rng.integers(0, 50, count)] + 0.4 * rng.normal(size=(count, LARGE_DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def nearest(stored: np.ndarray, queries: np.ndarray, metric: Metric) -> np.ndarray:
    """Return the distances of all rows to each query, ``(queries, rows)``."""
    rows, vectors = stored.astype(float), queries.astype(float)
    if metric is Metric.COSINE:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return 1 - vectors @ rows.T
    return np.linalg.norm(vectors[:, None] - rows[None], axis=2)


def many_rows() -> Rows:
    ids = [f"r{i:04}" for i in range(LARGE)]
    metadata = [{"tenth": i % 10, "hundredth": i % 100} for i in range(LARGE)]
    return rows_of(ids, clustered(1, LARGE), metadata)


@pytest.fixture(scope="module")
def large(made: Made) -> tuple[dict[str, MilvusStore], Rows]:
    """5,000 rows with an HNSW index, once it is built, and with a flat one."""
    stores = {name: made[name] for name in ("large", "flat")}
    connection = Connection(stores["large"].address)
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        segments = connection.call("list_loaded_segments", "large")
        if sum(s.num_rows for s in segments if s.index_name) == LARGE:
            return stores, many_rows()
        time.sleep(0.2)
    raise AssertionError(f"not indexed: {segments}")


def recall_at_10(hits: list[list[Any]], distances: np.ndarray) -> float:
    """Return the share of hits that are as near as the tenth nearest row; none may be missing."""
    assert {len(near) for near in hits} == {10}
    limits = np.sort(distances, axis=1)[:, 9]
    return float(
        np.mean(
            [
                [hit.distance <= limit + 1e-6 for hit in near]
                for near, limit in zip(hits, limits, strict=True)
            ]
        )
    )


def test_recall_of_the_index(
    large: tuple[dict[str, MilvusStore], Rows],
) -> None:
    stores, stored = large
    store, queries = stores["large"], clustered(2, 100)
    distances = nearest(stored.embeddings, queries, Metric.COSINE)
    hits = store.search(queries, 10, Metric.COSINE)
    recall = recall_at_10(hits, distances)
    log.info("recall@10 %.4f", recall)
    assert recall >= 0.98
    for column, share, minimum in (("tenth", 10, 0.9), ("hundredth", 100, 0.98)):
        matching = np.flatnonzero(np.arange(LARGE) % share == 3)
        filtered = store.search(queries, 10, Metric.COSINE, as_filter({column: 3}))
        assert {hit.metadata[column] for near in filtered for hit in near} == {3}
        recall = recall_at_10(filtered, distances[:, matching])
        log.info("recall@10 of one in %d %.4f", share, recall)
        assert recall >= minimum
    one_by_one = [store.search(query[None], 10, Metric.COSINE)[0] for query in queries[:30]]
    assert hits[:30] == one_by_one


@pytest.mark.parametrize(("name", "metric", "exact"), [
    ("large", Metric.COSINE, True),
    ("large", Metric.L2, False),
    ("flat", Metric.L2, False),
    ("flat", Metric.L2, True),
    ("flat", Metric.COSINE, False),
])  # fmt: skip
def test_exact_search_is_exact(
    large: tuple[dict[str, MilvusStore], Rows],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    metric: Metric,
    exact: bool,
) -> None:
    stores, stored = large
    queries = 2 * clustered(3, 20)
    distances = nearest(stored.embeddings, queries, metric)
    hits = stores[name].search(queries, 10, metric, exact=exact)
    for near, row in zip(hits, distances, strict=True):
        order = np.argsort(row, kind="stable")[:10]
        assert [hit.id for hit in near] == [stored.ids[i] for i in order]
        np.testing.assert_allclose([hit.distance for hit in near], row[order], atol=2e-6)
    monkeypatch.setattr(milvus_module, "_REQUEST_BYTES", 60_000)
    assert stores[name].search(queries, 10, metric, exact=exact) == hits
    where = as_filter({"tenth": 4})
    filtered = stores[name].search(queries[:3], 10, metric, where, exact=exact)
    for near, row in zip(filtered, distances[:3], strict=True):
        fours = [i for i in np.argsort(row, kind="stable") if i % 10 == 4][:10]
        assert [hit.id for hit in near] == [stored.ids[i] for i in fours]


def test_pages_cover_sealed_and_growing_segments(
    large: tuple[dict[str, MilvusStore], Rows],
) -> None:
    """Must be the last test with these rows: it changes them."""
    stores, stored = large
    store, rng = stores["large"], np.random.default_rng(4)
    expected = dict(zip(stored.ids, stored.embeddings, strict=True))
    for _ in range(3):
        chosen = [stored.ids[i] for i in rng.choice(LARGE, 150, replace=False)]
        new = clustered(int(rng.integers(1_000)), 150)
        store.upsert(rows_of(chosen, new))
        expected |= dict(zip(chosen, new, strict=True))
        deleted = [stored.ids[i] for i in rng.choice(LARGE, 100, replace=False)]
        store.delete(deleted)
        expected = {row_id: row for row_id, row in expected.items() if row_id not in set(deleted)}
    assert store.count() == len(expected)
    assert [record.id for record in store.records()] == sorted(expected)
    assert store.ids() == tuple(sorted(expected))
    parts = list(store.rows(333))
    assert [row_id for part in parts for row_id in part.ids] == sorted(expected)
    read = np.concatenate([part.embeddings for part in parts])
    np.testing.assert_array_equal(read, np.stack([expected[row_id] for row_id in sorted(expected)]))


# Other processes.

WRITER = """
import json, sys
import numpy as np
from lookalike.stores.milvus.address import Address
from lookalike.stores.base import Record, Rows
from lookalike.stores.milvus.store import MilvusStore
store = MilvusStore.open(Address.parse(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    row_id, vector, metadata = json.loads(line)
    if vector is None:
        store.delete([row_id])
    else:
        store.upsert(Rows([row_id], [""], np.array([vector], np.float32), [metadata], [""]))
    print("done", flush=True)
"""


def test_writes_of_another_process_are_visible(
    small: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "_REFRESH_S", 0.5)  # for new kinds in known columns
    small.upsert(rows_of(["mine"], np.eye(DIM)[:1], [{"tag": "x"}]))
    query = np.eye(DIM, dtype=np.float32)[1:2]
    assert small.ids() == ("mine",)
    assert small.columns().names == ("tag",)
    took = []
    command = [sys.executable, "-c", WRITER, str(small.address)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        stdin, stdout = child.stdin, child.stdout
        assert stdin is not None
        assert stdout is not None
        assert stdout.readline() == "ready\n"

        def write(row_id: str, vector: list[float] | None, metadata: Any = None) -> None:
            stdin.write(json.dumps([row_id, vector, metadata]) + "\n")
            stdin.flush()
            assert stdout.readline() == "done\n"

        def wait_until(check: Callable[[], bool], within: float = 3.0) -> None:
            start = time.monotonic()
            while not check():
                assert time.monotonic() - start < within
            took.append(time.monotonic() - start)

        def search(where: Any = None) -> list[str]:
            where = where and as_filter(where)
            return [hit.id for hit in small.search(query, 9, Metric.COSINE, where)[0]]

        write("theirs", [0, 1, 0, 0], {"tag": "y"})
        wait_until(lambda: search() == ["theirs", "mine"])
        wait_until(lambda: search("tag = 'y'") == ["theirs"])
        wait_until(lambda: small.ids() == ("mine", "theirs"))
        write("new", [0, 2, 0.1, 0], {"year": 2020})
        wait_until(lambda: search("year > 2000") == ["new"])
        wait_until(lambda: small.columns().names == ("tag", "year"))
        write("mine", None)
        wait_until(lambda: search() == ["theirs", "new"])
        wait_until(lambda: small.ids() == ("new", "theirs"))
        write("zero", [0, 0, 0, 0], {"tag": ["x", "z"]})
        wait_until(lambda: search("tag = 'z'") == ["zero"])
        stdin.close()
    log.info("visible after %s s", [round(seconds, 2) for seconds in took])


# Unusable servers.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused(address: str) -> str:
    """Return the error of an unusable server, which must be raised soon."""
    start = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        MilvusStore.open(Address.parse(address))
    assert time.monotonic() - start < 15
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_closed_port_is_an_error(milvus: MilvusServer) -> None:
    port = free_port()
    message = refused(f"milvus://127.0.0.1:{port}/x")
    assert message.startswith(f"milvus://127.0.0.1:{port}/x: the server does not answer")
    assert "check that it runs and that the address is right" in message


def test_an_unknown_host_is_an_error(milvus: MilvusServer) -> None:
    assert "nowhere.invalid:19530/x: the server does not answer" in refused(
        "milvus://nowhere.invalid/x"
    )


@pytest.mark.parametrize("token", ["root:wrong", "nobody", ""])
def test_a_wrong_token_is_an_error_that_does_not_repeat_it(
    place: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("LOOKALIKE_MILVUS_TOKEN", token)
    message = refused(place("home"))
    assert "the server refuses this token; check that LOOKALIKE_MILVUS_TOKEN is" in message
    assert "wrong" not in message


def test_tls_to_a_server_without_it_is_an_error_of_one_line(
    place: Callable[[str], str], tmp_path: Path
) -> None:
    address = place("home").replace("milvus://", "milvus+tls://")
    assert "whether the server needs TLS" in refused(address)
    done = process("info", address, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_an_old_server_is_refused(
    place: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MIN_VERSION", (99, 0))
    with pytest.raises(
        SettingError, match=r"the server is Milvus v?2\.3\S*; 99\.0 or newer is requ"
    ):
        MilvusStore.open(Address.parse(place("home")))


def test_a_missing_client_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingDependencyError) as caught:
        MilvusStore.open(Address.parse("milvus://h/x"))
    assert (
        "milvus://h:19530/x needs the package 'pymilvus': pip install 'lookalike[milvus]'"
        in str(caught.value)
    )


@contextlib.contextmanager
def tls_in_front_of(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """Terminate TLS on a free port, and forward connections."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    loop = asyncio.new_event_loop()

    open_writers: set[asyncio.StreamWriter] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        open_writers.discard(writer)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, out = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, out), pump(inner, writer))

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "localhost", 0, ssl=context, family=socket.AF_INET)

    async def end() -> None:
        server.close()
        while open_writers:
            for writer in open_writers:
                writer.transport.abort()
            await asyncio.sleep(0.02)

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_connections_through_tls(
    made: Made,
    milvus: MilvusServer,
    require: Require,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require(shutil.which("openssl"), "openssl is not installed; it creates a certificate")
    certificate, key = tmp_path / "server.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    with tls_in_front_of(milvus.port, certificate, key) as port:
        address = f"milvus+tls://localhost:{port}/home"
        assert "whether the server needs TLS" in refused(address)
        monkeypatch.setenv("LOOKALIKE_MILVUS_CA", str(certificate))
        gallery = Gallery.open(address)
        assert gallery.info()["store"] == address
        assert gallery.fingerprint == made["home"].fingerprint
        assert len(gallery) == len(made["home"])
        monkeypatch.setenv("LOOKALIKE_MILVUS_CA", str(tmp_path / "none.pem"))
        with pytest.raises(SettingError, match=r"LOOKALIKE_MILVUS_CA=.*none.pem: cannot be read"):
            MilvusStore.open(Address.parse(address))


def test_the_commands_of_the_guide_run(milvus: MilvusServer, folder: Path, tmp_path: Path) -> None:
    """The commands of docs/scaling.md, in order, on a folder with colors as labels."""
    guide = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    block = guide.split("## Rows in Milvus")[1].split("```sh\n")[1].split("```")[0]
    block = block.replace("127.0.0.1:19530/photos", f"{milvus.host}/guide_photos")
    shutil.copytree(folder, tmp_path / "photos")
    cats = (tmp_path / "photos" / "red").rename(tmp_path / "photos" / "cats")
    Image.open(cats / "1.png").save(cats / "1.jpg")
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert lines[0][0] == "export"
    assert len(lines) == 7
    for program, *arguments in lines[1:]:
        assert program == "lookalike"
        assert run(*arguments, cwd=tmp_path), arguments
    assert state(Gallery.open(tmp_path / "back.gallery")) == state(
        Gallery.open(f"milvus://{milvus.host}/guide_photos_2")
    )
