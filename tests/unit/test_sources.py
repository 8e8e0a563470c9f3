"""Folders, manifests and shards as sources: which files count, metadata, error messages."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike.errors import ImageError, SettingError, SourceError
from lookalike.evaluation.candidates import ChooseOptions
from lookalike.images import memory
from lookalike.metadata import check_metadata
from lookalike.sources import SourceOptions, open_items, open_source, tables

RNG = np.random.default_rng(1)


def png(number: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.full((8, 8, 3), number % 256, np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png() if data is None else data)
    return path


def keys(spec: Path | str) -> list[str]:
    return [item.id.partition(":")[2] for item in open_source(spec)]


# ---------------------------------------------------------------------------------- folders


def test_a_folder_lists_images_and_ignores_other_files(tmp_path: Path) -> None:
    root = tmp_path / "r"
    for name in ("b.PNG", "a.jpg", "sub/C.JpEg", "sub/deep/d.webp", "plain"):
        write(root / name)
    for name in (
        "notes.txt",
        ".hidden.png",
        ".git/x.png",
        "@eaDir/x.png",
        "__MACOSX/x.png",
        "sub/.thumbs/x.png",
    ):
        write(root / name)
    write(root / "README", b"no image")
    assert keys(root) == ["a.jpg", "b.PNG", "plain", "sub/C.JpEg", "sub/deep/d.webp"]
    assert [item.metadata.get("label") for item in open_source(root)] == [
        *(None, None, None),
        *("sub", "deep"),
    ]


def test_link_loops_end_and_no_image_is_listed_twice(tmp_path: Path) -> None:
    root, other = tmp_path / "r", tmp_path / "other"
    write(root / "a" / "1.png")
    write(other / "x" / "2.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "up").symlink_to(tmp_path)
    (root / "same").symlink_to(root / "a")
    (root / "out").symlink_to(other)
    (root / "out2").symlink_to(other / "x")
    (other / "back").symlink_to(root)
    (root / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    assert keys(root) == ["dangling.png", "a/1.png", "out/x/2.png"]


def test_a_thousand_folders_in_each_other_are_read(tmp_path: Path) -> None:
    root = tmp_path / "r"
    write(root / "a.png")
    here = os.open(root, os.O_RDONLY)
    for _ in range(1_500):  # step by step, since the path is too long for the system
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("b.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    source = open_source(root)
    found = [*source.problems, *list(source)[1:]]
    assert source[0].uri == str(root / "a.png")
    assert len(found) == 1  # the last one, or the folder that cannot be reached by its path
    subprocess.run(["rm", "-rf", str(root)], check=True)  # shutil recurses


def test_an_unreadable_sub_folder_is_reported_as_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "r" / "1.png")
    write(tmp_path / "r" / "shut" / "2.png")
    original = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = open_source(tmp_path / "r")
    assert len(source) == 1
    assert [p.reason for p in source.problems] == ["the folder cannot be read (Permission denied)"]
    assert list(source.unlisted_prefixes) == ["r:shut/"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
def test_a_metadata_table_in_a_folder_adds_columns(kind: str, tmp_path: Path) -> None:
    for name in ("cats/1.png", "cats/2.png", "3.png"):
        write(tmp_path / name)
    rows: list[dict[str, object]] = [
        {"path": "cats/1.png", "year": 2020, "tag": "a,b"},
        {"path": "./3.png", "label": "mine", "year": None},
        {"path": "none.png", "year": 1},
    ]
    write_table(tmp_path / f"metadata.{kind}", rows)
    source = open_source(tmp_path)
    assert [dict(item.metadata) for item in source] == [
        {"label": "mine"},
        {"label": "cats", "year": 2020, "tag": "a,b"},
        {"label": "cats"},
    ]
    [problem] = source.problems
    assert problem.reason == "'none.png' is not an image in the folder"
    assert problem.uri.endswith(
        f"metadata.{kind}, {'line' if 'csv' in kind or 'jsonl' in kind else 'row'} "
        f"{4 if kind == 'csv' else 3}"
    )


@pytest.mark.parametrize("name", ["Metadata.CSV", "METADATA.csv", "metadata.Csv"])
def test_a_metadata_table_is_found_in_any_case_of_letters(name: str, tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    (tmp_path / name).write_text("file_name,n\n1.png,12345678901234567890\n")
    (tmp_path / "metadata.json").write_text("{}")
    source = open_source(tmp_path)
    assert source[0].metadata == {"n": 12345678901234567890}
    assert {each.reason for each in source.skipped} == {
        "metadata table, read for its columns",
        "metadata.json, not read",
    }


def test_integers_of_any_length_are_exact(tmp_path: Path) -> None:
    long, longer = "1" * 40, "2" * 2_000
    rows = {
        "int": ["1", "-999999999999999999", ""],
        "long": [long, "1", ""],
        "mixed": [long, "1.5", "2"],
        "longer": [longer, "1", ""],
        "zeros": ["007", "1", "2"],
    }
    lines = [",".join(("path", *rows))]
    for i, name in enumerate("abc"):
        lines.append(",".join((f"{name}.png", *(values[i] for values in rows.values()))))
    (tmp_path / "m.csv").write_text("\n".join(lines))
    first, second, third = (dict(item.metadata) for item in open_source(tmp_path / "m.csv"))
    assert first == {
        "int": 1, "long": int(long), "mixed": int(long), "longer": longer, "zeros": "007"
    }  # fmt: skip
    assert second == {
        "int": -(10**18) + 1, "long": 1, "mixed": 1.5, "longer": "1", "zeros": "1"
    }  # fmt: skip
    assert third == {"mixed": 2, "zeros": "2"}
    (tmp_path / "m.jsonl").write_text(f'{{"path": "a.png", "n": {long}, "m": {longer}}}')
    assert open_source(tmp_path / "m.jsonl")[0].metadata == {"n": int(long), "m": longer}


@pytest.mark.parametrize(
    "make",
    [lambda value: SourceOptions(include=value), lambda value: ChooseOptions(encoders=value)],
)
def test_one_text_is_not_taken_for_a_list_of_letters(make: Callable[[Any], object]) -> None:
    for wrong in ("*.jpg", b"*.jpg", [1], 3):
        with pytest.raises(SettingError, match="must be a list of texts"):
            make(wrong)
    assert SourceOptions(include=["*.jpg"]) == SourceOptions(include=("*.jpg",))  # type: ignore[arg-type]


def test_patterns_take_names_at_any_depth_and_paths(tmp_path: Path) -> None:
    for name in ("a.png", "b.GIF", "thumbs/a.png", "x/thumbs/b.png", "x/2019/c.png", "2019/d.png"):
        write(tmp_path / "r" / name)

    def taken(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[str]:
        options = SourceOptions(include=include, exclude=exclude)
        source = open_source(tmp_path / "r", options=options, empty=True)
        excluded = sum(each.count for each in source.skipped)
        assert len(source) + excluded == 6
        return [item.id.partition(":")[2] for item in source]

    assert taken(exclude=("thumbs", "*.gif")) == ["a.png", "2019/d.png", "x/2019/c.png"]
    assert taken(include=("2019/*",)) == ["2019/d.png"]
    assert taken(include=("2019",)) == ["2019/d.png", "x/2019/c.png"]
    assert taken(include=("X/",)) == ["x/2019/c.png", "x/thumbs/b.png"]
    assert taken(include=("*.png",), exclude=("x/thumbs", "a.*")) == ["2019/d.png", "x/2019/c.png"]
    assert taken(include=("*",), exclude=("",)) == [
        item.id[2:] for item in open_source(tmp_path / "r")
    ]


def write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    else:
        lines = [
            ",".join(f'"{"" if row.get(n) is None else row[n]}"' if n in row else "" for n in names)
            for row in rows
        ]
        path.write_text("\n".join([",".join(names), *lines]))
    return path


# -------------------------------------------------------------------------------- manifests


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_manifest_lists_images_and_their_metadata(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", png(7))
    write(tmp_path / "b.png", png(8))
    rows: list[dict[str, object]] = [
        {"path": "in/a.png", "year": 2020, "price": 1.5, "sold": True, "code": "007"},
        {"path": "b.png", "year": 2021, "price": 2, "sold": False, "code": "12"},
    ]
    source = open_source(write_table(tmp_path / f"items.{kind}", rows))
    assert [item.id for item in source] == ["items:in/a.png", "items:b.png"]
    assert dict(source[0].metadata) == {k: v for k, v in rows[0].items() if k != "path"}
    assert source[1].image()[0, 0, 0] == 8
    assert source[0].signature() != ""
    assert open_items([source[0].uri])[0].image()[0, 0, 0] == 7


def test_csv_as_written_by_spreadsheets(tmp_path: Path) -> None:
    write(tmp_path / "ä b.png")
    text = '\ufeffpath;when;note;n\r\nä b.png;2024-05-01;"two\nlines; and ""quotes""";\r\n'
    (tmp_path / "m.csv").write_text(text, encoding="utf-8", newline="")
    [item] = open_source(tmp_path / "m.csv")
    assert item.metadata == {"when": "2024-05-01", "note": 'two\nlines; and "quotes"'}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "file,year\na.png,1\n", "has no column path or url"),
        ("m.csv", "path,year\n", "has no rows"),
        ("m.csv", "", "line 1: expected a header with the names of the columns"),
        ("m.csv", "path,path\na.png,b\n", "line 1: duplicate column 'path'"),
        ("m.csv", "path,y\n../x.png,2\n", "line 2: the path '../x.png' is not below"),
        ("m.csv", "path\n/etc/x.png\n", "line 2: the path '/etc/x.png' is not below"),
        ("m.csv", "path\na/../../x.png\n", "line 2: the path 'a/../../x.png' is not below"),
        ("m.csv", "id,path\n,a.png\n", "line 2: has no id"),
        ("m.csv", "path,y\n,1\n", "line 2: has no path"),
        ("m.csv", "path,y\na.png,1,2\n", "line 2: has 3 columns, the header has 2"),
        ("m.jsonl", '{"path": \n', "line 1: is not JSON"),
        ("m.jsonl", "3\n[]\n", "line 1: expected an object, as in {...} (1 more row cannot"),
        ("m.jsonl", '{"path": 3}\n', "line 1: path 3 is not text"),
        ("m.jsonl", '{"url": "file:///etc/passwd"}\n', "is not an http or https URL"),
        ("m.parquet", "nonsense", "broken Parquet"),
        ("m.parquet", "PAR1", "broken Parquet"),
        ("m.tar", "nonsense", "not a readable tar file"),
        ("m.xyz", "nonsense", "is neither a folder nor an IDX file"),
    ],
)
def test_errors_name_the_file_the_line_and_the_cause(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        "path,tag\na.png,x\n".encode("utf-16"),
        b"path,tag\ra.png,x\r",
        b"PATH,tag\nROOT/a.png,x\n",
        b"File_Name,tag\n./a.png,x\n",
    ],
    ids=["utf-16", "old line ends", "absolute", "case of a column"],
)
def test_tables_of_other_programs_are_read(tmp_path: Path, data: bytes) -> None:
    write(tmp_path / "a.png", png(9))
    write(tmp_path / "metadata.csv", data.replace(b"ROOT", os.fsencode(tmp_path)))
    source = open_source(tmp_path)
    assert not source.problems
    assert source[0].metadata == {"tag": "x"}


