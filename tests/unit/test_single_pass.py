"""An evaluation decodes each image once and gives it to all encoders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError, SettingError
from lookalike.evaluation.baselines import fit_baselines
from lookalike.evaluation.candidates import ChooseOptions
from lookalike.evaluation.evaluate import evaluate
from lookalike.evaluation.model_selection import choose
from lookalike.evaluation.robustness import evaluate_robustness
from lookalike.evaluation.sanity_check import sanity_check
from lookalike.evaluation.single_pass import encode_once
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import DecodedImage, ImageInput, decode_with_notes
from lookalike.report.evaluation import report_page
from lookalike.sources import Item, ItemSource, open_source, sampling
from lookalike.sources.sampling import decode_batches
from lookalike.types import ImageArray

LABELS = ("red", "green", "blue")
COUNT = 36


def save_photos(folder: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(count):
        channel = number % 3
        (folder / LABELS[channel]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (8, 9, 3), np.uint8)
        pixels[..., channel] += 120
        image = Image.fromarray(pixels).resize((90, 80), Image.Resampling.BICUBIC)
        image.save(folder / LABELS[channel] / f"{number:02}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single") / "photos"
    save_photos(folder, COUNT, 0)
    return folder


@pytest.fixture(scope="module")
def gallery(photos: Path) -> Gallery:
    source = open_source(photos)
    encoder = open_encoder("color", [item.image() for item in source])
    made = Gallery.create(photos.parent / "g.gallery", encoder=encoder)
    made.sync(source, progress=False)
    return made


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file has been decoded."""
    counts: Counter[str] = Counter()

    def counting(content: ImageInput, *, name: str, **options: Any) -> DecodedImage:
        if isinstance(content, bytes):
            counts[Path(name).name] += 1
        return decode_with_notes(content, name=name, **options)

    monkeypatch.setattr("lookalike.sources.base.decode_with_notes", counting)
    return counts


