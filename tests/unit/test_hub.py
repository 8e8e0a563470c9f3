"""The client of the hub of models, on a hub on this machine."""

from __future__ import annotations

import email.utils
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from lookalike.cancellation import Cancellation, cancellable
from lookalike.config import hub_settings
from lookalike.diagnostics.checks import run_checks
from lookalike.errors import (
    ArtifactError,
    CancelledError,
    FetchError,
    InputError,
    SettingError,
    StorageError,
)
from lookalike.hub import HubModel, open_model
from lookalike.hub.model_card import license_of
from lookalike.progress import reporting
from lookalike.transfer.sums import RemoteFile
from lookalike.types import Progress
from tests.conftest import Require
from tests.hub_server import PATIENCE_S, HubServer, git_sha1, hub_server

REPO = "owner/name"
MODEL = "onnx/model.onnx"
BIG = bytes(range(256)) * 8_000
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
    "config.json": b'{"model_type": "clip"}',
    MODEL: BIG,
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        for name, value in server.variables(tmp_path).items():
            monkeypatch.setenv(name, value)
        server.add(REPO, FILES)
        yield server


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited before requests were made again, which takes none here."""
    seconds: list[float] = []
    monkeypatch.setattr("lookalike.transfer.client.wait", seconds.append)
    return seconds


def cached(tmp_path: Path) -> set[str]:
    """Return the files of the model in the cache, without locks and the record."""
    folder = tmp_path / "lookalike" / "hub" / REPO
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix().partition("/")[2] for path in files if len(path.parts) > 1}


def storage_ranges(hub: HubServer) -> list[str]:
    """Return the ranges that the storage was asked for, empty where the whole file was."""
    return [each.headers.get("range", "") for each in hub.requests if each.host == "storage"]


def test_a_model_is_opened_at_one_commit_with_license_sizes_and_sums(hub: HubServer) -> None:
    model = open_model(REPO)
    assert model.commit == hub.models[REPO].revisions["main"]
    assert model.license == "apache-2.0"
    config = FILES["config.json"]
    assert model.find("config.json") == RemoteFile(len(config), None, git_sha1(config))
    assert model.find(MODEL) == RemoteFile(len(BIG), hashlib.sha256(BIG).hexdigest(), None)
    assert model.find("onnx/other.onnx") is None
    assert model.read("config.json") == config
    places = model.fetch([MODEL, "config.json", MODEL])
    assert list(places) == [MODEL, "config.json"]
    assert places[MODEL].read_bytes() == BIG
    file = model.find("config.json")
    assert file is not None
    assert file.sha256 == hashlib.sha256(config).hexdigest()


def test_a_second_opening_makes_no_request(hub: HubServer) -> None:
    def use() -> HubModel:
        model = open_model(REPO)
        assert model.find("absent.json") is None
        assert model.read("config.json") == FILES["config.json"]
        assert model.fetch([MODEL])[MODEL].read_bytes() == BIG
        return model

    first = use()
    requests = len(hub.requests)
    second = use()
    assert len(hub.requests) == requests
    assert (second.commit, second.license) == (first.commit, "apache-2.0")


def test_a_model_without_a_card_has_no_license_and_asks_once(hub: HubServer) -> None:
    hub.add("owner/bare", {"config.json": b"{}"})
    assert open_model("owner/bare").license == ""
    requests = len(hub.requests)
    assert open_model("owner/bare").license == ""
    assert len(hub.requests) == requests


def test_all_files_are_of_the_commit_of_the_first_opening(hub: HubServer) -> None:
    model = open_model(REPO)
    newer = hub.add(REPO, FILES | {"config.json": b"{}", "new.json": b"[]"})
    assert model.read("config.json") == FILES["config.json"]
    assert open_model(REPO).commit == model.commit
    assert open_model(REPO).find("new.json") is None
    assert open_model(REPO, newer.upper()).read("config.json") == b"{}"
    assert open_model(REPO, newer).find("new.json") is not None


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", "a+b"])
def test_a_revision_may_be_a_branch_or_a_tag(hub: HubServer, revision: str) -> None:
    commit = hub.add(REPO, {"config.json": b"[1]"}, revision=revision)
    model = open_model(REPO, revision)
    assert model.commit == commit
    assert model.read("config.json") == b"[1]"


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("bert", "OWNER/NAME"),
        ("", "OWNER/NAME"),
        ("https://huggingface.example/openai/clip/tree/main", "write hub:openai/clip"),
        ("a/b/c", "OWNER/NAME"),
        ("../name", "OWNER/NAME"),
        ("owner/..", "OWNER/NAME"),
        ("owner/na me", "OWNER/NAME"),
        ("owner/name?x=1", "OWNER/NAME"),
        ("owner/name#x", "OWNER/NAME"),
        ("owner/na\nme", "OWNER/NAME"),
        ("owner\\name", "OWNER/NAME"),
        ("owner/n--e", "OWNER/NAME"),
        ("owner/name.git", "OWNER/NAME"),
        ("owner/" + "x" * 97, "OWNER/NAME"),
        ("owner/ümlaut", "OWNER/NAME"),
    ],
)
def test_a_name_that_no_model_has_is_refused(hub: HubServer, repo: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_model(repo)
    assert not hub.requests


@pytest.mark.parametrize(
    "revision",
    ["", "..", "a/../b", "/main", "main/", "a b", "a\r\nHost: x", "?", "x.lock", "x" * 201],
)
def test_a_revision_that_no_model_has_is_refused(hub: HubServer, revision: str) -> None:
    with pytest.raises(InputError, match="not a revision"):
        open_model(REPO, revision)
    assert not hub.requests


@pytest.mark.parametrize(
    "path", ["", "../x", "a/../../x", "/etc/passwd", "a//b", "a\\b", "C:x", "a\0b"]
)
def test_a_path_cannot_lead_out_of_the_model(hub: HubServer, path: str) -> None:
    model = open_model(REPO)
    requests = len(hub.requests)
    for use in (model.find, model.read, lambda path: model.fetch([path])):
        with pytest.raises(ArtifactError, match="plain file name"):
            use(path)
    assert len(hub.requests) == requests


def test_names_with_special_characters_reach_the_hub_as_they_are(hub: HubServer) -> None:
    hub.add("owner/special", {"a b/ü#%25.json": b"{}"})
    assert open_model("owner/special").read("a b/ü#%25.json") == b"{}"


def test_a_wrong_sum_is_refused_and_leaves_nothing(
    hub: HubServer, tmp_path: Path, waits: list[float]
) -> None:
    model = open_model(REPO)
    hub.faults.wrong_sum = True
    with pytest.raises(FetchError, match=r"onnx/model\.onnx.*not this file \(SHA-256 .*deleted"):
        model.fetch([MODEL])
    assert [name for name in cached(tmp_path) if "model" in name] == []
    assert hub.count("GET", "storage") == 1
    assert waits == []
    hub.faults.wrong_sum = False
    assert model.fetch([MODEL])[MODEL].read_bytes() == BIG
    assert storage_ranges(hub) == ["", ""]


def test_a_small_file_is_verified_by_the_sum_of_git(hub: HubServer) -> None:
    model = open_model(REPO)
    model.find("config.json")
    hub.models[REPO].commits[model.commit]["config.json"] = b'{"model_type": "clap"}'
    with pytest.raises(FetchError, match=r"config\.json.*git SHA-1"):
        model.read("config.json")


def test_a_file_without_a_sum_is_verified_by_its_size_and_said(
    hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    hub.faults.no_tags = True
    with caplog.at_level(logging.INFO, "lookalike.notice"):
        places = open_model(REPO).fetch([MODEL])
    assert places[MODEL].read_bytes() == BIG
    assert "states no sum of onnx/model.onnx" in caplog.text
    # From now on it is verified by the sum of what was downloaded.
    places[MODEL].write_bytes(BIG[::-1])
    assert open_model(REPO).fetch([MODEL])[MODEL].read_bytes() == BIG


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no_size", "does not say its size"),
        ("no_commit", "X-Repo-Commit.*HF_ENDPOINT"),
    ],
)
def test_what_is_no_hub_is_refused(hub: HubServer, fault: str, message: str) -> None:
    setattr(hub.faults, fault, True)
    with pytest.raises(FetchError, match=message):
        open_model(REPO)


def test_an_answer_of_another_commit_is_refused(hub: HubServer) -> None:
    model = open_model(REPO)
    hub.faults.commit = "b" * 40
    with pytest.raises(FetchError, match="answered with commit bbbbbbbbbbbb"):
        model.find(MODEL)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("longer", "2,048,001 bytes, not 2,048,000"),
        ("other_length", "2,047,999 bytes, not 2,048,000"),
        ("compressed", "it is compressed"),
    ],
)
def test_a_body_that_is_not_the_file_is_refused(
    hub: HubServer, tmp_path: Path, fault: str, message: str
) -> None:
    model = open_model(REPO)
    model.find(MODEL)
    setattr(hub.faults, fault, True)
    with pytest.raises(FetchError, match=message):
        model.fetch([MODEL])
    assert f"files/{MODEL}" not in cached(tmp_path)
    assert hub.count("GET", "storage") == 1


def test_a_token_is_sent_to_the_endpoint_and_to_no_other_host(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_valid")
    open_model(REPO).fetch([MODEL, "config.json"])
    tokens = {(each.host, each.headers.get("authorization")) for each in hub.requests}
    assert tokens == {("hub", "Bearer hf_valid"), ("storage", None)}


def test_where_the_token_is_from(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "huggingface"
    home.mkdir()
    monkeypatch.delenv("HF_TOKEN_PATH")
    assert hub_settings().token is None
    (home / "token").write_text("hf_file\n")
    assert (hub_settings().token, hub_settings().token_source) == ("hf_file", str(home / "token"))
    (tmp_path / "other").write_text("hf_path")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "other"))
    assert hub_settings().token == "hf_path"
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_older")
    assert (hub_settings().token, hub_settings().token_source) == (
        "hf_older",
        "HUGGING_FACE_HUB_TOKEN",
    )
    monkeypatch.setenv("HF_TOKEN", "hf_valid")
    assert hub_settings().token == "hf_valid"
    assert "hf_valid" not in repr(hub_settings())
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert hub_settings().token is None


@pytest.mark.parametrize(
    "endpoint",
    [
        "hub.example",
        "ftp://hub.example",
        "https://user:secret@hub.example",
        "https://hub.example/?key=secret",
        "https://hub example",
        "http://",
        "http://[::1",
        "http://hub.example:1:2",
        "https://hub.example/\r\nX: y",
    ],
)
def test_an_endpoint_that_is_no_address_is_refused_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(SettingError, match="HF_ENDPOINT") as caught:
        hub_settings()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["http://hub.example:99999", "http://[1.2.3]"])
def test_an_endpoint_without_a_host_or_port_is_named(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(FetchError, match=r"hub:owner/model: no address .*; check HF_ENDPOINT"):
        open_model("owner/model")


def test_a_token_that_would_add_headers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x\r\nHost: other")
    with pytest.raises(SettingError, match="HF_TOKEN") as caught:
        hub_settings()
    assert "hf_x" not in str(caught.value)


def test_the_endpoint_may_have_a_path(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.endpoint}/mirror/")
    with pytest.raises(FetchError, match="no such model, or no revision"):
        open_model(REPO)
    assert hub.requests[0].path.startswith("/mirror/owner/name/resolve/main/")


def test_a_gated_model_says_where_to_accept_its_license(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults.gated.add(REPO)
    with pytest.raises(FetchError, match=f"hub:{REPO}: gated.*{hub.endpoint}/{REPO}.*HF_TOKEN"):
        open_model(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_valid")
    hub.faults.may_read = False
    with pytest.raises(FetchError, match=r"gated.*account of the token in HF_TOKEN"):
        open_model(REPO)
    hub.faults.may_read = True
    assert open_model(REPO).fetch([MODEL])[MODEL].read_bytes() == BIG


def test_a_private_model_may_be_one_that_is_not_there(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults.private.add(REPO)
    for repo in (REPO, "owner/absent"):
        with pytest.raises(FetchError, match=f"hub:{repo}: .*no such model, or it is private.*HF_"):
            open_model(repo)
    monkeypatch.setenv("HF_TOKEN", "hf_valid")
    assert open_model(REPO).license == "apache-2.0"
    with pytest.raises(FetchError, match="or the token in HF_TOKEN has no access to it"):
        open_model("owner/absent")


def test_a_token_that_is_not_valid_is_named_but_not_shown(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(FetchError, match="token in HF_TOKEN; renew it") as caught:
        open_model(REPO)
    assert "hf_expired" not in str(caught.value)


def test_access_may_be_refused_for_another_reason(hub: HubServer) -> None:
    hub.faults.statuses = [(403, {"X-Error-Message": "Access to this resource is disabled."})]
    with pytest.raises(FetchError, match=r"may not be read \(Access to this resource is disabled"):
        open_model(REPO)


def test_revisions_and_files_that_are_not_there_are_told_apart(hub: HubServer) -> None:
    with pytest.raises(FetchError, match=r"has no revision 'v9'.*tree/main"):
        open_model(REPO, "v9")
    model = open_model(REPO)
    with pytest.raises(FetchError, match=r"has no file onnx/model_q4\.onnx at commit"):
        model.fetch([MODEL, "onnx/model_q4.onnx"])
    assert hub.count("GET", "storage") == 0


def test_a_mirror_without_codes_of_errors_may_be_used(hub: HubServer) -> None:
    hub.faults.no_codes = True
    hub.add("owner/bare", {"config.json": b"{}"})
    assert open_model("owner/bare").find("absent.json") is None
    with pytest.raises(FetchError, match="no such model, or no revision 'v9'"):
        open_model(REPO, "v9")


def test_an_absence_that_only_a_status_says_is_not_remembered(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(REPO)
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.endpoint}/elsewhere")
    assert open_model(REPO).find(MODEL) is None
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    assert open_model(REPO).find(MODEL) is not None
    assert model.commit


def test_a_cut_connection_is_resumed(hub: HubServer, waits: list[float]) -> None:
    model = open_model(REPO)
    hub.faults.cut_after, hub.faults.cuts = 500_000, 3
    assert model.fetch([MODEL])[MODEL].read_bytes() == BIG
    ranges = storage_ranges(hub)
    assert ranges == ["", "bytes=500000-", "bytes=1000000-", "bytes=1500000-"]
    assert waits == [0.5, 0.5, 0.5]


def test_a_connection_that_is_cut_after_a_few_bytes_is_given_up(
    hub: HubServer, waits: list[float]
) -> None:
    model = open_model(REPO)
    model.find(MODEL)
    hub.faults.cut_after, hub.faults.cuts = 1_000, 99
    with pytest.raises(FetchError, match=r"was cut, 5 times in a row.*kept and resumed"):
        model.fetch([MODEL])
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert storage_ranges(hub) == ["", *(f"bytes={n}000-" for n in range(1, 5))]


def test_a_download_that_failed_is_resumed_by_the_next(
    hub: HubServer, tmp_path: Path, waits: list[float]
) -> None:
    model = open_model(REPO)
    hub.faults.cut_after, hub.faults.cuts = 600_000, 1
    model.find(MODEL)
    hub.faults.statuses, hub.faults.status_host = [], "storage"

    def fail_later(progress: Progress) -> None:
        if progress.done:
            hub.faults.statuses = [(503, {})] * 9

    with pytest.raises(FetchError, match=r"503.*5 times in a row.*kept"), reporting(fail_later):
        model.fetch([MODEL])
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert f"files/{MODEL}" not in cached(tmp_path)
    hub.faults.statuses = []
    hub.requests.clear()
    assert open_model(REPO).fetch([MODEL])[MODEL].read_bytes() == BIG
    (request,) = (each for each in hub.requests if each.host == "storage")
    assert request.headers["range"] == "bytes=600000-"
    assert request.headers["if-range"].startswith('"')
    assert not any(name.startswith("incomplete") for name in cached(tmp_path))


@pytest.fixture
def interrupted(hub: HubServer) -> HubModel:
    """A model of which 600,000 bytes of the large file are there."""
    model = open_model(REPO)
    model.find(MODEL)
    hub.faults.cut_after = 600_000
    hub.faults.cuts = 1
    cancellation = Cancellation()

    def cancel(progress: Progress) -> None:
        if progress.done >= 600_000:
            cancellation.cancel()

    with pytest.raises(CancelledError), cancellable(cancellation), reporting(cancel):
        model.fetch([MODEL])
    hub.faults.cut_after, hub.faults.cuts = None, 0
    hub.requests.clear()
    return model


def test_a_file_that_changed_is_downloaded_anew(hub: HubServer, interrupted: HubModel) -> None:
    hub.versions[MODEL] = 1
    assert interrupted.fetch([MODEL])[MODEL].read_bytes() == BIG
    assert storage_ranges(hub) == ["bytes=600000-"]


def test_a_server_without_ranges_sends_the_file_anew(hub: HubServer, interrupted: HubModel) -> None:
    hub.faults.ignores_range = True
    assert interrupted.fetch([MODEL])[MODEL].read_bytes() == BIG
    assert storage_ranges(hub) == ["bytes=600000-"]


def test_parts_that_do_not_fit_are_noticed_by_the_sum(
    hub: HubServer, interrupted: HubModel, tmp_path: Path
) -> None:
    (partial,) = (tmp_path / "lookalike/hub" / REPO / interrupted.commit / "incomplete").glob(
        "*[!g]"
    )
    partial.write_bytes(b"x" * 600_000)
    assert interrupted.fetch([MODEL])[MODEL].read_bytes() == BIG
    assert storage_ranges(hub) == ["bytes=600000-", ""]


@pytest.mark.parametrize("tag", [b"", b'"a"\r\nHost: other', b"W/x", b"\xff" * 1000])
def test_a_tag_that_was_damaged_is_not_sent(
    hub: HubServer, interrupted: HubModel, tmp_path: Path, tag: bytes
) -> None:
    folder = tmp_path / "lookalike/hub" / REPO / interrupted.commit / "incomplete"
    (path,) = folder.glob("*.tag")
    path.write_bytes(tag)
    assert interrupted.fetch([MODEL])[MODEL].read_bytes() == BIG
    (request,) = (each for each in hub.requests if each.host == "storage")
    assert request.headers["range"] == "bytes=600000-"
    assert "if-range" not in request.headers


def test_a_part_that_is_too_long_is_dropped(
    hub: HubServer, interrupted: HubModel, tmp_path: Path
) -> None:
    (partial,) = (tmp_path / "lookalike/hub" / REPO / interrupted.commit / "incomplete").glob(
        "*[!g]"
    )
    partial.write_bytes(BIG + b"x")
    assert interrupted.fetch([MODEL])[MODEL].read_bytes() == BIG
    assert storage_ranges(hub) == [""]


def test_a_range_that_is_not_there_is_refused_once(
    hub: HubServer, interrupted: HubModel, tmp_path: Path
) -> None:
    (partial,) = (tmp_path / "lookalike/hub" / REPO / interrupted.commit / "incomplete").glob(
        "*[!g]"
    )
    partial.write_bytes(BIG[:-1])
    hub.faults.other_length = True
    with pytest.raises(FetchError, match="2,047,999 bytes"):
        interrupted.fetch([MODEL])
    assert storage_ranges(hub) == [f"bytes={len(BIG) - 1}-", ""]


def test_servers_that_are_busy_are_asked_again_when_they_say_so(
    hub: HubServer, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    date = email.utils.formatdate(time.time() - 5, usegmt=True)
    hub.faults.statuses = [
        (429, {"Retry-After": "7"}),
        (503, {}),
        (429, {"RateLimit": '"api";r=0;t=55'}),
        (502, {"Retry-After": date}),
    ]
    with caplog.at_level(logging.INFO, "lookalike.notice"):
        assert open_model(REPO).license == "apache-2.0"
    assert waits == [7.0, 1.0, 55.0, 0.0]
    assert [message.partition("; ")[2] for message in caplog.messages] == [
        "waiting for 7 s",
        "waiting for 55 s",
    ]


@pytest.mark.parametrize("retry_after", ["3600", "99999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_servers_that_ask_to_wait_for_too_long_are_not_waited_for(
    hub: HubServer, waits: list[float], retry_after: str
) -> None:
    hub.faults.statuses = [(429, {"Retry-After": retry_after})] * 9
    with pytest.raises(FetchError, match="429"):
        open_model(REPO)
    assert max(waits, default=0) < 60


def test_servers_that_stay_busy_are_given_up(hub: HubServer, waits: list[float]) -> None:
    hub.faults.statuses = [(500, {})] * 99
    with pytest.raises(
        FetchError, match=r"500 Internal Server Error, 5 times in a row\. Try again"
    ):
        open_model(REPO)
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert hub.count("HEAD") == 5


def test_no_connection(hub: HubServer, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9 refuses connections.*HF_HUB_OFFLINE=1"):
        open_model(REPO)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    with pytest.raises(FetchError, match=r"hub\.invalid could not be resolved.*HF_HUB_OFFLINE=1"):
        open_model(REPO)
    assert waits == []


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("file:///etc/passwd", "redirects to 'file:///etc/passwd', no address"),
        ("ftp://127.0.0.1/x", "no address"),
        ("http://user:secret@127.0.0.1/x", "no address"),
        ("http://[x/", "no address"),
        ("http://127.0.0.1:99999/", "no address"),
    ],
)
def test_redirects_lead_to_addresses_only(hub: HubServer, location: str, message: str) -> None:
    model = open_model(REPO)
    hub.faults.location = location
    with pytest.raises(FetchError, match=message) as caught:
        model.fetch([MODEL])
    assert "secret" not in str(caught.value)


def test_redirects_are_followed_a_few_times(hub: HubServer) -> None:
    model = open_model(REPO)
    model.find(MODEL)
    hub.faults.location = f"{hub.endpoint}/{REPO}/resolve/{model.commit}/{MODEL}"
    with pytest.raises(FetchError, match="redirected more than 5 times"):
        model.fetch([MODEL])


def test_a_proxy_of_the_environment_is_used(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", hub.endpoint)
    monkeypatch.setenv("no_proxy", "")
    hub.faults.location = "http://storage.invalid/file"
    assert open_model(REPO).read("config.json") == FILES["config.json"]
    assert hub.requests[0].path == f"http://hub.invalid/{REPO}/resolve/main/README.md"


def test_progress_and_a_notice_before_a_large_download(
    hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("owner/larger", {"a.bin": BIG, "b.bin": BIG[:1000]})
    reports: list[Progress] = []
    with caplog.at_level(logging.INFO, "lookalike.notice"), reporting(reports.append):
        model = open_model("owner/larger")
        model.fetch(["b.bin"])
        assert (caplog.messages, reports) == ([], [])
        model.fetch(["a.bin", "b.bin"])
        model.fetch(["a.bin", "b.bin"])
    assert caplog.messages == [
        f"downloading hub:owner/larger (commit {model.commit[:12]}): 2.0 MB, license: not stated"
    ]
    assert {(each.task, each.unit) for each in reports} == {("download hub:owner/larger", "bytes")}
    assert {each.total for each in reports} == {len(BIG)}
    assert [reports[0].done, reports[-1].done] == [0, len(BIG)]
    assert [each.done for each in reports] == sorted(each.done for each in reports)


@pytest.mark.parametrize("name", ["LOOKALIKE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_only_cached_files_are_used(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    open_model(REPO).fetch([MODEL])
    hub.requests.clear()
    monkeypatch.setenv(name, "1")
    model = open_model(REPO)
    assert model.license == "apache-2.0"
    assert model.fetch([MODEL])[MODEL].read_bytes() == BIG
    assert model.hint == ""
    assert model.find("config.json") is None
    assert f"{name}=1" in model.hint
    with pytest.raises(FetchError, match=rf"no file config\.json .*{name}=1"):
        model.read("config.json")
    with pytest.raises(FetchError, match=f"not in the cache, and {name}=1"):
        open_model("owner/other")
    assert hub.requests == []
    place = model.fetch([MODEL])[MODEL]
    place.write_bytes(BIG[:-1])
    lacking = rf"{MODEL}: not in the cache, and {name}=1 .* copy the folder .*{REPO} from"
    with pytest.raises(FetchError, match=lacking):
        model.fetch([MODEL])
    place.write_bytes(BIG)
    monkeypatch.delenv(name)
    assert open_model(REPO).hint == ""
    assert model.read("config.json") == FILES["config.json"]


def test_a_damaged_file_of_the_cache_is_downloaded_again(
    hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    place = open_model(REPO).fetch([MODEL])[MODEL]
    for damaged in (BIG[:-1], BIG[:-1] + b"x"):
        place.write_bytes(damaged)
        assert open_model(REPO).fetch([MODEL])[MODEL].read_bytes() == BIG
    assert hub.count("GET", "storage") == 3
    assert caplog.text.count(": damaged (") == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": 99, "revisions": {}, "commits": {}}',
        b'{"format": 1, "revisions": {"main": "../../x"}, "commits": {}}',
        b'{"format": 1, "revisions": {}, "commits": {"../x": {"files": {}}}}',
        b'{"format": 1, "revisions": {}, "commits": {"%s": {"files": {"a": 1}}}}' % (b"a" * 40),
        b'{"format": 1, "revisions": {}, "commits": {"%s": {"files": {"a": {"size": 1, "sha256": '
        b'"x"}}}}}' % (b"a" * 40),
    ],
)
def test_a_damaged_record_is_replaced(hub: HubServer, tmp_path: Path, content: bytes) -> None:
    commit = open_model(REPO).commit
    path = tmp_path / "lookalike" / "hub" / REPO / "model.json"
    path.write_bytes(content)
    model = open_model(REPO)
    assert (model.commit, model.license) == (commit, "apache-2.0")
    assert json.loads(path.read_bytes())["revisions"] == {"main": commit}


def test_a_cache_that_cannot_be_written(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match=r"Not a directory.*LOOKALIKE_DATA"):
        open_model(REPO)
    assert hub.count("GET") == 0


def test_a_disk_that_is_too_small_is_noticed_before_the_download(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(REPO)
    usage = shutil.disk_usage(".")._replace(free=50_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = r"2\.0 MB and 50 MB to spare needed, 50\.0 MB free.*LOOKALIKE_DATA"
    with pytest.raises(StorageError, match=message):
        model.fetch([MODEL])
    assert hub.count("GET", "storage") == 0


_FETCH = f"""
import sys
from lookalike.hub import open_model
sys.stdout.buffer.write(open_model({REPO!r}).fetch([{MODEL!r}])[{MODEL!r}].read_bytes())
"""


def start(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_disk_that_becomes_full_leaves_nothing(hub: HubServer, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    process = start(limit + _FETCH)
    _, messages = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert b"StorageError" in messages
    assert b"LOOKALIKE_DATA" in messages
    assert [name for name in cached(tmp_path) if not name.endswith(("README.md", ".lock"))] == []


def test_of_two_processes_one_downloads(hub: HubServer) -> None:
    hub.faults.hold = threading.Event()
    processes = [start(_FETCH) for _ in range(2)]
    assert hub.arrived.wait(PATIENCE_S)
    hub.faults.hold.set()
    for process in processes:
        data, messages = process.communicate(timeout=PATIENCE_S)
        assert data == BIG, messages
    assert hub.count("GET", "storage") == 1


def test_a_process_that_was_killed_is_followed_by_one_that_resumes(hub: HubServer) -> None:
    hub.faults.hold, hub.faults.cut_after = threading.Event(), 1_500_000
    process = start(_FETCH)
    assert hub.arrived.wait(PATIENCE_S)
    folder = Path(os.environ["LOOKALIKE_DATA"])
    until = time.monotonic() + PATIENCE_S
    while not any(path.stat().st_size for path in folder.rglob("incomplete/*[!g]")):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.communicate()
    hub.faults.hold.set()
    hub.requests.clear()
    assert open_model(REPO).fetch([MODEL])[MODEL].read_bytes() == BIG
    (range_,) = storage_ranges(hub)
    assert range_.startswith("bytes=")


_OTHER_TOOL = f"""
import sys
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
for path in {sorted(FILES)!r}:
    print(hf_hub_download({REPO!r}, path))