def test_patterns_match_accents_however_they_are_stored(tmp_path: Path) -> None:
    for name in ("cafe\u0301/a.png", "b.png"):
        write(tmp_path / name, png(9))
    for pattern in ("caf\u00e9", "CAFE\u0301/*"):
        source = open_source(tmp_path, options=SourceOptions(exclude=(pattern,)))
        assert [item.id.rpartition(":")[2] for item in source] == ["b.png"]


def test_rows_of_images_outside_of_the_folder_are_said(tmp_path: Path) -> None:
    for name in ("in/a.png", "out.png"):
        write(tmp_path / name, png(9))
    write(tmp_path / "in" / "metadata.csv", f"path,tag\n{tmp_path}/out.png,x\n".encode())
    (problem,) = open_source(tmp_path / "in").problems
    assert "is not an image in the folder" in problem.reason


def test_tables_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name in ("a.png", "Metadata.XLSX", "sub/metadata.csv", "metadata.csv.gz", "other.xlsx"):
        write(tmp_path / name, png(9))
    assert {each.reason: each.hint for each in open_source(tmp_path).skipped} == {
        "metadata table, not read: xlsx": "save it as metadata.csv",
        "metadata table, not read: csv.gz": "save it as metadata.csv",
        "metadata table below the root, not read": "move its rows into one in the root",
        "not an image": None,
    }


