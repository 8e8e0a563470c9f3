"""Output to consoles of every encoding: names are escaped, JSON stays valid, nothing ends early."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from lookalike.cli import console, main

NAME = "zażółć 日本 \N{GRINNING FACE} é.png"
LABELS = ("żółw", "犬")
ENCODINGS = ("utf-8", "cp1252", "ascii")


class Output(NamedTuple):
    code: object
    out: str
    err: str


def command(encoding: str, *arguments: object) -> Output:
    """Run the command line in this process, with streams that refuse what they cannot encode."""
    files = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(file, encoding, errors="strict") for file in files)
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lookalike", *map(str, arguments)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            main()
        except SystemExit as end:
            code = end.code
        out.flush()
        err.flush()
        assert (out.errors, err.errors) == ("strict", "strict")  # as they were
    return Output(code, *(file.getvalue().decode(encoding) for file in files))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with photographs of names that few encodings have, and a gallery of them."""
    folder = tmp_path_factory.mktemp("console") / "Größe ł"
    for label in LABELS:
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(18):
            rng = np.random.default_rng([number, len(label)])
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            small.resize((40, 40)).save(folder / "photos" / label / f"{number} {NAME}")
    (folder / "photos" / f"broken {NAME}").write_bytes(b"no image")
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = command("cp1252", "index", "ł.gallery", "photos", "--encoder", "color")
        assert done.code == 1
        assert r"broken za\u017c" in done.err
        yield folder
    finally:
        os.chdir(before)


QUERY = f"photos/żółw/1 {NAME}"
VERBS = (
    ("search", "ł.gallery", QUERY, "-k", "3"),
    ("search", "ł.gallery", "--id", f"photos:żółw/1 {NAME}"),
    ("info", "ł.gallery"),
    ("evaluate", "ł.gallery", "--match", "label"),
    ("evaluate", "robustness", "ł.gallery"),
    ("choose", "photos", "--labels", "own", "--no-train", "--encoder", "color"),
    ("explore", "map", "ł.gallery", "--thumbnails", "0", "-o", "map.html"),
    ("explore", "clusters", "ł.gallery"),
    ("explore", "outliers", "ł.gallery", "-k", "2"),
    ("explore", "duplicates", "ł.gallery"),
    ("label", "suggest", "ł.gallery", "-k", "5"),
    ("label", "issues", "ł.gallery"),
    ("index", "ł.gallery", "photos"),
    ("datasets",),
    ("encoders",),
    ("recipes",),
)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", VERBS, ids=" ".join)
def test_every_verb_prints_to_every_console(work: Path, arguments: tuple[str, ...]) -> None:
    """In UTF-8 the names themselves, elsewhere escapes; JSON has the same values everywhere."""
    del work
    for encoding in ENCODINGS:
        shown = command(encoding, *arguments)
        assert shown.code in (0, 1), shown.err
        assert "Traceback" not in shown.err
    documents = []
    for encoding in ENCODINGS:
        printed = command(encoding, *arguments, "--json")
        assert printed.code in (0, 1), printed.err
        documents.append(json.loads(printed.out))
    names = [json.dumps(each, ensure_ascii=False) for each in documents]
    assert [NAME in each for each in names] == [NAME in names[0]] * len(names)


def test_names_are_shown_as_far_as_the_console_has_them(work: Path) -> None:
    del work
    shown = {
        each: command(each, "search", "ł.gallery", QUERY, "--include-self", "-k", 1)
        for each in ENCODINGS
    }
    assert f"photos:żółw/1 {NAME}" in shown["utf-8"].out
    assert "─" in shown["utf-8"].out
    assert r"za\u017có\u0142\u0107 \u65e5\u672c \U0001f600 é.png" in shown["cp1252"].out
    assert r"za\u017c\xf3\u0142\u0107 \u65e5\u672c \U0001f600 \xe9.png" in shown["ascii"].out
    head, rule, row = shown["ascii"].out.splitlines()[-3:]
    assert set(rule) == {"-"}
    assert len(rule) == len(row)
    assert head.split() == ["rank", "distance", "label", "id"]


def test_errors_quote_names_in_every_encoding(work: Path) -> None:
    del work
    for encoding in ENCODINGS:
        failed = command(encoding, "search", "ł.gallery", f"nothing {NAME}")
        assert failed.code == 2
        assert failed.err.startswith("lookalike: error: nothing za")
        unknown = command(encoding, "search", f"missing {NAME}", QUERY)
        assert unknown.code == 2
        assert "not a gallery" in unknown.err


@pytest.mark.slow
def test_saved_files_are_utf_8(work: Path) -> None:
    shown = command("ascii", "explore", "outliers", "ł.gallery", "-o", "outliers ł")
    assert shown.code == 0
    assert NAME in (work / "outliers ł" / "outliers.csv").read_bytes().decode("utf-8")
    command("ascii", "evaluate", "ł.gallery", "--report", "r.html")
    assert "żółw" in (work / "r.html").read_bytes().decode("utf-8")


def test_a_title_is_not_wrapped_to_a_narrow_table(capsys: pytest.CaptureFixture[str]) -> None:
    title = "photos/a long name of a query.jpg: 3 results, cosine"
    console.print_table(("rank", "id"), [["1", "a"]], title=title)
    assert capsys.readouterr().out.splitlines()[0] == title


def test_control_characters_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(("id",), [["a\x1b[31m\nb\x07.png"]])
    assert capsys.readouterr().out.splitlines()[-1] == r"a\x1b[31m\nb\x07.png"


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_a_process_of_another_encoding(work: Path, environment: dict[str, str]) -> None:
    arguments = ["search", "ł.gallery", QUERY, "-k", "1", "--include-self", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "lookalike", *arguments],
        env={**os.environ, **environment},
        cwd=work,
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["hits"][0]["id"] == f"photos:żółw/1 {NAME}"
    assert b"Traceback" not in done.stderr


def test_a_full_disk_behind_stdout_is_one_line(work: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lookalike", "info", "ł.gallery"],
            cwd=work,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "lookalike: error: output: No space left on device\n"


def test_a_closed_pipe_is_no_error(work: Path) -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m lookalike encoders --json | head -n 1",
        shell=True,
        cwd=work,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[\n"
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="a shell that closes descriptors")
def test_without_stdout_a_command_does_its_work(work: Path) -> None:
    command_line = f"'{sys.executable}' -m lookalike info ł.gallery >&-"
    done = subprocess.run(command_line, shell=True, cwd=work, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("odd", ["\x1b", "\x9b", "\u202e", "\u2028", "\ud800", "\x7f"])
def test_no_output_steers_a_terminal(capsys: pytest.CaptureFixture[str], odd: str) -> None:
    name = f"a{odd}[31mb"
    console.note(name)
    console.print_lines(name)
    console.print_facts({name: name, "nested": {name: [name]}})
    console.print_table((name,), [(name,)], title=name)
    console.print_json({name: [name]})
    console.print_json(name, one_line=True)
    printed = capsys.readouterr()
    text = (printed.out + printed.err).replace("\n", "")
    assert text.isprintable()
    assert json.loads(printed.out.splitlines()[-1]) == name


def test_names_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[red]a[/red] [link=http://h]b[/link]"
    console.print_table(("name",), [(name,)], title=name)
    assert capsys.readouterr().out.count(name) == 2
