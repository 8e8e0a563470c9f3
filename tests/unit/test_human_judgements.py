"""What people said of hits, against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.stats import binomtest

import lookalike as la
from lookalike.errors import InputError
from lookalike.evaluation.human_judgements import (
    QueryJudgement,
    JudgementsResult,
    GalleryJudgements,
    Preference,
    read_judgement_files,
)
from lookalike.evaluation.metrics import Estimate, Interval
from lookalike.report import figures
from lookalike.report.human_judgements import write_judgements_report
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
    return {"gallery": gallery, "query": query, "k": 4, "given": given, "answers": answers}


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
    assert (found.queries, found.left_out, found.k, found.encoder) == (3, 1, 4, "hog")
    assert found.precision.value == pytest.approx((3 / 4 + 0 + 1 / 2) / 3)
    assert found.map_retrieved.value == pytest.approx(((1 + 1 + 3 / 4) / 3 + 0 + 1 / 2) / 3)
    assert found.recall_at_1.value == pytest.approx(1 / 3)
    assert found.precision.interval.low <= found.precision.value <= found.precision.interval.high
    assert found.agreement is None


def test_several_people_count_as_one_and_their_agreement_is_said(tmp_path: Path) -> None:
    one = saved(tmp_path / "1.json", hits=[hits("a", "yyyy"), hits("b", "nnnn")])
    two = saved(tmp_path / "2.json", hits=[hits("a", "yynn")])
    [found] = la.evaluate_judgements([one, two]).hits
    assert found.queries == 2
    assert found.precision.value == pytest.approx((0.75 + 0) / 2)
    assert found.agreement == pytest.approx(0.5)


def test_queries_without_hits_are_left_out_whoever_judged_them(tmp_path: Path) -> None:
    nothing = saved(tmp_path / "1.json", hits=[hits("a", "", given=0)])
    two = saved(tmp_path / "2.json", hits=[hits("a", "yn"), hits("b", "", given=0)])
    [found] = la.evaluate_judgements([nothing, two]).hits
    assert (found.queries, found.left_out, found.precision.value) == (1, 1, 0.5)


def test_without_given_as_many_were_given_as_asked_for(tmp_path: Path) -> None:
    whole, part = hits("a", "yyyn"), hits("b", "yy")
    del whole["given"], part["given"]
    [found] = la.evaluate_judgements([saved(tmp_path / "a.json", hits=[whole, part])]).hits
    assert (found.queries, found.left_out, found.precision.value) == (1, 1, 0.75)


def test_a_gallery_that_was_only_begun_does_not_hide_the_other(tmp_path: Path) -> None:
    said = [hits("a", "yn"), hits("a", "y", given=3, gallery="other")]
    found = la.evaluate_judgements([saved(tmp_path / "a.json", hits=said)])
    assert [each.gallery for each in found.hits] == ["shop"]
    assert found.unfinished == ("other",)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.randoms())
def test_the_order_of_answers_in_a_file_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, right: list[bool], random: Any
) -> None:
    said = hits("a", "".join("y" if each else "k" for each in right))
    said["k"] = len(right)
    random.shuffle(said["answers"])
    path = saved(tmp_path_factory.mktemp("j") / "a.json", hits=[said])
    [found] = la.evaluate_judgements([path]).hits
    precisions = [sum(right[: rank + 1]) / (rank + 1) for rank, each in enumerate(right) if each]
    average = sum(precisions) / len(precisions) if precisions else 0
    assert found.precision.value == pytest.approx(sum(right) / len(right))
    assert found.map_retrieved.value == pytest.approx(average)
    assert found.recall_at_1.value == right[0]


def test_a_file_is_read_as_it_was_saved(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.json", hits=[hits("a", "yn", given=3)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors save it
    [file] = read_judgement_files([path])
    assert file.hits == [QueryJudgement("shop", "a", 4, 3, {"a-1": True, "a-2": False})]
    assert file.galleries == {"shop": ("hog", "f1"), "other": ("pixels", "f2")}


def test_galleries_and_numbers_of_hits_are_apart(tmp_path: Path) -> None:
    other = {**hits("a", "k", gallery="other"), "k": 1}
    found = la.evaluate_judgements([saved(tmp_path / "a.json", hits=[hits("a", "y"), other])])
    assert [(each.gallery, each.k, each.precision.value) for each in found.hits] == [
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
    assert not found.significant
    assert "no difference" in found.verdict()


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_is_that_of_scipy(for_a: int, for_b: int) -> None:
    share = Estimate(0.5, Interval(0.4, 0.6))
    pair = Preference("a", "b", for_a + for_b, for_a, for_b, 0, share, None)
    told = for_a + for_b
    expected = binomtest(for_a, told, 0.5).pvalue if told else 1
    assert pair.p_value == pytest.approx(expected)


@pytest.mark.parametrize(("queries", "noise"), [(5, True), (6, False)])
def test_a_handful_that_agree_is_no_difference(tmp_path: Path, queries: int, noise: bool) -> None:
    said = [prefer(str(number), "b") for number in range(queries)]
    [found] = la.evaluate_judgements([saved(tmp_path / "a.json", preferences=said)]).preferences
    assert found.share.interval == Interval(0, 0)
    assert found.significant != noise


def test_people_who_prefer_differently_make_a_tie(tmp_path: Path) -> None:
    one = saved(tmp_path / "1.json", preferences=[prefer("a", "a"), prefer("b", "b")])
    two = saved(tmp_path / "2.json", preferences=[prefer("a", "a", "other", "shop")])
    three = saved(tmp_path / "3.json", preferences=[prefer("b", "b")])
    [found] = la.evaluate_judgements([one, two, three]).preferences
    assert (found.queries, found.for_a, found.for_b, found.ties) == (2, 0, 1, 1)
    assert found.share.value == pytest.approx((0.5 + 0) / 2)
    assert found.agreement == pytest.approx(1 / 2)


@pytest.mark.parametrize(("side", "better"), [("a", "shop is"), ("b", "other is")])
def test_a_clear_preference_is_said(tmp_path: Path, side: str, better: str) -> None:
    said = [prefer(str(number), side) for number in range(9)]
    found = la.evaluate_judgements([saved(tmp_path / "a.json", preferences=said)])
    assert found.preferences[0].verdict().startswith(better)
    assert found.as_dict()["preferences"][0]["significant"] is True


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
        ({"hits": [hits("a", "", given=3)]}, r"a\.json: no query was judged to the end"),
        ({"hits": [hits("a", "y"), hits("a", "k")]}, r"hits\[1\]: judges the query of \[0\] again"),
        (
            {"preferences": [prefer("a", "a"), prefer("a", "a", "other", "shop")]},
            r"preferences\[1\]: judges the query of \[0\] again",
        ),
        ({"hits": [{**hits("a", "y"), "k": 0}]}, "'n' must be at least 1"),
        ({"hits": [{**hits("a", "y"), "k": float("nan")}]}, "'n' must be of type int"),
        ({"hits": [{**hits("a", "y"), "query": None}]}, "'query' must be of type str"),
        ({"made": 3}, "'made' must be of type str"),
        ({"galleries": {"x": {"encoder": "e", "fingerprint": "f"}}}, "galleries.x: 'rows'"),
        ({"galleries": {"\ud800": {}}}, r"the name '\\ud800' cannot be printed"),
        (
            {"galleries": {"x": {"encoder": "\x1b[2J", "fingerprint": "f", "rows": 1}}},
            r"galleries\.x: 'encoder' holds characters",
        ),
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


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", r"a\.json, line 1, column 1: is no JSON"),
        (b'{"format":\n x', r"a\.json, line 2, column 2: is no JSON"),
        (b"{\xff}", r"a\.json: is not UTF-8 text \(byte 1\)"),
        (b"[" * 100_000, r"a\.json: is nested too deeply"),
        (b'{"n": ' + b"9" * 5_000 + b"}", r"a\.json: is no JSON that can be read"),
        (b" " * 30_000_001, r"a\.json: is larger"),
        (b"3", r"a\.json: must be an object"),
    ],
    ids=["empty", "broken", "no text", "deep", "long number", "large", "a number"],
)
def test_what_is_no_file_of_judgements_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said):
        la.evaluate_judgements([path])
    with pytest.raises(InputError, match="cannot be read"):
        la.evaluate_judgements([tmp_path])
    with pytest.raises(InputError, match="no file"):
        la.evaluate_judgements([])
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        la.evaluate_judgements([tmp_path / "none.json"])


def test_a_file_counts_once(tmp_path: Path) -> None:
    one = saved(tmp_path / "1.json", hits=[hits("a", "y")])
    two = saved(tmp_path / "2.json", hits=[hits("a", "y")])
    with pytest.raises(InputError, match=r"2\.json: holds the same as .*1\.json"):
        la.evaluate_judgements([one, two])


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
    done = lookalike("evaluate", "judgements", path)
    assert done.returncode == 0, done.stderr
    for text in ("0.5000 [0.500, 0.500]", "1 : 0", "0.7500", "no difference"):
        assert text in done.stdout
    assert "1 query left out" in done.stderr
    found = json.loads(lookalike("evaluate", "judgements", path, "--json").stdout)
    assert found["hits"][0]["precision"]["value"] == 0.5
    assert found["hits"][0]["left_out"] == 1
    assert found["preferences"][0]["share"]["value"] == 0.75
    report = tmp_path / "r.html"
    done = lookalike("evaluate", "judgements", path, "--report", report)
    assert f"report: {report}" in done.stderr
    page = report.read_text()
    assert page.count("data:image/png;base64,") == 2
    for text in ("between shop and other there is no difference", "<td>0.7500</td>", "hog"):
        assert text in page
    for wrong in (["x.gallery", path], [path, "--save"], []):
        done = lookalike("evaluate", "judgements", *wrong)
        assert (done.returncode, done.stderr.count("error:")) == (2, 1), done.stderr


def test_what_people_said_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half, full = (Estimate(value, Interval(value - 0.1, value + 0.1)) for value in (0.5, 0.875))
    hits_of = [
        GalleryJudgements(name, "hog", 7, 9, 0, full, full, full, None) for name in ("$shop", r"$\frac$")
    ]
    pairs = [
        Preference("$shop", r"$\frac$", 9, 9, 0, 0, full, None),
        Preference("$shop", "c", 9, 4, 5, 0, half, None),
    ]
    drawn: list[Figure] = []

    def interval_chart(*args: Any, **kwargs: Any) -> Figure:
        drawn.append(chart(*args, **kwargs))
        return drawn[-1]

    chart = figures.interval_chart
    monkeypatch.setattr(figures, "interval_chart", interval_chart)
    path = tmp_path / "report.html"
    write_judgements_report(JudgementsResult(1, tuple(hits_of), tuple(pairs)), path)
    assert path.read_text().count("data:image/png;base64,") == 2
    axes: list[Any] = [figure.axes[0] for figure in drawn]
    judged, preferred = axes
    names = [label.get_text() for label in judged.get_yticklabels()]
    assert names == ["$shop (n = 7)", r"$\frac$ (n = 7)"]
    assert [bar.get_width() for bar in judged.patches] == [0.875, 0.875]
    clear, noise = preferred.patches
    assert (clear.get_width(), noise.get_width()) == (0.875, 0.5)
    assert clear.get_facecolor() != noise.get_facecolor()
