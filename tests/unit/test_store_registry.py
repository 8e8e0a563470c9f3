"""Stores by the scheme of their addresses, those of other packages among them."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import ArtifactError, SettingError, UnknownNameError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.servers import check_server, remember_server
from lookalike.stores.milvus.address import Address
from lookalike.stores.registry import (
    PlainAddress,
    StoreSpec,
    find_store_spec,
    is_address,
    open_store,
    parse_address,
    store_schemes,
)

IMAGE = np.zeros((8, 8), np.uint8)
MODULE = "shelf_store_of_a_test"
SOURCE = """
from lookalike.stores.registry import StoreSpec

def fail(*arguments):
    raise AssertionError

SPEC = StoreSpec("shelf", "rows in a shelf", "shelf://PATH", fail, fail, fail)
OTHER = StoreSpec("other", "rows elsewhere", "other://PATH", fail, fail, fail)
"""


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    info = tmp_path / "shelf-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: shelf\nVersion: 1.0\n")
    names = {
        "shelf": f"{MODULE}:SPEC",
        "wrong": f"{MODULE}:fail",
        "third": f"{MODULE}:OTHER",
        "missing": "no_such_module_anywhere:SPEC",
        "milvus": f"{MODULE}:SPEC",
    }
    lines = [f"{name} = {value}" for name, value in names.items()]
    (info / "entry_points.txt").write_text("\n".join(["[lookalike.stores]", *lines]) + "\n")
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("milvus://h/n", True),
        ("milvus+tls://h/n", True),
        ("sqlite3:///tmp/x", True),
        ("milvus:/h/n", False),
        ("photos/milvus://h", False),
        ("C:\\photos", False),
        ("", False),
        (None, False),
        (Path("a"), False),
    ],
)
def test_addresses_are_distinguished_from_paths(text: object, expected: bool) -> None:
    assert is_address(text) is expected
    if not expected:
        with pytest.raises(SettingError, match="expected an address such as milvus://"):
            parse_address(text)  # type: ignore[arg-type]


def test_the_store_of_a_scheme_is_found_and_imported_when_it_is_used(entry_points: None) -> None:
    assert set(store_schemes()) >= {"milvus", "milvus+tls", "shelf"}
    address = parse_address("shelf:///a/b.db?x=1&y=")
    assert MODULE not in sys.modules
    spec = find_store_spec("shelf")
    assert isinstance(spec, StoreSpec)
    assert spec.summary == "rows in a shelf"
    with pytest.raises(AssertionError):
        open_store(address)
    assert isinstance(parse_address("milvus://h/n"), Address)
    assert find_store_spec("milvus").summary == "collection of a Milvus server"


def test_an_unknown_scheme_names_those_that_there_are(entry_points: None, tmp_path: Path) -> None:
    for call in (
        lambda: parse_address("shelv://a"),
        lambda: find_store_spec("shelv"),
        lambda: Gallery.open("shelv://a"),
        lambda: Gallery.create(tmp_path / "g", encoder="pixels", images=IMAGE, store="shelv://a"),
    ):
        with pytest.raises(UnknownNameError, match=r"'shelf'\?.*available: milvus"):
            call()
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("wrong", "is a function, not a StoreSpec"),
        ("third", "is the store of another scheme, 'other'"),
        ("missing", "cannot be imported .*no_such_module_anywhere"),
    ],
)
def test_a_broken_package_is_named(entry_points: None, scheme: str, message: str) -> None:
    with pytest.raises(SettingError, match=rf"store '{scheme}' \(.*\): {message}"):
        find_store_spec(scheme)


def test_a_plain_address_has_a_location_and_options() -> None:
    address = PlainAddress.parse("shelf:///data/my photos.db?mode=ro&mode=rw")
    assert (address.scheme, address.location) == ("shelf", "/data/my photos.db")
    assert (address.name, address.options) == ("my_photos", {"mode": "rw"})
    assert str(address) == "shelf:///data/my photos.db"
    assert address == PlainAddress.parse("shelf:///data/my photos.db")
    assert hash(address) == hash(PlainAddress.parse("shelf:///data/my photos.db"))
    assert address != PlainAddress.parse("shelf:///data/other.db")
    assert pickle.loads(pickle.dumps(address)).options == {"mode": "rw"}
    assert PlainAddress.parse("shelf://..").name == "shelf"
    with pytest.raises(SettingError, match="expected an address"):
        PlainAddress.parse("shelf://?a=b")


def test_a_folder_leads_only_to_addresses_that_the_user_gave(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    address = PlainAddress.parse("shelf:///data/photos.db")
    with pytest.raises(ArtifactError, match=r"x: its rows are at shelf:.*lookalike info shelf:"):
        check_server(address, "x")
    remember_server(address)
    check_server(address, "x")
    with pytest.raises(ArtifactError):
        check_server(PlainAddress.parse("shelf:///data/other.db"), "x")
