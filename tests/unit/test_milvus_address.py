"""Addresses of Milvus collections: parsing, options and errors."""

from __future__ import annotations

import pickle

import pytest

from lookalike.errors import SettingError, UnknownNameError
from lookalike.stores.milvus.address import INDEXES, PORT, Address


def test_an_address_has_host_port_and_name() -> None:
    address = Address.parse("milvus://db.example.org:1234/photos")
    assert (address.host, address.port, address.name) == ("db.example.org", 1234, "photos")
    assert address == Address("db.example.org", 1234, "photos")
    assert (address.tls, address.uri) == (False, "http://db.example.org:1234")
    assert str(address) == "milvus://db.example.org:1234/photos"
    assert (address.index, address.consistency, address.timeout) == ("hnsw", "session", 30)
    assert (address.shards, address.replicas, address.effort) == (1, 1, 0)


def test_tls_is_another_scheme() -> None:
    address = Address.parse("milvus+tls://db.example.org/photos?timeout=5")
    assert address.tls
    assert address.port == PORT == 19530
    assert address.uri == "https://db.example.org:19530"
    assert str(address) == "milvus+tls://db.example.org:19530/photos"


def test_a_host_may_be_an_ipv4_or_ipv6_address() -> None:
    address = Address.parse("milvus://[2001:db8::7]:1234/_x9")
    assert (address.host, address.port) == ("2001:db8::7", 1234)
    assert address.uri == "http://[2001:db8::7]:1234"
    assert str(address) == "milvus://[2001:db8::7]:1234/_x9"
    assert Address.parse(str(address)) == address
    assert Address.parse("milvus://10.0.0.7/x").uri == "http://10.0.0.7:19530"
    assert Address.parse("milvus://[::1]/x").uri == "http://[::1]:19530"


def test_options_are_parsed_and_not_printed() -> None:
    text = (
        "milvus://h/n?index=IVF_SQ8&effort=300&consistency=Strong&shards=4&replicas=2&timeout=120"
    )
    address = Address.parse(text)
    assert (address.index, address.effort, address.consistency) == ("ivf_sq8", 300, "strong")
    assert (address.shards, address.replicas, address.timeout) == (4, 2, 120)
    assert address.text == text
    assert str(address) == "milvus://h:19530/n"
    assert pickle.loads(pickle.dumps(address)) == address


def test_options_do_not_affect_equality() -> None:
    """Equality decides whether a gallery would be copied onto itself."""
    one, other = "milvus://h:1/n?timeout=5&index=flat", "milvus+tls://H:1/n?consistency=strong"
    assert Address.parse(one) == Address.parse(other)
    assert hash(Address.parse(one)) == hash(Address.parse(other))
    for another in ("milvus://h:1/m", "milvus://h:2/n", "milvus://g:1/n"):
        assert Address.parse(one) != Address.parse(another)


@pytest.mark.parametrize(("index", "k", "expected"), [
    ("hnsw", 10, {"ef": 128}),
    ("hnsw", 1_000, {"ef": 2_000}),
    ("hnsw", 16_384, {"ef": 32_768}),
    ("ivf_flat", 10, {"nprobe": 32}),
    ("ivf_sq8", 5_000, {"nprobe": 1_024}),
    ("diskann", 100, {"search_list": 200}),
    ("flat", 10, {}),
])  # fmt: skip
def test_search_effort_grows_with_k(index: str, k: int, expected: dict[str, int]) -> None:
    address = Address.parse(f"milvus://h/n?index={index}")
    assert address.kind is INDEXES[index]
    assert address.search_params(k, address.kind) == expected


def test_effort_replaces_the_minimum_of_the_index() -> None:
    quick = Address.parse("milvus://h/n?effort=30")
    assert quick.search_params(10, INDEXES["hnsw"]) == {"ef": 30}
    assert quick.search_params(100, INDEXES["hnsw"]) == {"ef": 200}
    address = Address.parse("milvus://h/n?effort=500")
    assert address.search_params(10, INDEXES["hnsw"]) == {"ef": 500}
    assert address.search_params(1_000, INDEXES["hnsw"]) == {"ef": 2_000}
    assert address.search_params(10, INDEXES["flat"]) == {}


