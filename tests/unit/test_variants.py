"""Search variants against a slow version, and synthetic queries."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.evaluation import variants
from lookalike.evaluation.synthetic_queries import make_synthetic_queries
from lookalike.evaluation.variants import CROPS, parse_variants
from lookalike.gallery.gallery import Gallery
from lookalike.search.request import RERANKINGS
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.integration.test_cli import lookalike

pytestmark = pytest.mark.slow


@pytest.fixture
def shop(tmp_path: Path) -> Gallery:
    """A gallery of eighteen drawings with three labels, each of noisy colors around a base."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "shop"
    for label in "abc":
        (folder / label).mkdir(parents=True)
        base = rng.integers(0, 256, (3, 3, 3))
        for number in range(6):
            colors = np.clip(base + rng.normal(0, 150, (3, 3, 3)), 0, 255).astype(np.uint8)
            page = Image.new("RGB", (48, 48), "white")
            page.paste(Image.fromarray(colors).resize((36, 36), 0), (6, 6))
            page.save(folder / label / f"{number}.png")
    return indexed(folder)


def indexed(folder: Path) -> Gallery:
    source = open_source(folder)
    encoder = open_encoder("pixels", sample_images(source))
    gallery = Gallery.create(folder.parent / f"{folder.name}.gallery", encoder=encoder)
    gallery.sync(source)
    return gallery


def test_variants_are_parsed_from_a_string_or_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_variants(None) == ()
    [variant] = parse_variants("foreground + aqe+ k-reciprocal")
    assert variant.name == "foreground+aqe+k-reciprocal"
    assert (variant.foreground, variant.multi_crop) == (True, False)
    assert variant.rerank == ("aqe", "k-reciprocal")
    assert names_of("multi-crop, aqe,multi-crop") == ["multi-crop", "aqe"]
    assert parse_variants(["multi-crop", "aqe"]) == parse_variants("multi-crop,aqe")
    opencv = importlib.util.find_spec("cv2") is not None
    single = [*CROPS, *(name for name in RERANKINGS if opencv or name != "geometric")]
    assert names_of("all") == single
    assert names_of("multi-crop+diffusion,all") == ["multi-crop+diffusion", *single]
    monkeypatch.setattr(variants, "find_spec", lambda _: None)
    assert "geometric" not in names_of("all")
    assert parse_variants("geometric")[0].rerank == ("geometric",)
    for bad in ("multi-crpo", "multi-crop+al", "", "multi-crop,,aqe", "multi-crop+all"):
        with pytest.raises(UnknownNameError, match="search variant"):
            parse_variants(bad)


def names_of(text: str) -> list[str]:
    return [variant.name for variant in parse_variants(text)]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_variant_scores_match_a_slow_version(shop: Gallery, metric: str) -> None:
    k, names = 4, ["multi-crop", "foreground", "k-reciprocal", "multi-crop+aqe"]
    evaluation = la.evaluate(shop, k=k, metric=metric, variants=names)
    assert list(evaluation.variants) == names
    options: dict[str, dict[str, Any]] = {
        "multi-crop": {"multi_crop": True},
        "foreground": {"foreground": True},
        "k-reciprocal": {"rerank": "k-reciprocal"},
        "multi-crop+aqe": {"multi_crop": True, "rerank": "aqe"},
        "plain": {},
    }
    precision: dict[str, float] = {}
    average: dict[str, np.ndarray] = {}
    for name, options_of in options.items():
        shares, values = [], []
        for item in shop.items():
            hits = shop.search(item, k=k, metric=metric, **options_of)
            correct = [hit.metadata["label"] == item.metadata["label"] for hit in hits]
            shares.append(sum(correct) / k)
            precisions = [sum(correct[: i + 1]) / (i + 1) for i in range(k) if correct[i]]
            values.append(sum(precisions) / min(k, 5))
        precision[name], average[name] = float(np.mean(shares)), np.array(values)
    assert evaluation.scores.map.value == pytest.approx(average["plain"].mean())
    assert len({values.mean() for values in average.values()}) > 2
    for name, result in evaluation.variants.items():
        assert result.scores.precision.value == pytest.approx(precision[name])
        assert result.scores.map.value == pytest.approx(average[name].mean())
        delta = (average[name] - average["plain"]).mean()
        interval = result.map_delta.interval
        assert result.map_delta.value == pytest.approx(delta, abs=1e-12)
        assert interval.low <= delta <= interval.high
        fields = evaluation.as_dict()["variants"][name]
        assert fields["map_delta"] == result.map_delta.value
        assert fields["map_delta_interval"] == [interval.low, interval.high]
        assert fields["latency_ms"] == result.latency_ms > 0
    json.dumps(evaluation.as_dict())


