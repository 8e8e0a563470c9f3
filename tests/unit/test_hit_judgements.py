"""What people said of hits, against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lookalike as la
from lookalike.errors import InputError
from tests.integration.test_cli import lookalike

GALLERIES = {
    "shop": {"encoder": "hog", "fingerprint": "f1", "rows": 9},
    "other": {"encoder": "pixels", "fingerprint": "f2", "rows": 9},
}


def hits(query: str, right: str, *, given: int | None = None, gallery: str = "shop") -> Any:
    """Return the judgement of a query: y and n by rank."""
    answers = [
        {"id": f"{query}-{rank}", "rank": rank, "right": each == "y"}
        for rank, each in enumerate(right, 1)
    ]
    given = len(right) if given is None else given
    return {"gallery": gallery, "query": query, "n": 4, "given": given, "answers": answers}


def prefer(query: str, side: str, a: str = "shop", b: str = "other") -> Any:
    return {"query": query, "a": a, "b": b, "preferred": side}


def saved(path: Path, **changed: Any) -> Path:
    fields = {
        "format": "lookalike-judgements",
        "version": 1,
        "made": "2026-01-01T00:00:00Z",
        "galleries": GALLERIES,
        "hits": [],
        "preferences": [],
    }
    path.write_text(json.dumps({**fields, **changed}))
    return path


def test_precision_is_of_the_hits_shown_and_unfinished_queries_are_left_out(
    tmp_path: Path,
) -> None:
    said = [hits("a", "yyny"), hits("b", "nn"), hits("c", "yy", given=4), hits("d", "ny")]
    [found] = la.evaluate_judgements([saved(tmp_path / "a.json", hits=said)]).hits
    assert (found.queries, found.left_out, found.n, found.encoder) == (3, 1, 4, "hog")
    assert found.precision.value == pytest.approx((3 / 4 + 0 + 1 / 2) / 3)
    assert found.map_found.value == pytest.approx(((1 + 1 + 3 / 4) / 3 + 0 + 1 / 2) / 3)
    assert found.first_right.value == pytest.approx(1 / 3)
    assert found.precision.interval.low <= found.precision.value <= found.precision.interval.high
    assert found.agreement is None


def test_several_people_count_as_one_and_their_agreement_is_said(tmp_path: Path) -> None:
    one = saved(tmp_path / "1.json", hits=[hits("a", "yyyy"), hits("b", "nnnn")])
    two = saved(tmp_path / "2.json", hits=[hits("a", "yynn")])
    [found] = la.evaluate_judgements([one, two]).hits
    assert found.queries == 2
    assert found.precision.value == pytest.approx((0.75 + 0) / 2)
    assert found.agreement == pytest.approx(0.5)


def test_galleries_and_numbers_of_hits_are_apart(tmp_path: Path) -> None:
    other = {**hits("a", "n", gallery="other"), "n": 1}
    found = la.evaluate_judgements([saved(tmp_path / "a.json", hits=[hits("a", "y"), other])])
    assert [(each.gallery, each.n, each.precision.value) for each in found.hits] == [
        ("other", 1, 0.0),
        ("shop", 4, 1.0),
    ]


def test_preferences_count_ties_as_half_whichever_gallery_comes_first(tmp_path: Path) -> None:
    said = [prefer("a", "a"), prefer("b", "a"), prefer("c", "neither")]
    turned = [prefer("d", "b", "other", "shop"), prefer("e", "a", "other", "shop")]
    [found] = la.evaluate_judgements(
        [
            saved(tmp_path / "a.json", preferences=said),
            saved(tmp_path / "b.json", preferences=turned),
        ]
    ).preferences
    assert (found.a, found.b, found.for_a, found.for_b, found.ties) == ("shop", "other", 3, 1, 1)
    assert found.share.value == pytest.approx(3.5 / 5)
    assert found.within_noise
    assert "no difference" in found.verdict()


@pytest.mark.parametrize(("side", "better"), [("a", "shop is"), ("b", "other is")])
def test_a_clear_preference_is_said(tmp_path: Path, side: str, better: str) -> None:
    said = [prefer(str(number), side) for number in range(9)]
    found = la.evaluate_judgements([saved(tmp_path / "a.json", preferences=said)])
    assert found.preferences[0].verdict().startswith(better)
    assert found.as_dict()["preferences"][0]["within_noise"] is False


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": "other"}, "no file of judgements"),
        ({"version": 2}, "newer"),
        ({"version": True}, "'version' must be of type int"),
        ({"galleries": []}, "'galleries' must be of type dict"),
        ({"hits": {}}, "'hits' must be of type list"),
        ({}, "holds no judgement"),
        ({"hits": [3]}, r"hits\[0\]: must be an object"),
        ({"hits": [hits("a", "y", gallery="none")]}, r"hits\[0\]: 'none' is not among"),
        ({"hits": [hits("a", "yy", given=1)]}, r"hits\[0\]: has ranks or answers beyond"),
        ({"hits": [hits("a", "yyyyy")]}, "beyond the 5 hits"),
        ({"hits": [hits("a", "", given=3)]}, "no query was judged to the end"),
        ({"preferences": [prefer("a", "c")]}, r"preferences\[0\]: 'preferred' must be one of"),
        ({"preferences": [prefer("a", "a", "shop", "shop")]}, "with itself"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        la.evaluate_judgements([saved(tmp_path / "a.json", **changed)])


def test_a_hit_judged_twice_is_refused(tmp_path: Path) -> None:
    twice = hits("a", "yy")
    twice["answers"][1]["id"] = twice["answers"][0]["id"]
    with pytest.raises(InputError, match="twice"):
        la.evaluate_judgements([saved(tmp_path / "a.json", hits=[twice])])


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"3"])
def test_what_is_no_file_of_judgements_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.json"):
        la.evaluate_judgements([path])
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        la.evaluate_judgements([tmp_path / "none.json"])


def test_files_of_different_encoders_are_not_mixed(tmp_path: Path) -> None:
    changed = {**GALLERIES, "shop": {**GALLERIES["shop"], "fingerprint": "f9"}}
    one = saved(tmp_path / "1.json", hits=[hits("a", "y")])
    two = saved(tmp_path / "2.json", hits=[hits("a", "y")], galleries=changed)
    with pytest.raises(
        InputError, match=r"2\.json: judges another encoder of 'shop' than .*1\.json"
    ):
        la.evaluate_judgements([one, two])


def test_on_the_command_line(tmp_path: Path) -> None:
    said = [prefer("a", "a"), prefer("b", "neither")]
    path = saved(
        tmp_path / "a.json", hits=[hits("a", "yn"), hits("b", "y", given=2)], preferences=said
    )
    done = lookalike("evaluate", "--judgements", path)
    assert done.returncode == 0, done.stderr
    for text in ("0.5000 [0.5000, 0.5000]", "1 : 0", "0.7500", "no difference"):
        assert text in done.stdout
    assert "1 queries not judged to the end" in done.stderr
    found = json.loads(lookalike("evaluate", "--judgements", path, "--json").stdout)
    assert found["hits"][0]["precision"]["value"] == 0.5
    for wrong in (["x.gallery", "--judgements", path], ["--judgements", path, "--keep"], []):
        done = lookalike("evaluate", *wrong)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
