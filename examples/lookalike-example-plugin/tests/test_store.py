"""The contract of lookalike's stores over this one, and what is particular to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from lookalike_example import SqliteStore

from lookalike.errors import ArtifactError, LookalikeError
from lookalike.stores.base import VectorStore
from lookalike.stores.registry import PlainAddress
from lookalike.testing import Make, StoreContract
from lookalike.types import Metric


def address(path: Path) -> PlainAddress:
    return PlainAddress.parse(f"sqlite://{path}")


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        def create(dim: int) -> VectorStore:
            return SqliteStore.create(address(tmp_path / "rows.db"), dim, Metric.COSINE, {})

        return create


def test_files_are_kept_beside_the_rows(tmp_path: Path) -> None:
    place = address(tmp_path / "rows.db")
    assert SqliteStore.find(place) is None
    store = SqliteStore.create(place, 3, Metric.COSINE, {"fingerprint": "x"})
    store.write_file("a/b", b"1")
    store.write_file("a/b", b"2")
    again = SqliteStore.open(place)
    assert (again.files(), again.read_file("a/b")) == (["a/b"], b"2")
    assert (again.description, again.dim, again.identity) == (
        {"fingerprint": "x"},
        3,
        store.identity,
    )
    with pytest.raises(ArtifactError, match="has no c"):
        again.read_file("c")
    with pytest.raises(ArtifactError, match="exists already"):
        SqliteStore.create(place, 3, Metric.COSINE, {})
    (tmp_path / "empty.db").touch()
    assert SqliteStore.find(address(tmp_path / "empty.db")) is None
    again.drop()
    with pytest.raises(ArtifactError, match="cannot be read"):
        store.count()


@pytest.mark.parametrize("text", ["sqlite://relative.db", "sqlite:///a.db?mode=ro"])
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(LookalikeError, match=r"absolute path|no options"):
        SqliteStore.find(PlainAddress.parse(text))