def test_synthetic_queries_are_deterministic(shop: Gallery) -> None:
    once, relevance = make_synthetic_queries(shop, queries=7)
    again, _ = make_synthetic_queries(shop, queries=7)
    assert len(once) == 7
    for a, b in zip(once, again, strict=True):
        assert (a.id, a.uri, a.metadata) == (b.id, b.uri, b.metadata)
        np.testing.assert_array_equal(a.image(), b.image())
        np.testing.assert_array_equal(a.image(), a.image())
        relevant = relevance.relevant(a)
        assert relevant is not None
        assert len(relevant.ids) == 1
    other, _ = make_synthetic_queries(shop, queries=7, seed=2)
    assert [item.uri for item in other] != [item.uri for item in once]


def test_copies_of_the_original_are_relevant(shop: Gallery) -> None:
    folder = shop.path.parent / "shop"
    shutil.copy(folder / "a" / "0.png", folder / "c" / "copy.png")
    shop.sync(folder)
    source, relevance = make_synthetic_queries(shop)
    assert len(shop) == 19
    assert len(source) == 18
    sets = {item.uri.rpartition("shop/")[2]: relevance.relevant(item) for item in source}
    relevant = sets["a/0.png"]
    assert relevant is not None
    assert relevant.ids == {"shop:a/0.png", "shop:c/copy.png"}
    assert relevant.count == 2
    evaluation = la.evaluate(shop, synthetic_queries=True)
    assert len(evaluation.examples) == 18
    criterion = evaluation.criterion
    assert (criterion.as_dict()["by"], criterion.column) == ("match", "content")
    assert evaluation.labels == ()


def test_synthetic_queries_need_two_distinct_images(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 40), (9, 90, 200)).save(tmp_path / "one" / f"{name}.png")
    with pytest.raises(InputError, match=r"at least 2 distinct images, the gallery has 1"):
        la.evaluate(indexed(tmp_path / "one"), synthetic_queries=True)


@pytest.mark.parametrize(
    "option", [{"queries": "q"}, {"match": "label"}, {"ground_truth": "t.csv"}]
)
def test_synthetic_queries_exclude_other_relevance(shop: Gallery, option: dict[str, str]) -> None:
    [name] = option
    message = f"synthetic_queries cannot be combined with {name}={option[name]}"
    with pytest.raises(SettingError, match=message):
        la.evaluate(shop, synthetic_queries=True, **option)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="backgrounds needs synthetic_queries"):
        la.evaluate(shop, backgrounds="photos")


def test_the_command_line_prints_variants(shop: Gallery) -> None:
    process = lookalike("evaluate", shop.path, "--synthetic-queries", "--variants", "aqe", "--json")
    assert process.returncode == 0, process.stderr
    document = json.loads(process.stdout)
    assert document["relevance"]["column"] == "content"
    assert list(document["variants"]) == ["aqe"]
    keys = {"map", "map_delta", "map_delta_interval", "latency_ms"}
    assert keys <= set(document["variants"]["aqe"])
    backgrounds = str(shop.path.parent / "shop")
    process = lookalike(
        "evaluate",
        shop.path,
        "--synthetic-queries",
        "--backgrounds",
        backgrounds,
        "--variants",
        "aqe",
    )
    assert process.returncode == 0, process.stderr
    for text in ("variant", "aqe", "plain search"):
        assert text in process.stdout
    process = lookalike("evaluate", shop.path, "--synthetic-queries", "--match", "label")
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1
