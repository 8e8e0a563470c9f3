"""Instance retrieval end to end: relevance by column and by ground-truth file.

The miniature has the formats of the AI Meets Beauty challenge: a manifest of ids, URLs and texts,
images on a server, shards as img2dataset writes them, and a ground-truth file.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.gallery.gallery import Gallery
from tests.integration.test_cli import lookalike, run

TEXTS = [
    'Lipstick "Rouge", 3,5 g',
    "Crème de jour\nSPF 30, 50 ml",
    "口紅 赤 #12",
    "Nail polish; two coats",
    "Eau d'été",
    *(f"plain {number}" for number in range(15)),
]
BROKEN, MISSING, UNKNOWN = "900097", "900098", "900099"
IDS = [f"9000{number:02}" for number in range(1, 21)]
DUPLICATES = (IDS[2], IDS[3])
"""The third and the fourth product have the same image."""

DISTANT = IDS[19]
"""An image that is similar to no query."""

GROUND_TRUTH = f"""\
query,gt1,gt2
v000101,{IDS[0]},,
v000102.jpg,{IDS[1]},{DISTANT}
v000103,{DUPLICATES[0]},{DUPLICATES[1]}
v000104,{UNKNOWN}
v000105,{IDS[5]},{UNKNOWN},{BROKEN},
v000109,{DISTANT}
v000106,{MISSING}
v000108,{IDS[0]}
v000999,{IDS[0]}
"""


def picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((120, 90), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the manifest and the query photos, while a server has the images."""
    folder = tmp_path_factory.mktemp("instance")
    web = folder / "web"
    web.mkdir()
    for number, product in enumerate(IDS):
        same = IDS.index(DUPLICATES[0]) if product == DUPLICATES[1] else number
        image = Image.new("RGB", (120, 90)) if product == DISTANT else picture(same)
        (web / f"{number}.jpg").write_bytes(jpeg(image))
    (web / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(web)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    rows = [(p, f"{base}/{i}.jpg", t) for i, (p, t) in enumerate(zip(IDS, TEXTS, strict=True))]
    rows += [(BROKEN, f"{base}/broken.jpg", "broken"), (MISSING, f"{base}/none.jpg", "missing")]
    with (folder / "products.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "url", "text"), *rows])
    photos = folder / "val"
    photos.mkdir()
    for query, number in (
        (101, 0),
        (102, 1),
        (103, 2),
        (104, 30),
        (105, 5),
        (106, 31),
        (107, 3),
        (109, 6),
    ):
        photo = picture(number).crop((6, 4, 116, 88)).rotate(2)
        (photos / f"v000{query}.jpg").write_bytes(jpeg(photo))
    (photos / "v000108.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (folder / "val.csv").write_text(GROUND_TRUTH)
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def write_shard(work: Path) -> None:
    """Download the images of the manifest as img2dataset does, with the column id."""
    (work / "shards").mkdir()
    with (
        (work / "products.csv").open(encoding="utf-8", newline="") as table,
        tarfile.open(work / "shards" / "00000.tar", "w") as tar,
    ):
        for number, row in enumerate(csv.DictReader(table)):
            key = f"{number:09d}"
            try:
                with urllib.request.urlopen(row["url"], timeout=10) as reply:
                    image = reply.read()
            except urllib.error.HTTPError as error:
                error.close()
                continue
            facts = {"id": row["id"], "url": row["url"], "key": key, "status": "success"}
            facts |= {"caption": row["text"], "error_message": None, "width": 120, "exif": "{}"}
            for suffix, data in (
                ("jpg", image),
                ("json", json.dumps(facts, indent=4).encode()),
                ("txt", row["text"].encode()),
            ):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def galleries(work: Path) -> dict[str, Path]:
    """Galleries of the products from their URLs and from a shard; broken images are listed."""
    write_shard(work)
    for name, source, failures in (
        ("web", "products.csv", ("broken.jpg", "none.jpg")),
        ("tar", "shards", (f"00000.tar#{len(IDS)}",)),
    ):
        options = ["--encoder", "pixels", *(["--allow-private-urls"] if name == "web" else [])]
        process = lookalike("index", f"{name}.gallery", source, *options, cwd=work)
        assert process.returncode == 1, process.stderr
        assert f"{len(IDS)} added" in process.stdout
        for failure in failures:
            assert failure in process.stderr
    return {name: work / f"{name}.gallery" for name in ("web", "tar")}


def by_hand(gallery: Path, work: Path) -> dict[str, float]:
    """Score the five usable queries by the definitions."""
    opened = Gallery.open(gallery)
    truth = {
        101: IDS[:1],
        102: [IDS[1], DISTANT],
        103: list(DUPLICATES),
        105: IDS[5:6],
        109: [DISTANT],
    }
    totals = dict.fromkeys(("precision", "map", "map_retrieved", "recall", "recall_at_1"), 0.0)
    for query, relevant in truth.items():
        hits = opened.search(work / "val" / f"v000{query}.jpg", k=7)
        marks = [product_of(hit) in relevant for hit in hits]
        gains = [sum(marks[: k + 1]) / (k + 1) for k, mark in enumerate(marks) if mark]
        totals["precision"] += sum(marks) / 7 / len(truth)
        totals["map"] += sum(gains) / min(7, len(relevant)) / len(truth)
        totals["map_retrieved"] += sum(gains) / max(1, len(gains)) / len(truth)
        totals["recall"] += sum(marks) / len(relevant) / len(truth)
        totals["recall_at_1"] += marks[0] / len(truth)
    return totals


def product_of(hit: la.Hit) -> str:
    return str(hit.metadata.get("id") or hit.id.partition(":")[2])


@pytest.mark.parametrize("name", ["web", "tar"])
def test_the_miniature_of_perfect_500k(name: str, galleries: dict[str, Path], work: Path) -> None:
    arguments = (
        "evaluate",
        f"{name}.gallery",
        "val",
        "--protocol",
        "perfect-500k",
        "--ground-truth",
    )
    process = lookalike(*arguments, "val.csv", "--json", cwd=work)
    assert process.returncode == 1
    document = json.loads(process.stdout)
    for score, value in by_hand(galleries[name], work).items():
        assert document[score] == pytest.approx(value), score
        low, high = document[f"{score}_interval"]
        assert low <= document[score] <= high
    assert (document["k"], document["queries"], document["skipped"]) == (7, 5, 3)
    assert document["map"] < document["map_retrieved"]
    assert document["protocol"]["name"] == "perfect-500k"
    assert document["relevance"] == {
        "by": "ground_truth",
        "file": "val.csv",
        "left_out": 1,
        "unknown_queries": ["v000999"],
        "unknown_rows": [UNKNOWN, BROKEN, MISSING],
    }
    assert document["precision_ceiling"] == pytest.approx((1 + 2 + 2 + 1 + 1) / 5 / 7)
    assert document["per_label"] == {}
    notes = process.stderr
    assert "val.csv: 1 query left out, not listed in the file" in notes
    assert "val.csv: 1 query is not in the source: v000999" in notes
    assert f"3 relevant rows are not in the gallery: {UNKNOWN}, {BROKEN}, {MISSING}" in notes
    assert f"v000104.jpg: its relevant rows are not in the gallery: {UNKNOWN}" in notes
    assert "val/v000108.jpg: broken image" in notes
    assert "3 queries skipped" in notes


def test_the_table_has_map_first_and_notes_the_precision_ceiling(
    galleries: dict[str, Path], work: Path
) -> None:
    arguments = ("web.gallery", "val", "--protocol", "perfect-500k", "--ground-truth", "val.csv")
    table = lookalike("evaluate", *arguments, cwd=work).stdout
    lines = table.splitlines()
    assert " ".join(lines[:2]).startswith("perfect-500k: 5 queries from ")
    [columns] = [" ".join(line.split()) for line in lines if "encoder" in line]
    assert columns == "encoder mAP@7 mAP retrieved R@1 recall@7"
    assert "relevant results are listed in val.csv; mAP@7 divides by min(7, relevant rows)" in table
    assert "precision@7 cannot exceed 0.2000 here" in table
    assert "queries have 1.40 relevant rows on average" in table
    assert "* pixels: mAP@7 " in table
    assert "most confused" not in table


def test_the_report_marks_correct_hits_without_labels(
    galleries: dict[str, Path], work: Path
) -> None:
    arguments = ("web.gallery", "val", "--protocol", "perfect-500k", "--ground-truth", "val.csv")
    lookalike("evaluate", *arguments, "--report", "r.html", cwd=work)
    page = (work / "r.html").read_text()
    for text in (
        "Search quality",
        "AI Meets Beauty challenge",
        "Relevant rows are listed in val.csv",
        "mAP@7 (retrieved)",
        "cannot exceed 0.2000",
        "<h2>Relevant rows</h2>",
        "<td>1</td><td>3</td>",
        "<td>2</td><td>2</td>",
        "val.csv: 1 query is not in the source: v000999",
        "all correct hits before incorrect ones",
    ):
        assert text in page, text
    for label in ("Confused labels", "Precision by label", "Images by label"):
        assert label not in page


def test_rows_of_the_gallery_are_queries_by_default(galleries: dict[str, Path], work: Path) -> None:
    own = work / "own.csv"
    own.write_text(f"{DUPLICATES[0]},{DUPLICATES[0]},{DUPLICATES[1]}\n{IDS[0]},{IDS[0]}\n")
    process = lookalike(
        "evaluate", "web.gallery", "--ground-truth", own, "-k", 1, "--json", cwd=work
    )
    document = json.loads(process.stdout)
    assert (document["queries"], document["map"], document["precision_ceiling"]) == (1, 1, 1)
    assert "the ground truth lists no row but the query itself" in process.stderr
    assert f"{own}: 18 queries left out, not listed in the file" in process.stderr


DRAWINGS = 40


@pytest.fixture(scope="module")
def vendors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty drawings by each of two vendors with code points, one of them not shared."""
    folder = tmp_path_factory.mktemp("vendors")
    for vendor, shift in (("one", 0), ("two", 9)):
        (folder / vendor).mkdir()
        rows = []
        for code in range(DRAWINGS):
            drawing = np.asarray(picture(code), np.int16) + shift
            name = f"{vendor}-{code}.png"
            Image.fromarray(np.clip(drawing, 0, 255).astype(np.uint8)).save(folder / vendor / name)
            point = {6: "", 7: f"{vendor}-only"}.get(code, f"1F6{code:02}")
            rows.append(f"{name},{point}")
        (folder / vendor / "metadata.csv").write_text("\n".join(["path,codepoint", *rows]))
    run("index", "one.gallery", "one", "--encoder", "pixels", cwd=folder)
    return folder


def test_relevance_by_column(vendors: Path) -> None:
    process = lookalike(
        "evaluate",
        "one.gallery",
        "two",
        "--match",
        "codepoint",
        "--baselines",
        "--json",
        cwd=vendors,
    )
    assert process.returncode == 1
    assert "two-6.png: has no codepoint" in process.stderr
    assert "two-7.png: no other row has its codepoint, 'two-only'" in process.stderr
    document = json.loads(process.stdout)
    assert document["relevance"] == {"by": "match", "column": "codepoint"}
    assert (document["queries"], document["skipped"]) == (DRAWINGS - 2, 2)
    assert (
        document["recall_at_1"]
        == document["map"]
        == document["map_retrieved"]
        == document["recall"]
        == 1
    )
    assert (
        document["precision"]
        == pytest.approx(document["precision_ceiling"])
        == pytest.approx(1 / 7)
    )
    assert document["per_label"] == {}
    chance = document["baselines"]["chance"]
    assert chance["recall_at_1"] == pytest.approx(1 / DRAWINGS)
    assert chance["recall"] == pytest.approx(7 / DRAWINGS)
    assert chance["map"] == pytest.approx(sum(1 / rank for rank in range(1, 8)) / DRAWINGS)
    assert chance["map_retrieved"] == pytest.approx(chance["map"])
    evaluation = la.evaluate(
        Gallery.open(vendors / "one.gallery"), vendors / "two", match="codepoint"
    )
    assert (evaluation.labels, evaluation.confusion.size) == ((), 0)
    assert [sum(example.correct) for example in evaluation.examples] == [1] * (DRAWINGS - 2)
    table = lookalike("evaluate", "one.gallery", "two", "--match", "codepoint", cwd=vendors).stdout
    assert "relevant results have the query's codepoint" in table
    assert "precision@7 cannot exceed 0.1429 here" in table
    lookalike(
        "evaluate", "one.gallery", "two", "--match", "codepoint", "--report", "m.html", cwd=vendors
    )
    page = (vendors / "m.html").read_text()
    assert "Relevant rows have the query&#39;s codepoint" in page
    assert "<td>1F600</td>" not in page


MISTAKES: dict[str, tuple[list[str], str]] = {
    "missing file": (["--ground-truth", "none.csv"], "none.csv: cannot be read (No such file"),
    "folder": (["--ground-truth", "two"], "two: cannot be read (is a folder)"),
    "empty file": (["--ground-truth", "empty.csv"], "empty.csv: empty; expected CSV"),
    "one column": (["--ground-truth", "one.csv"], "one.csv: only one column; expected CSV"),
    "image": (["--ground-truth", "two/two-1.png"], "two-1.png, line 1: is not UTF-8 text"),
    "other names": (["--ground-truth", "other.csv"], "lists none of the 40 queries of "),
    "unknown rows": (
        ["--ground-truth", "unknown.csv"],
        "no query with a relevant row among 40 images; the first, ",
    ),
    "ambiguous": (["--ground-truth", "twice.csv"], "twice.csv, line 1: 'same' is ambiguous: "),
    "unknown column": (
        ["--match", "codepiont"],
        "no values in column 'codepiont' among 40 rows; columns: ",
    ),
    "both": (
        ["--match", "codepoint", "--ground-truth", "t.csv"],
        "cannot be combined with --ground-truth",
    ),
    "no ground truth": (
        ["--protocol", "perfect-500k"],
        "--protocol perfect-500k needs --ground-truth",
    ),
    "other k": (
        ["--protocol", "perfect-500k", "--ground-truth", "other.csv", "-k", "5"],
        "-k 5 contradicts --protocol perfect-500k, which counts 7 results",
    ),
    "unknown protocol": (
        ["--protocol", "perfect500k", "--ground-truth", "other.csv"],
        "unknown protocol 'perfect500k': did you mean 'perfect-500k'?",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_errors_are_one_line(name: str, vendors: Path) -> None:
    for file, text in {
        "empty.csv": "",
        "one.csv": "two-1\ntwo-2\n",
        "other.csv": "x1,y1\nx2,y2\n",
        "unknown.csv": "two-1,y1\n",
        "twice.csv": "two-1,same\n",
    }.items():
        (vendors / file).write_text(text)
    for twin in ("a", "b"):
        (vendors / "twins" / twin).mkdir(parents=True, exist_ok=True)
        picture(ord(twin)).save(vendors / "twins" / twin / "same.png")
    gallery = "one.gallery"
    if name == "ambiguous":
        gallery = "twins.gallery"
        lookalike("index", gallery, "twins", "--encoder", "pixels", cwd=vendors)
    arguments, message = MISTAKES[name]
    process = lookalike("evaluate", gallery, "two", *arguments, cwd=vendors)
    assert process.returncode == 2, process.stdout + process.stderr
    assert message in process.stderr
    assert "Traceback" not in process.stderr
    assert sum("error:" in line for line in process.stderr.splitlines()) == 1
    assert process.stdout == ""


@pytest.mark.parametrize(
    "arguments", [("--match", "x"), ("--ground-truth", "x.csv"), ("--protocol", "perfect-500k")]
)
def test_robustness_takes_no_ground_truth(arguments: tuple[str, str], vendors: Path) -> None:
    process = lookalike("evaluate", "robustness", "one.gallery", *arguments, cwd=vendors)
    assert process.returncode == 2
    assert f"no such option {arguments[0]}" in process.stderr


def test_help_says_what_json_holds(vendors: Path) -> None:
    table: Any = " ".join(run("evaluate", "--help").split())
    for word in (
        "--match",
        "--ground-truth",
        "--protocol",
        "map_retrieved",
        "recall_at_1",
        "[default: 7]",
    ):
        assert word in table
