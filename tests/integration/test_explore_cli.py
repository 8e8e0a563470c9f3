"""lookalike explore and keyword search, as commands and over HTTP."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.errors import InputError, MissingRowError, ServiceError
from lookalike.gallery.gallery import Gallery
from lookalike.server.settings import LOOPBACK, ServeSettings
from tests.integration.test_cli import lookalike, run
from tests.serving import Serving, serving
from tests.unit.test_explore import collection


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of digits, and one of scenes some of which are copies."""
    folder = tmp_path_factory.mktemp("explore")
    run("index", "d.gallery", "dataset:digits/train", "--encoder", "pixels", cwd=folder)
    collection(folder / "scenes")
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_map_is_written_with_its_quality(work: Path) -> None:
    summary = json.loads(run("explore", "map", "d.gallery", "-o", "map.html", "--json", cwd=work))
    assert summary["images"] > 1_000
    assert summary["trustworthiness"] > 0.97
    assert 0.1 < summary["neighborhood_preservation"] <= 1
    assert b"<canvas" not in (work / "map.html").read_bytes()[:2_000]
    again = run("explore", "map", "d.gallery", cwd=work)
    assert summary["created_at"] in again


def test_clusters_of_digits_are_named_by_their_labels(work: Path) -> None:
    result = json.loads(run("explore", "clusters", "d.gallery", "-o", "c", "--json", cwd=work))
    assert {each["label"] for each in result} == set("0123456789")
    rows = table(work / "c" / "clusters.csv")
    assert {row["name"] for row in rows} <= {*"0123456789", ""}
    assert sum(each["images"] for each in result) == sum(row["cluster"] != "" for row in rows)
    with Image.open(work / "c" / "sheet.png") as sheet:
        assert sheet.width > 300


def test_outliers_come_with_their_lof_scores(work: Path) -> None:
    outliers = json.loads(run("explore", "outliers", "d.gallery", "-k", 5, "--json", cwd=work))
    scores = [each["lof_score"] for each in outliers]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 1.2