def test_own_rows_are_decoded_to_measure_the_latency_only(
    gallery: Gallery, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.evaluation.evaluate._TIMED", 5)
    result = evaluate(gallery, progress=False)
    assert (len(result.examples), len(decoded), set(decoded.values())) == (COUNT, 5, {1})


@pytest.mark.slow
def test_with_baselines_every_row_is_decoded_once_for_all(
    gallery: Gallery, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate(gallery, baselines=True, progress=False)
    assert set(result.baselines) == {"chance", "pixels", "pca", "hog", "hog-fine", "untrained"}
    assert (len(decoded), set(decoded.values())) == (COUNT, {1})
    monkeypatch.setattr(sampling, "_MAX_BATCH_IMAGES", 10)
    again = evaluate(gallery, baselines=True, progress=False)
    assert (again.scores, again.baselines) == (result.scores, result.baselines)
    # Those beyond the first batch are decoded before, too, for the sample that baselines fit.
    assert Counter(decoded.values()) == {2: 10, 3: COUNT - 10}


def test_queries_that_are_also_rows_are_decoded_once(
    gallery: Gallery, photos: Path, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.evaluation.leakage._SAMPLE", 1)
    monkeypatch.setattr("lookalike.evaluation.leakage._NEAREST", 0)
    same = evaluate(gallery, photos, baselines=True, progress=False)
    assert sum(decoded.values()) == COUNT + 1  # one more to calibrate near-duplicates
    own = evaluate(gallery, baselines=True, progress=False)
    assert same.scores == own.scores
    assert same.baselines == own.baselines


def test_other_queries_are_decoded_once_for_the_encoders_leakage_and_latency(
    gallery: Gallery, decoded: Counter[str], tmp_path: Path
) -> None:
    save_photos(tmp_path / "queries", 12, 5)
    for path in list((tmp_path / "queries").rglob("*.png")):
        path.rename(path.with_name(f"query-{path.name}"))
    result = evaluate(gallery, tmp_path / "queries", baselines=True, progress=False)
    assert len(result.examples) == 12
    queries = {name: count for name, count in decoded.items() if name.startswith("query-")}
    assert (len(queries), set(queries.values())) == (12, {1})


def test_search_variants_share_the_decoded_queries(
    gallery: Gallery, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.evaluation.variants._TIMED", 5)
    result = evaluate(gallery, variants="aqe,dba,k-reciprocal", progress=False)
    assert len(result.variants) == 3
    assert (len(decoded), set(decoded.values())) == (COUNT, {2})


@pytest.mark.slow
def test_choosing_and_checking_decode_each_image_once(photos: Path, decoded: Counter[str]) -> None:
    options = ChooseOptions(encoders=("pixels", "color", "hog"), train=False)
    chosen = choose(photos, labels="own", options=options, progress=False)
    assert len(chosen.candidates) == 3
    assert (len(decoded), set(decoded.values())) == (COUNT, {1})
    chosen_without_labels = choose(photos, options=options, progress=False)
    assert chosen_without_labels.candidates[0].robustness
    assert set(decoded.values()) == {2}
    source = open_source(photos)
    encoder = chosen.candidates[0].encoder
    assert sanity_check(encoder, source, progress=False).comparison is not None
    assert set(decoded.values()) == {3}


def test_robustness_decodes_each_image_once(gallery: Gallery, decoded: Counter[str]) -> None:
    evaluate_robustness(gallery, progress=False)
    assert (len(decoded), set(decoded.values())) == (COUNT, {1})


def test_shared_images_have_the_embeddings_of_each_encoder_alone(photos: Path) -> None:
    items = list(open_source(photos))
    images = [item.image() for item in items]
    encoders, left_out = fit_baselines(images)
    assert len(encoders) == 5
    assert left_out == {}
    seen: list[int] = []

    def visit(place: int, image: ImageArray) -> None:
        assert np.array_equal(image, images[place])
        seen.append(place)

    odd = np.arange(len(items)) % 2 == 1
    encoded = encode_once(items, encoders, only={"hog": odd}, visit=visit)
    assert seen == list(range(len(items)))
    for name, encoder in encoders.items():
        alone = encoder.encode_batch(images)
        if name == "hog":
            alone[~odd] = 0
        assert np.array_equal(encoded.embeddings[name], alone), name


def test_what_cannot_be_decoded_is_named_and_has_no_embedding(photos: Path) -> None:
    items = list(open_source(photos))[:4]
    items[2] = replace(items[2], read=lambda: b"no image")
    encoder = open_encoder("pixels", [items[0].image()])
    encoded = encode_once(items, {"pixels": encoder})
    assert list(encoded.unread) == [2]
    assert "unsupported image format" in str(encoded.unread[2])
    assert not encoded.embeddings["pixels"][2].any()
    assert encoded.embeddings["pixels"][[0, 1, 3]].any(axis=1).all()


def test_batches_are_limited_in_bytes_and_large_files_are_read_one_by_one(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = list(open_source(photos))[:12]
    monkeypatch.setattr(sampling, "_MAX_BATCH_BYTES", 3 * 80 * 90 * 3)
    assert [len(batch.images) for batch in decode_batches(items)] == [3, 3, 3, 3]
    large = [replace(item, size=lambda: 3 << 20) for item in items]
    chunks: list[int] = []

    def watched(some: Sequence[Item]) -> list[object]:
        chunks.append(len(some))
        return [item.image() for item in some]

    monkeypatch.setattr(sampling, "_decode_all", watched)
    assert sum(len(batch.images) for batch in decode_batches(large)) == 12
    assert chunks == [1] * 12
    chunks.clear()
    assert sum(len(batch.images) for batch in decode_batches(items)) == 12
    assert chunks == [8, 4]


def test_rows_that_cannot_be_read_are_queries_unless_their_images_are_needed(
    tmp_path: Path,
) -> None:
    save_photos(tmp_path / "photos", 12, 0)
    source = open_source(tmp_path / "photos")
    encoder = open_encoder("color", [item.image() for item in source])
    gallery = Gallery.create(tmp_path / "g.gallery", encoder=encoder)
    gallery.sync(source, progress=False)
    (tmp_path / "photos" / "red" / "00.png").unlink()
    by_vector = evaluate(gallery, k=3, progress=False)
    assert (len(by_vector.examples), by_vector.skipped) == (12, ())
    page = report_page(by_vector, gallery)
    assert "Sample of the queries" in [section.title for section in page.sections]
    compared = evaluate(gallery, k=3, baselines=True, progress=False)
    assert (len(compared.examples), len(compared.skipped)) == (11, 1)
    assert compared.scores.first.queries == compared.baselines["pixels"].first.queries == 11
    variants = evaluate(gallery, k=3, variants="aqe", progress=False)
    assert (len(variants.examples), variants.variants["aqe"].scores.first.queries) == (11, 11)


def test_a_gallery_of_vectors_made_elsewhere_is_evaluated_by_label() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    ids = [f"{number:02}" for number in range(15)]
    metadata = [{"label": "abc"[number // 5]} for number in range(15)]
    gallery = Gallery.from_embeddings(vectors, ids=ids, metadata=metadata)
    result = evaluate(gallery, k=4, progress=False)
    assert result.scores.precision.value == 1
    assert result.latency is None
    assert result.as_dict()["latency_ms"] is None
    report_page(result, gallery)
    other = {row_id: "xy"[number % 2] for number, row_id in enumerate(ids)}
    by_labels = evaluate(gallery, k=4, labels=other, progress=False)
    assert 0 < by_labels.scores.precision.value < 1
    assert set(by_labels.query_labels) == {"x", "y"}
    unlabeled = Gallery.from_embeddings(vectors, ids=ids)
    with pytest.raises(InputError, match="no labels among 15 rows"):
        evaluate(unlabeled, progress=False)
    assert evaluate(unlabeled, k=4, labels=other, progress=False).scores == by_labels.scores
    with pytest.raises(SettingError, match="each defines relevance; use one"):
        evaluate(gallery, labels=other, match="label", progress=False)


def test_results_are_short_and_are_tables_in_notebooks(gallery: Gallery, photos: Path) -> None:
    result = evaluate(gallery, baselines=True, progress=False)
    assert len(repr(result).splitlines()) <= 2
    assert len(repr(result)) < 400
    page = result._repr_html_()
    assert page.count("<tr>") == 1 + len(result.ranking())
    assert "hog-fine" in page
    assert "color *" in page
    table = result.to_pandas()
    assert list(table.index) == [name for name, _ in result.ranking()]
    own = table.loc["color"]
    assert own["precision_low"] <= own["precision"] == result.scores.precision.value
    robust = evaluate_robustness(gallery, queries=5, progress=False)
    assert len(repr(robust).splitlines()) <= 2
    assert list(robust.to_pandas().index) == list(robust.scores)
    assert robust._repr_html_().count("<tr>") == 1 + len(robust.scores)
    options = ChooseOptions(encoders=("pixels", "color"), train=False)
    for labels in ("own", None):
        choice = choose(photos, labels=labels, options=options, progress=False)
        assert len(repr(choice).splitlines()) <= 2
        assert set(choice.to_pandas().index) == {"pixels", "color"}
        assert choice._repr_html_().count("<tr>") == 3
    assert len(repr(result.scores).splitlines()) == 1
    assert la.evaluate is evaluate


def test_what_is_no_gallery_or_no_source_is_named(gallery: Gallery) -> None:
    for wrong in ("g.gallery", None, 3):
        with pytest.raises(InputError, match=r"gallery: expected an open lookalike\.Gallery, got"):
            evaluate(wrong, progress=False)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"gallery: expected an open lookalike\.Gallery, got"):
            evaluate_robustness(wrong, progress=False)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="queries"):
        evaluate(gallery, 3, progress=False)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no labeled query among 0 images"):
        evaluate(gallery, ItemSource("none", "none", []), progress=False)
    with pytest.raises(InputError, match="source"):
        choose(3, progress=False)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="first=0 must be at least 1"):
        evaluate(gallery, first=0, progress=False)