DEEP = "[" * 100_000 + "]" * 100_000

BROKEN_ROWS: dict[str, tuple[str, str | bytes, dict[int, str]]] = {
    "path twice": ("m.csv", "path,y\na.png,1\n./a.png,2\nb.png,3\n", {3: "same path as line 2"}),
    "id twice": ("m.csv", "id,path\na.png,a.png\na.png,c.png\nb.png,b.png\n", {3: "same id"}),
    "leaves": ("m.csv", "path\na.png\n../x.png\nb.png\n", {3: "is not below the manifest's"}),
    "no path": ("m.csv", "path,y\na.png,1\n,2\nb.png,3\n", {3: "has no path"}),
    "more cells": ("m.csv", "path,y\na.png,1\nc.png,1,2\nb.png,3\n", {3: "has 3 columns"}),
    "fewer cells": ("m.csv", "path,y\na.png,1\n\nc.png\nb.png,3\n", {4: "has 1 columns"}),
    "not UTF-8": ("m.csv", b"path,t\r\na.png,x\r\nc.png,\xff\r\nb.png,y", {3: "is not UTF-8"}),
    "open quote": ("m.csv", 'path,t\na.png,x\nc.png,"y\nb.png,z\n', {3: "not closed"}),
    "open quote at the end": (
        "m.csv",
        'path,t\na.png,"x\ny"\nb.png,y\nc.png,"y\n',
        {5: "not closed"},
    ),
    "mixed line ends": ("m.csv", "path,y\r\na.png,1\rc.png\nb.png,3\r\n", {3: "has 1 columns"}),
    "not JSON": ("m.jsonl", '{"path": "a.png"}\n\n{"path":\n{"path": "b.png"}', {3: "is not JSON"}),
    "no object": ("m.jsonl", '{"path": "a.png"}\n3\n{"path": "b.png"}', {2: "expected an object"}),
    "deep line": (
        "m.jsonl",
        f'{{"path": "a.png"}}\n{{"path": "c.png", "m": {DEEP}}}\n{{"path": "b.png"}}',
        {2: "nested too deep"},
    ),
    "long line": (
        "m.jsonl",
        f'{{"path": "a.png"}}\n{{"path": "{"c" * 3_000_000}"}}\n{{"path": "b.png"}}',
        {2: "longer than 1,000,000 bytes"},
    ),
    "deep element": (
        "m.json",
        '[{"path": "a.png", "t": "]},\\""}, {"path": "c.png", "m": '
        + DEEP
        + '}, {"path": "b.png"}]',
        {2: "nested too deep"},
    ),
    "element": ("m.json", '[{"path": "a.png"}, 3, {"path": "b.png"}]', {2: "expected an object"}),
    "long path": (
        "m.jsonl",
        f'{{"path": "a.png"}}\n{{"path": "{"c" * 3_000}.png"}}\n{{"path": "b.png"}}',
        {2: "longer than 2,000 characters"},
    ),
    "number": ("m.jsonl", '{"path": "a.png"}\n{"path": 3}\n{"path": "b.png"}', {2: "is not text"}),
}


