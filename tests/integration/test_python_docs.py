"""Every Python example of docs/python.md, run in its order; ``# -> value`` is what a line gives."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

import lookalike as la
from lookalike import errors
from tests.conftest import Require
from tests.integration.test_readme import ROOT, blocks, write_photos
from tests.serving import serving
from tests.unit.test_image_text import write_model

PAGE = (ROOT / "docs" / "python.md").read_text()
_SHOWN = re.compile(r"^(?P<code>\S.*?)\s+# -> (?P<value>.+)$")
"""A line with the value that it gives; ... stands for any text."""


def matches(value: str, shown: str) -> bool:
    pattern = ".*".join(map(re.escape, shown.split("...")))
    return re.fullmatch(pattern, value, re.DOTALL) is not None


def run_block(block: str, names: dict[str, Any]) -> int:
    """Run a block; compare what its lines give with what is shown; return how many were."""
    compared = 0
    for node in ast.parse(block).body:
        source = "\n".join(block.splitlines()[node.lineno - 1 : node.end_lineno])
        shown = _SHOWN.match(source)
        if shown is None:
            exec(source, names)
        else:
            value = repr(eval(shown["code"], names))
            assert matches(value, shown["value"]), f"{shown['code']} gave {value}"
            compared += 1
    return compared


@pytest.mark.slow
def test_every_example_of_the_python_page_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require: Require
) -> None:
    for package in ("torch", "transformers", "openTSNE", "pandas"):
        require(installed(package), f"{package} is not installed")
    model = write_model(tmp_path / "model", "clip")  # instead of one from a model hub
    page = PAGE.replace("openai/clip-vit-base-patch32", str(model))
    write_photos(tmp_path / "photos", ("cats", "dogs", "birds"), "{}.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "cache"))
    names: dict[str, Any] = {}
    compared = 0
    with contextlib.ExitStack() as stack:
        printed = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        for block in blocks(page, "python"):
            if "127.0.0.1:8000" in block:
                service = stack.enter_context(
                    serving({"photos": la.Gallery.open("photos.gallery")})
                )
                block = block.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
            compared += run_block(block, names)
    assert compared == PAGE.count("# -> ")
    assert "1280" in printed.getvalue()  # of the error that is printed
    assert len(names["hits"].ids) == len(names["hits"].distances) == len(names["table"])
    assert Path("hits.png").stat().st_size > 1_000
    assert names["graph"].rows.shape == (36, 10)
    assert len(names["several"]) == 3


def installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def test_the_page_lists_every_public_name() -> None:
    documented = set(re.findall(r"`(\w+)`", PAGE))
    missing = set(la.__all__) - documented - {"LookalikeError", "__version__"}
    assert not missing
    assert "la.LookalikeError" in PAGE


def test_the_page_lists_every_error() -> None:
    section = PAGE.partition("\n## Errors\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(?:la\.)?(\w+Error)`", section))
    tree = {name for name in la.__all__ if name.endswith("Error")}
    assert listed == tree
    (kinds,) = re.findall(r"\n\n([^\n]+) are kinds of `InputError`", section)
    direct = {each.__name__ for each in errors.InputError.__subclasses__()}
    assert set(re.findall(r"`(\w+)`", kinds)) == direct