def test_duplicates_are_listed_and_not_deleted(work: Path) -> None:
    before = sorted((work / "scenes").iterdir())
    result = json.loads(
        run("explore", "duplicates", "made.gallery", "-o", "dup", "--json", cwd=work)
    )
    assert len(result["groups"]) == 4
    assert len(result["redundant"]) == 4
    rows = table(work / "dup" / "duplicates.csv")
    assert [row["keep"] for row in rows].count("yes") == 4
    assert {row["id"] for row in rows if row["keep"] == "no"} == set(result["redundant"])
    decided = [row["decided_by"] for row in rows if row["keep"] == "no"]
    assert sorted(decided) == ["file size", "id", "lossless", "pixels"]
    assert result["no_content"] == []
    assert sorted((work / "scenes").iterdir()) == before
    text = run("explore", "duplicates", "made.gallery", cwd=work)
    assert "nothing was deleted" in text
    assert "4 duplicate groups, 4 redundant files (kept: largest)" in text
    assert "altered copies of" in text
    assert "decided by" in text
    preferred = run(
        *("explore", "duplicates", "made.gallery", "--exact", "--prefer", "x*", "--prefer", "0?.*"),
        cwd=work,
    )
    assert "preferred path" in preferred
    assert "scenes:00.png" in preferred.splitlines()[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("map", "none.gallery"), "not a gallery"),
        (("map", "d.gallery", "-o", "m.html", "--thumbnails", "-1"), "--thumbnails -1"),
        (("clusters", "d.gallery", "-o", "scenes"), "already exists"),
        (("outliers", "d.gallery", "-k", "0"), "-k 0 must be at least 1"),
        (("duplicates", "made.gallery", "--keep", "best"), "best"),
        (("duplicates", "made.gallery", "--max-distance", "-1"), "--max-distance -1"),
        (("duplicates", "d.gallery", "--max-distance", "1000"), "smaller --max-distance"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    work: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = lookalike("explore", *arguments, cwd=work)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_keyword_search_alone_and_fused_with_images(work: Path) -> None:
    line = json.loads(run("search", "d.gallery", "--keywords", "7", "-k", 5, "--json", cwd=work))
    assert [hit["metadata"]["label"] for hit in line["hits"]] == ["7"] * 5
    query = line["hits"][0]["id"]
    fused = run(
        *("search", "d.gallery", "--id", query, "--keywords", "1", "-k", 3, "--json"), cwd=work
    )
    assert [hit["metadata"]["label"] for hit in json.loads(fused)["hits"]] == ["1"] * 3
    done = lookalike("search", "d.gallery", "--keywords", "?", cwd=work)
    assert done.returncode == 2
    assert "no word" in done.stderr


@pytest.fixture(scope="module")
def served(work: Path) -> Iterator[Serving]:
    run("explore", "map", "d.gallery", cwd=work)
    run("label", "suggest", "d.gallery", "-k", 40, "--save", cwd=work)
    galleries = {name: Gallery.open(work / f"{name}.gallery") for name in ("d", "made")}
    with serving(galleries, ServeSettings(hosts=LOOPBACK)) as service:
        yield service


def test_the_saved_map_is_served(served: Serving) -> None:
    result = served.client().json("GET", "/v1/galleries/d/map")
    gallery = served.service.handle("d").gallery
    assert result["ids"] == list(gallery.store.ids())
    assert not result["stale"]
    points = np.frombuffer(base64.b64decode(result["points"]), "<u2")
    assert len(points) == 2 * len(result["ids"])
    with pytest.raises(ServiceError, match="No map yet"):
        served.client().json("GET", "/v1/galleries/made/map")


def test_a_labeling_session_is_served_with_label_coverage(served: Serving, work: Path) -> None:
    client = served.client()
    session = client.json("GET", "/v1/galleries/d/labeling")
    suggested = [row_id for group in session["groups"] for row_id in group]
    assert len(set(suggested)) == 40
    assert len(session["groups"]) == len(session["homogeneity"]) == 5
    assert all(0 < each <= 1 for each in (*session["homogeneity"], session["min_homogeneity"]))
    records = {record.id: record for record in served.service.handle("d").gallery.store.records()}
    truth = {row_id: [str(records[row_id].metadata["label"])] for row_id in suggested}
    coverage = client.json("POST", "/v1/galleries/d/labeling/coverage", {"labels": truth})
    assert coverage["labeled"] == 40
    assert coverage["images"] == session["images"]
    assert sum(each["labeled"] for each in coverage["labels"]) == 40
    assert sum(each["covered"] for each in coverage["labels"]) == coverage["covered"]
    assert coverage["covered"] > 0.5 * coverage["images"]
    few = dict(list(truth.items())[:3])
    assert (
        client.json("POST", "/v1/galleries/d/labeling/coverage", {"labels": few})["covered"]
        <= coverage["covered"]
    )
    alone = {suggested[0]: ["one"]}
    one = client.json("POST", "/v1/galleries/d/labeling/coverage", {"labels": alone})
    assert one["covered"] == 0
    with pytest.raises(MissingRowError, match="nobody"):
        client.json("POST", "/v1/galleries/d/labeling/coverage", {"labels": {"nobody": ["x"]}})
    with pytest.raises(InputError):
        client.json("POST", "/v1/galleries/d/labeling/coverage", {"labels": {suggested[0]: []}})
    with pytest.raises(ServiceError, match="No suggestions"):
        client.json("GET", "/v1/galleries/made/labeling")


def test_keyword_search_over_http(served: Serving) -> None:
    remote = served.client().gallery("d")
    local = served.service.handle("d").gallery
    query: dict[str, Any] = {"keywords": "3"}
    for search in (query, {**query, "id": local.store.ids()[0]}):
        remote_hits, local_hits = remote.search(**search), local.search(**search)
        assert [hit.id for hit in remote_hits] == [hit.id for hit in local_hits]
    with pytest.raises(InputError, match="no word"):
        remote.search(keywords="!")