@pytest.mark.parametrize("case", BROKEN_ROWS)
def test_a_broken_row_costs_no_other_row(case: str, tmp_path: Path) -> None:
    name, text, expected = BROKEN_ROWS[case]
    for image in ("a.png", "b.png"):
        write(tmp_path / image)
    path = write(tmp_path / name, text if isinstance(text, bytes) else text.encode())
    source = open_source(path)
    assert [item.id for item in source] == ["m:a.png", "m:b.png"]
    assert [item.image().shape for item in source] == [(8, 8, 3)] * 2
    assert len(source.problems) == len(expected)
    for problem, (number, reason) in zip(source.problems, expected.items(), strict=True):
        unit = "row" if name.endswith(".json") else "line"
        assert problem.uri == f"{path}, {unit} {number}"
        assert reason in problem.reason
    if "twice" not in case and case not in ("leaves", "long path"):
        assert list(source.unlisted_prefixes) == ["m:"]  # the broken row may be that of any image


HOSTILE_VALUES: dict[str, tuple[str, object]] = {
    "surrogate": ('"\\ud800"', "\\ud800"),
    "nul": ('"a\\u0000b"', "a\\x00b"),
    "digits": ("1" * 5_000, "1" * 5_000),
    "nan": ("NaN", None),
    "infinite": ("1e999", None),
    "deep": ("[" * 21 + "]" * 21, [[]]),
}