@pytest.mark.parametrize(("text", "message"), [
    ("photos.gallery", "photos.gallery: expected milvus://HOST:PORT/NAME"),
    ("http://h/n", "http://h/n: expected milvus://HOST:PORT/NAME"),
    ("milvus:///n", "milvus:///n: has no host; expected milvus://HOST:PORT/NAME"),
    ("milvus://:19530/n", "milvus://:19530/n: has no host"),
    ("milvus://h", "milvus://h: invalid collection name '': use at most 200 letters"),
    ("milvus://h/a/b", "milvus://h/a/b: invalid collection name 'a/b'"),
    ("milvus://h/9a", "invalid collection name '9a'"),
    ("milvus://h/a-b", "invalid collection name 'a-b'"),
    ("milvus://h/ü", "invalid collection name 'ü'"),
    (f"milvus://h/{'n' * 201}", "at most 200"),
    ("milvus://h/photos_notes", "invalid collection name 'photos_notes'"),
    ("milvus://h:0/n", "milvus://h:0/n: has no port"),
    ("milvus://h:port/n", "milvus://h:port/n: invalid address"),
    ("milvus://h:99999/n", "milvus://h:99999/n: invalid address"),
    ("milvus://[::1/n", "milvus://[::1/n: invalid address"),
    ("milvus://h/n?effort=0", "milvus://h/n?effort=0: effort=0: must be a whole number from 1 to"),
    ("milvus://h/n?effort=32769", "effort=32769: must be a whole number from 1 to 32,768"),
    ("milvus://h/n?shards=-1", "shards=-1: must be a whole number from 1 to 64"),
    ("milvus://h/n?shards=two", "shards=two: must be a whole number from 1 to 64"),
    ("milvus://h/n?shards=²", "shards=²: must be a whole number from 1 to 64"),
    ("milvus://h/n?replicas=65", "replicas=65: must be a whole number from 1 to 64"),
    ("milvus://h/n?timeout=1.5", "timeout=1.5: must be a whole number from 1 to 3,600"),
    ("milvus://h/n?timeout=3601", "timeout=3601: must be"),
    ("milvus://h/n?timeout=", "milvus://h/n?timeout=: timeout=: must be a whole number"),
    ("milvus://h/n?timeout", "timeout=: must be a whole number from 1 to 3,600"),
])  # fmt: skip
def test_errors_name_the_address(text: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Address.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    ("milvus://h/n?index=hsnw", "unknown index 'hsnw': did you mean 'hnsw'?"),
    ("milvus://h/n?consistency=some", "unknown consistency 'some'; available: bounded"),
    ("milvus://h/n?tiemout=5", "option of milvus://h/n: 'tiemout': did you mean 'timeout'?"),
])  # fmt: skip
def test_unknown_names_get_the_nearest_suggested(text: str, message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        Address.parse(text)
    assert message in str(caught.value)
    assert "available: " in str(caught.value)


@pytest.mark.parametrize("text", ["milvus://root:secret@h/n", "milvus+tls://secret@h:1/n"])
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SettingError, match="LOOKALIKE_MILVUS_TOKEN") as caught:
        Address.parse(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["milvus:/h/n", "photos/milvus://h", "", None, 7])
def test_other_values_are_no_addresses(text: object) -> None:
    with pytest.raises(SettingError, match="expected milvus://HOST:PORT/NAME"):
        Address.parse(text)  # type: ignore[arg-type]


def test_a_server_on_this_machine_needs_no_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_MILVUS_TOKEN", "root:secret")
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert Address.parse(f"milvus://{host}/n").server == ""
    address = Address.parse("milvus://db.example.org/n")
    assert (address.server, address.folder) == ("db.example.org:19530", "db.example.org_19530")
    assert "on the server db.example.org:19530, to which LOOKALIKE_MILVUS_TOKEN" in address.guard
    assert "secret" not in address.guard
    monkeypatch.delenv("LOOKALIKE_MILVUS_TOKEN")
    assert address.guard == ""