try:
    hf_hub_download({REPO!r}, "absent.json")
except EntryNotFoundError:
    print("absent")
"""


@pytest.fixture
def other_cache(hub: HubServer, tmp_path: Path, require: Require) -> Path:
    """The cache that huggingface_hub filled from the same hub."""
    require(find_spec("huggingface_hub"), "huggingface_hub is not installed")
    run = subprocess.run(
        [sys.executable, "-c", _OTHER_TOOL], capture_output=True, text=True, timeout=120
    )
    assert run.stdout.splitlines()[-1:] == ["absent"], run.stderr[-2000:]
    places = run.stdout.splitlines()[:-1]
    assert [Path(place).read_bytes() for place in places] == [FILES[name] for name in sorted(FILES)]
    hub.requests.clear()
    return tmp_path / "huggingface" / "hub"


def states(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return size and time of everything in a folder."""
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def test_the_cache_of_another_tool_is_read_where_it_lies(
    hub: HubServer, other_cache: Path, tmp_path: Path
) -> None:
    before = states(other_cache)
    model = open_model(REPO)
    assert (model.commit, model.license) == (hub.models[REPO].revisions["main"], "apache-2.0")
    places = model.fetch(list(FILES))
    assert {name: place.read_bytes() for name, place in places.items()} == FILES
    assert all(place.is_relative_to(other_cache) for place in places.values())
    assert model.find("absent.json") is None
    assert hub.requests == []
    assert states(other_cache) == before
    assert cached(tmp_path) == set()

    # A damaged one is not used, and left to the tool that wrote it.
    blob = places[MODEL].resolve()
    blob.write_bytes(BIG[::-1])
    place = open_model(REPO).fetch([MODEL])[MODEL]
    assert place.read_bytes() == BIG
    assert place.is_relative_to(tmp_path / "lookalike")
    assert blob.read_bytes() == BIG[::-1]