@pytest.mark.parametrize("case", HOSTILE_VALUES)
def test_values_of_a_manifest_are_made_storable(case: str, tmp_path: Path) -> None:
    text, expected = HOSTILE_VALUES[case]
    write(tmp_path / "a.png")
    path = write(tmp_path / "m.jsonl", f'{{"path": "a.png", "v": {text}, "w": 1}}'.encode())
    [item] = open_source(path)
    assert check_metadata(item.metadata, what="x")["w"] == 1
    if case != "deep":
        assert item.metadata.get("v") == expected
    path = write(tmp_path / "n.jsonl", f'{{"path": "a.png", "id": {text}}}'.encode())
    try:
        [item] = open_source(path)
    except SourceError:
        assert expected is None or len(str(expected)) > 2_000
    else:
        item.id.encode()
        assert item.image().shape == (8, 8, 3)


@pytest.mark.parametrize("path", ["a\\u0000.png", "\\ud800.png", "n" * 300 + ".png", "\\udcff.png"])
def test_paths_that_no_file_can_have_fail_alone(path: str, tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    text = f'{{"path": "{path}", "w": 1}}\n{{"path": "a.png"}}'
    broken, item = open_source(write(tmp_path / "m.jsonl", text.encode()))
    for text in (broken.id, broken.uri, broken.signature()):
        text.encode()
    with pytest.raises(ImageError, match="cannot be read"):
        broken.image()
    assert item.image().shape == (8, 8, 3)


def test_a_table_that_needs_too_much_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for name in ("m.csv", "m.json", "m.jsonl", "metadata.csv"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 42)
        with pytest.raises(SourceError, match="GB of memory"):
            open_source(tmp_path / name)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    root = tmp_path / "web"
    write(root / "a.png", png(9))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_manifest_of_urls(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"url": f"{web}/a.png", "k": 1}) + "\n" + json.dumps({"url": f"{web}/no.png"})
    )
    options = SourceOptions(allow_private_urls=True)
    item, missing = open_source(tmp_path / "m.jsonl", options=options)
    assert item.image()[0, 0, 0] == 9
    assert item.metadata == {"k": 1}
    assert open_items([item.uri], options=options)[0].image()[0, 0, 0] == 9
    with pytest.raises(ImageError, match="responded 404"):
        missing.image()
    with pytest.raises(ImageError, match="not on the public internet"):
        next(iter(open_source(tmp_path / "m.jsonl"))).image()
    monkeypatch.setenv("LOOKALIKE_OFFLINE", "1")
    with pytest.raises(ImageError, match="LOOKALIKE_OFFLINE"):
        item.image()


# ----------------------------------------------------------------------------------- shards


