"""Errors as problems: what clients of the service read of them."""

from __future__ import annotations

import ast
import inspect
import logging
from collections.abc import Iterator
from importlib.resources import files

import pytest

from lookalike.errors import ImageError, InputError, LookalikeError, UnreachableError
from lookalike.images.formats import FORMATS, upload_hint
from lookalike.languages import TEXTS
from lookalike.server import problems
from lookalike.server.app import _HTTP_PROBLEMS
from lookalike.server.problems import ProblemError, problem_of
from lookalike.sources.urls import read_url


def kinds_in_code() -> Iterator[str]:
    """Yield the kinds of problems that modules of the service name where they raise them."""
    place = list(inspect.signature(ProblemError).parameters).index("kind")
    for file in files("lookalike.server").iterdir():
        if not file.name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ProblemError":
                kind = node.args[place]
                if isinstance(kind, ast.Constant):
                    yield str(kind.value)
                else:
                    assert file.name in ("app.py", "problems.py"), ast.unparse(node)


def test_every_type_of_problem_has_a_title_in_each_language() -> None:
    kinds = {*kinds_in_code(), *_HTTP_PROBLEMS.values(), "refused"}
    kinds |= {kind for _, _, kind in problems._KINDS}
    assert len(kinds) > 30
    for language, texts in TEXTS.items():
        titles = {key for key in texts if key.startswith("problem-")}
        assert titles == {f"problem-{kind}" for kind in kinds}, language
    assert ProblemError(404, "item-not-found", "").title("de") == "Bild nicht gefunden"
    assert ProblemError(404, "item-not-found", "").as_dict()["title"] == "Item not found"


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