def other_snapshot(tmp_path: Path, commit: str, files: dict[str, bytes]) -> Path:
    """Write a snapshot as other tools do, and return its folder."""
    folder = tmp_path / "huggingface" / "hub" / "models--owner--name"
    snapshot = folder / "snapshots" / commit
    for name in ("refs", "blobs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    for path, data in files.items():
        place = snapshot / path
        place.parent.mkdir(parents=True, exist_ok=True)
        blob = (
            folder
            / "blobs"
            / (hashlib.sha256(data).hexdigest() if len(data) > 1000 else git_sha1(data))
        )
        blob.write_bytes(data)
        place.symlink_to(os.path.relpath(blob, place.parent))
    return snapshot


def test_files_that_another_tool_has_not_are_downloaded_at_its_commit(
    hub: HubServer, tmp_path: Path
) -> None:
    commit = hub.models[REPO].revisions["main"]
    other_snapshot(tmp_path, commit, {MODEL: BIG})
    hub.add(REPO, FILES | {"config.json": b"newer"})
    model = open_model(REPO)
    assert model.commit == commit
    assert model.read("config.json") == FILES["config.json"]
    assert "huggingface" in str(model.fetch([MODEL])[MODEL])
    assert hub.count("GET", "storage") == 0


@pytest.mark.parametrize("unwritable", [False, True])
def test_the_cache_of_another_tool_suffices_offline(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unwritable: bool
) -> None:
    other_snapshot(tmp_path, "c" * 40, FILES)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if unwritable:
        (tmp_path / "lookalike").write_bytes(b"")
    for revision in ("main", "c" * 40):
        model = open_model(REPO, revision)
        assert (model.commit, model.license) == ("c" * 40, "apache-2.0")
        assert model.fetch([MODEL])[MODEL].read_bytes() == BIG
    with pytest.raises(FetchError, match="not in the cache"):
        open_model(REPO, "d" * 40)


def test_the_cache_of_another_tool_suffices_without_a_connection(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_snapshot(tmp_path, "c" * 40, {MODEL: BIG})
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    model = open_model(REPO)
    assert model.license == ""
    assert model.fetch([MODEL])[MODEL].read_bytes() == BIG


@pytest.mark.parametrize("ref", ["", "main", "../../x", "c" * 39, "c" * 41, "\xff" * 40])
def test_a_broken_cache_of_another_tool_is_not_used(
    hub: HubServer, tmp_path: Path, ref: str
) -> None:
    snapshot = other_snapshot(tmp_path, "c" * 40, FILES)
    (snapshot.parent.parent / "refs" / "main").write_text(ref)
    assert open_model(REPO).commit == hub.models[REPO].revisions["main"]


def test_copies_instead_of_links_are_used_by_their_size(hub: HubServer, tmp_path: Path) -> None:
    """Tools copy files where the system has no links."""
    snapshot = tmp_path / "huggingface" / "hub" / "models--owner--name" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes(b"{}")
    (snapshot / "README.md").write_bytes(b"---\nlicense: mit\n---")
    model = open_model(REPO, "c" * 40)
    assert model.license == "mit"
    assert model.find("config.json") == RemoteFile(2)
    assert model.read("config.json") == b"{}"
    assert hub.requests == []


@pytest.fixture
def certificate(tmp_path: Path, require: Require) -> tuple[Path, Path]:
    """A certificate of this machine that nobody has signed, and its key."""
    openssl = shutil.which("openssl")
    require(openssl, "openssl is not installed")
    assert openssl is not None
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def test_certificates_are_verified_and_encryption_is_not_dropped(
    certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_server(certificate) as hub:
        hub.add(REPO, FILES)
        for name, value in hub.variables(tmp_path).items():
            monkeypatch.setenv(name, value)
        assert hub.endpoint.startswith("https://")
        with pytest.raises(FetchError, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted"):
            open_model(REPO)
        assert hub.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        model = open_model(REPO)
        hub.faults.location = "http://storage.invalid/file"
        with pytest.raises(
            FetchError, match=r"storage\.invalid without encryption, which is refused"
        ):
            model.fetch([MODEL])
        hub.faults.location = ""
        assert hub.storage.startswith("http://127.0.0.1")  # of this machine, where nobody listens
        assert model.fetch([MODEL])[MODEL].read_bytes() == BIG


@pytest.mark.parametrize(
    ("card", "license_"),
    [
        (b"---\nlicense: mit\n---\n", "mit"),
        (b"\xef\xbb\xbf---\r\nlicense: 'mit'  # comment\r\n---\r\n", "mit"),
        (b'---\ntags:\n- license: x\nlicense: "cc-by-nc-4.0"\n---\n', "cc-by-nc-4.0"),
        (b"---\nlicense:\n- mit\n- apache-2.0\nlanguage:\n- en\n---\n", "mit, apache-2.0"),
        (b"---\nlicense:\n  - mit\n---\n", "mit"),
        (b"---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        (b"---\nlicense: other\nlicense_name: apple-amlr\n---\n", "other (apple-amlr)"),
        (b"---\nlicense: other\nlicense_link: LICENSE.md\n---\n", "other (LICENSE.md)"),
        (b"---\nlicense_name: x\n---\n", "other (x)"),
        (b"---\nlicense: mit\nlicense_name: mit\n---\n", "mit"),
        (b"---\nlicense: a\x1b[2Jb\n---\n", "a\\x1b[2Jb"),
        (b"---\nlicense:\n---\n", ""),
        (b"---\nlanguage: en\n---\nlicense: mit\n", ""),
        (b"license: mit\n", ""),
        (b"", ""),
        (b"\xff\xfe---\n", ""),
    ],
)
def test_the_license_of_a_model_card(card: bytes, license_: str) -> None:
    assert license_of(card) == license_


def test_a_license_in_a_message_is_short(hub: HubServer) -> None:
    hub.add("owner/long", {"README.md": b"---\nlicense: " + b"x" * 100_000 + b"\n---\n"})
    assert len(open_model("owner/long").license) <= 100


def test_notices_do_not_show_secrets_of_addresses(
    hub: HubServer, caplog: pytest.LogCaptureFixture, waits: list[float]
) -> None:
    hub.faults.status_host = "storage"
    hub.faults.statuses = [(403, {})]
    with caplog.at_level(logging.DEBUG), pytest.raises(FetchError, match="answered 403") as caught:
        open_model(REPO).fetch([MODEL])
    assert "key=1" not in str(caught.value) + caplog.text


def test_a_commit_that_is_gone_is_told_from_an_unknown_revision(
    hub: HubServer, tmp_path: Path
) -> None:
    model = open_model(REPO)
    hub.models[REPO].commits.clear()
    hub.add(REPO, FILES | {"config.json": b"{}"})
    with pytest.raises(FetchError, match=f"commit {model.commit[:12]}, which main was.*delete"):
        open_model(REPO).find(MODEL)
    shutil.rmtree(tmp_path / "lookalike")
    assert open_model(REPO).read("config.json") == b"{}"


def test_a_size_or_sum_that_the_hub_stated_wrongly_is_asked_for_again(hub: HubServer) -> None:
    model = open_model(REPO)
    hub.models[REPO].commits[model.commit][MODEL] = BIG + b"x"
    model.find(MODEL)
    hub.models[REPO].commits[model.commit][MODEL] = BIG
    with pytest.raises(FetchError, match="2,048,000 bytes, not 2,048,001"):
        model.fetch([MODEL])
    assert open_model(REPO).fetch([MODEL])[MODEL].read_bytes() == BIG


def test_doctor_says_which_hub_is_used(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> tuple[bool | None, str]:
        (result,) = (each for each in run_checks() if each.name == "hub")
        return result.ok, result.detail

    monkeypatch.setattr("lookalike.diagnostics.checks._PARTS", ())
    assert check() == (True, f"{hub.endpoint}, no token")
    monkeypatch.setenv("HF_TOKEN", "hf_valid")
    assert check() == (True, f"{hub.endpoint}, token in HF_TOKEN")
    hub_settings().cache.mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert check() == (True, f"off (HF_HUB_OFFLINE=1); reads {hub_settings().cache}")
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    ok, detail = check()
    assert ok is False
    assert "HF_ENDPOINT='nonsense'" in detail
    assert hub.requests == []