def tar(path: Path, entries: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def test_tar_shards_as_written_by_img2dataset(tmp_path: Path) -> None:
    for shard in range(2):
        entries: dict[str, bytes] = {}
        for i in range(3):
            key = f"{shard:05}{i:04}"
            entries |= {
                f"{key}.jpg": png(10 * shard + i),
                f"{key}.txt": b"a caption",
                f"{key}.json": json.dumps({"url": "u", "width": i, "exif": None}).encode(),
            }
        tar(tmp_path / f"{shard:05}.tar", entries)
        pq.write_table(pa.table({"url": ["u"]}), tmp_path / f"{shard:05}.parquet")
        (tmp_path / f"{shard:05}_stats.json").write_text("{}")
    source = open_source(tmp_path)
    name = tmp_path.name
    assert [item.id for item in source][2:4] == [
        f"{name}:00000/000000002",
        f"{name}:00001/000010000",
    ]
    assert [int(item.image()[0, 0, 0]) for item in source] == [0, 1, 2, 10, 11, 12]
    assert source[4].metadata == {"caption": "a caption", "url": "u", "width": 1}
    assert open_items([source[4].uri])[0].image()[0, 0, 0] == 11
    one = open_source(tmp_path / "00001.tar")
    assert one[0].id == "00001:00001/000010000"


def test_the_images_of_a_truncated_tar_are_used(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {f"{i}.png": png(i) for i in range(4)})
    path.write_bytes(path.read_bytes()[: 512 * 5 + 100])
    source = open_source(path)
    assert source.problems[0].reason.startswith("damaged after ")
    assert list(source.unlisted_prefixes) == ["x:x/"]
    assert 1 <= len(source) < 4
    assert source[0].image().shape == (8, 8, 3)


def test_of_two_images_with_one_key_the_second_is_counted(tmp_path: Path) -> None:
    source = open_source(tar(tmp_path / "x.tar", {"a.png": png(3), "a.jpg": png()}))
    assert [int(item.image()[0, 0, 0]) for item in source] == [3]
    assert [(each.reason, each.count, each.example) for each in source.skipped] == [
        ("second image of a key", 1, "a.jpg")
    ]


@pytest.mark.parametrize("column", ["jpg", "image"])
def test_parquet_shards_with_image_bytes(column: str, tmp_path: Path) -> None:
    data: list[object] = [png(i) for i in range(150)]
    data[3] = None
    if column == "image":  # as on the Hugging Face hub
        data = [{"bytes": each, "path": "x"} for each in data]
    columns = {
        column: data,
        "key": [f"k{i}" for i in range(150)],
        "status": ["failed_to_download" if i == 3 else "success" for i in range(150)],
    }
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet", row_group_size=40)
    for spec in (tmp_path, tmp_path / "00000.parquet"):
        source = open_source(spec)
        assert len(source) == 150
        assert source[7].id.endswith(":00000/k7")
        assert source[7].metadata == {"status": "success"}
        order = [149, 0, 64, 63, 5, 128, 1]
        assert [int(source[i].image()[0, 0, 0]) for i in order] == order
        with pytest.raises(ImageError, match=r"has no image \(status failed_to_download\)"):
            source[3].image()
    assert open_items([f"{tmp_path / '00000.parquet'}#9"])[0].image()[0, 0, 0] == 9


def test_hostile_members_of_a_tar_cost_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for name, data in {
            "../../a.png": png(1),
            "/etc/b.png": png(2),
            "c.png": png(3),
            "c.json": DEEP.encode(),
            "c.txt": b"x" * 2_000_000,
            "d.png": png(4),
            "d.json": b'{"v": "\\ud800", "n": NaN}',
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for name, kind in (("e.png", tarfile.SYMTYPE), ("f.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/dev/zero"
            file.addfile(info)
        sparse = tarfile.TarInfo("g.png")
        sparse.type = tarfile.GNUTYPE_SPARSE
        file.addfile(sparse)
        named = tarfile.TarInfo("h.png")
        named.pax_headers = {"path": "h\0\udcff.png"}
        named.size = len(png(5))
        file.addfile(named, io.BytesIO(png(5)))
    source = open_source(path)
    items = {item.id: item for item in source}
    assert list(items) == [
        *("x:x/../../a", "x:x//etc/b", "x:x/c", "x:x/d", "x:x/h\\x00\\xff"),
    ]
    assert [int(item.image()[0, 0, 0]) for item in source] == [1, 2, 3, 4, 5]
    assert [item.metadata for item in source] == [{}, {}, {}, {"v": "\\ud800"}, {}]
    assert items["x:x/c"].notes == ("metadata of a shard that cannot be read, left out",)
    assert {each.reason: each.count for each in source.skipped} == {"not a regular file": 3}


def lying_tar(path: Path, sizes: dict[str, int], end: int) -> Path:
    """Write a tar of headers whose members have other sizes than they say."""
    data = bytearray()
    for name, size in sizes.items():
        info = tarfile.TarInfo(name)
        info.size = size
        data += info.tobuf(tarfile.GNU_FORMAT)
    with path.open("wb") as file:
        file.write(bytes(data))
        file.truncate(end)
    return path


def test_a_member_that_is_larger_than_memory_fails_alone(tmp_path: Path) -> None:
    source = open_source(lying_tar(tmp_path / "x.tar", {"a.png": 1 << 41}, 1 << 42))
    [item] = source
    with pytest.raises(ImageError, match=r"has 2,199,023,255,552 bytes, more than"):
        item.image()


def test_a_tar_of_headers_alone_is_no_tar(tmp_path: Path) -> None:
    """A name of a terabyte is not read into memory, and 5,000 names in a row not recursed into."""
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info = tarfile.TarInfo("a.png")
        info.type, info.size = kind, 1 << 40
        path = tmp_path / "long.tar"
        with path.open("wb") as file:
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.truncate(1 << 41)
        with pytest.raises(SourceError, match=r"a header has over|not a readable tar"):
            open_source(path)
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
    chain = (info.tobuf(tarfile.GNU_FORMAT) + b"a\0" + bytes(510)) * 5_000
    with pytest.raises(SourceError, match="not a readable tar"):
        open_source(write(tmp_path / "chain.tar", chain))


def test_a_broken_shard_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    tar(tmp_path / "r" / "0.tar", {"a.png": png(1)})
    write(tmp_path / "r" / "1.tar", b"nonsense")
    source = open_source(tmp_path / "r")
    assert [item.id for item in source] == ["r:0/a"]
    [problem] = source.problems
    assert problem.uri == str(tmp_path / "r" / "1.tar")
    assert problem.reason.startswith("not a readable tar file")
    assert list(source.unlisted_prefixes) == ["r:1/"]


def test_hostile_values_in_parquet(tmp_path: Path) -> None:
    """Invalid text, times that Python has not, and what JSON has not; other values stay."""
    write(tmp_path / "a.png")
    invalid = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xffx")]
    )
    deep: object = "x"
    for _ in range(60):
        deep = {"a": deep}
    columns = {
        "path": pa.array(["a.png"]),
        "invalid": invalid,
        "year": pa.array([(1 << 62) // 1_000], pa.timestamp("us")),
        "nanoseconds": pa.array([1_600_000_000_000_000_001], pa.timestamp("ns")),
        "duration": pa.array([1_500_000], pa.duration("us")),
        "time": pa.array([1], pa.time64("us")),
        "decimal": pa.array(["1.50"]).cast(pa.decimal128(10, 2)),
        "binary": pa.array([[b"x"]]),
        "nan": pa.array([float("nan")]),
        "unsigned": pa.array([2**64 - 1], pa.uint64()),
        "deep": pa.array([deep]),
        "list": pa.array([[1, None, 2]]),
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet", store_schema=False)
    source = open_source(tmp_path / "m.parquet")
    [item] = source
    metadata = dict(item.metadata)
    assert check_metadata(metadata, what="x") == metadata
    assert metadata.pop("nanoseconds").startswith("2020-09-13")
    assert metadata.pop("year")
    assert metadata == {
        "invalid": "\\xffx",
        "duration": metadata.get("duration"),
        "time": "00:00:00.000001",
        "decimal": 1.5,
        "unsigned": 2**64 - 1,
        "list": [1, None, 2],
        "binary": [None],
    }
    [problem] = source.problems
    assert problem.reason == "column 'deep' is nested over 20 levels deep, not read"


def test_a_text_that_a_parquet_file_repeats_is_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 50 kB that would take 20 GB."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ["x" * 1_000_000])
    table = pa.table({"path": [f"{i}.png" for i in range(20_000)], "text": text})
    pq.write_table(table, tmp_path / "m.parquet", store_schema=False)
    monkeypatch.setattr(memory.BUDGET, "_fixed", 100_000_000)
    source = open_source(tmp_path / "m.parquet")
    assert len(source) == 20_000
    assert len(str(source[19_999].metadata["text"])) == 1_000_000
    monkeypatch.setattr(memory.BUDGET, "_fixed", 1_000_000)
    with pytest.raises(SourceError, match="GB of memory"):
        open_source(tmp_path / "m.parquet")


@pytest.mark.parametrize("shards", [False, True])
def test_a_broken_row_group_costs_no_other(shards: bool, tmp_path: Path) -> None:
    rows = 30
    for i in range(rows):
        write(tmp_path / f"{i}.png", png(i))
    columns: dict[str, list[object]] = {"path": [f"{i}.png" for i in range(rows)]}
    if shards:
        columns = {"image": [png(i) for i in range(rows)], "n": list(range(rows))}
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=10, compression="zstd")
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(bytes(data))
    source = open_source(path)
    if not shards:
        assert [item.id for item in source] == [f"m:{i}.png" for i in (*range(10), *range(20, 30))]
        [problem] = source.problems
        assert problem.uri == f"{path}, rows 11 to 20"
        assert list(source.unlisted_prefixes) == ["m:"]
        return
    read: list[int | None] = []
    for item in source:
        try:
            read.append(int(item.image()[0, 0, 0]))
        except ImageError:
            read.append(None)
    assert read == [*range(10), *[None] * 10, *range(20, 30)]


def test_rows_that_all_swallow_the_others_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line opens a text that no further line closes."""
    table = tmp_path / "table.csv"
    table.write_text("path,name\n" + 'x"y,"z\n' * 200 + "a.png,a\n")
    problems = tables.read_table(table).problems
    assert len(problems) == 200
    assert "not closed" in problems[0].reason
    monkeypatch.setattr(tables, "_MAX_REREAD", 500)
    problems = tables.read_table(table).problems
    assert [problem.uri for problem in problems] == [f"{table}, line {n}" for n in (2, 3, 4)]
    assert "the lines to 202 are not read either" in problems[-1].reason


TYPES: dict[str, tuple[list[str], list[object]]] = {
    "integers": (["1", " -20 ", "", "7"], [1, -20, None, 7]),
    "long integers": (["1", "9" * 30, ""], [1, int("9" * 30), None]),
    "integers over 1,000 digits": (["1", "9" * 1_001], ["1", "9" * 1_001]),
    "floats": (["1", "2.5", "-3e2", ""], [1.0, 2.5, -300.0, None]),
    "a float and a long integer": (["2.5", "9007199254740993"], [2.5, 9007199254740993]),
    "booleans": (["true", "False", "TRUE", ""], [True, False, True, None]),
    "numbers with zeros before them": (["007", "1"], ["007", "1"]),
    "numbers of Python": (["1_0", "+1", "inf"], ["1_0", "+1", "inf"]),
    "numbers and texts": (["1", "x", ""], ["1", "x", None]),
    "numbers in two lines": (["5", '"5\n6"'], ["5", "5\n6"]),
    "nothing": (["", " "], [None, None]),
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("rows_at_a_time", [1, 2, 4_096])
@pytest.mark.parametrize("broken", [False, True])
def test_a_column_of_csv_has_the_type_of_all_its_values(
    name: str, rows_at_a_time: int, broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_MIN_CHUNK_ROWS", rows_at_a_time)
    monkeypatch.setattr(tables, "_CHUNK_CELLS", 1)
    cells, expected = TYPES[name]
    table = tmp_path / "table.csv"
    lines = ["key,value", *(f"k,{cell}" for cell in cells), *(["a,b,c"] if broken else [])]
    table.write_text("\n".join(lines) + "\n")
    read = tables.read_table(table)
    assert [row.get("value") for row in read.rows] == expected
    assert [type(row.get("value")) for row in read.rows] == [type(value) for value in expected]
    assert len(read.problems) == broken
    assert list(read.only("key")) == [{"key": "k"}] * len(cells)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_of_csv_after_line_ends_in_cells_keep_their_lines(end: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    lines = ["path,text", 'a.png,"one', "two", 'three"', "", "b.png,x"]
    table.write_bytes(end.join(lines).encode())
    read = tables.read_table(table)
    assert [read.place(row) for row in (0, 1)] == [f"{table}, line 2", f"{table}, line 6"]
    assert read.rows[0]["text"] == end.join(["one", "two", "three"])
