"""Errors as problems: what clients of the service read of them."""

from __future__ import annotations

import logging

import pytest

from lookalike.errors import ImageError, InputError, LookalikeError, UnreachableError
from lookalike.images.formats import FORMATS, upload_hint
from lookalike.server.problems import problem_of
from lookalike.sources.urls import read_url


def of_download() -> LookalikeError:
    with pytest.raises(ImageError) as caught:
        read_url("https://example.org/a.png")
    return caught.value


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (
            ImageError(f"a.tif: format TIFF is not read{upload_hint(FORMATS['TIFF'])}"),
            "a.tif: format TIFF is not read",
        ),
        (None, "https://example.org/a.png: not downloaded: downloads are off"),
        (
            UnreachableError(
                "milvus://h:1/n: the server refuses this token; check that LOOKALIKE_MILVUS_TOKEN "
                "is USER:PASSWORD, and whether the server needs TLS (milvus+tls://); or ask"
            ),
            "milvus://h:1/n: the server refuses this token; or ask",
        ),
        (
            InputError("its weights are not here, and LOOKALIKE_OFFLINE forbids to download them"),
            "its weights are not here, and a setting forbids to download them",
        ),
        (InputError("LOOKALIKE_THREADS='x': no number"), "a setting: no number"),
        (InputError("a; b (c) d"), "a; b (c) d"),
    ],
)
def test_clients_read_of_no_environment_variable_and_the_log_has_it(
    error: LookalikeError | None,
    detail: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("LOOKALIKE_OFFLINE", "1")
    error = error or of_download()
    with caplog.at_level(logging.INFO):
        assert problem_of(error).detail == detail
    assert caplog.messages == ([str(error)] if "LOOKALIKE_" in str(error) else [])


def test_messages_with_many_clauses_take_no_long_time() -> None:
    text = "; ( a" * 20_000
    assert problem_of(InputError(text)).detail == text
