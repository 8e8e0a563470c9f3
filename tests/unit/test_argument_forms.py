"""The forms that arguments may have, and what is said to those that look like them."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lookalike as la

VECTORS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
IDS = list("abcdef")


@pytest.fixture(scope="module")
def gallery() -> la.Gallery:
    metadata = [{"n": number, "s": "xy"[number % 2]} for number in range(6)]
    return la.Gallery.from_embeddings(VECTORS, ids=IDS, metadata=metadata)


def forms() -> dict[str, Any]:
    import torch
    from scipy import sparse

    tensor = torch.from_numpy(VECTORS.copy())
    return {
        "big-endian": VECTORS.astype(">f8"),
        "fortran": np.asfortranarray(VECTORS),
        "objects": VECTORS.astype(object),
        "lists": VECTORS.tolist(),
        "rows": list(VECTORS),
        "table": pd.DataFrame(VECTORS),
        "column of vectors": pd.Series(list(VECTORS)),
        "sparse": sparse.csr_matrix(VECTORS),
        "gradient": tensor.clone().requires_grad_(),
        "tensors": list(tensor),
        "double": tensor.double(),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", list(forms()))
def test_vectors_have_any_form_of_numbers(gallery: la.Gallery, name: str) -> None:
    values = forms()[name]
    made = la.Gallery.from_embeddings(values, ids=IDS)
    np.testing.assert_array_equal(made["c"].embedding, VECTORS[2])
    expected = [hits.ids for hits in gallery.search(vectors=VECTORS, k=3)]
    assert [hits.ids for hits in gallery.search(vectors=values, k=3)] == expected
    function = la.encoders.from_callable(lambda _: values, dim=4, name="mine")
    np.testing.assert_array_equal(function.encode(np.zeros((6, 2, 2), np.uint8)), VECTORS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values",
    [
        VECTORS.astype(complex),
        np.zeros((2, 4), "M8[s]"),
        [["1", "2", "3", "4"]],
        [[None] * 4],
        [[1, 2, 3, 4], [1]],
        pd.Series([np.ones(4), np.ones(3)]),
    ],
)
def test_what_are_no_real_numbers_is_refused_everywhere(gallery: la.Gallery, values: Any) -> None:
    with pytest.raises(la.InputError, match=r"^vectors must"):
        gallery.search(vectors=values)
    with pytest.raises(la.InputError, match=r"^embeddings: expected"):
        la.Gallery.from_embeddings(values)


def test_a_tensor_is_a_vector_among_examples(gallery: la.Gallery) -> None:
    import torch

    tensor = torch.from_numpy(VECTORS[0].copy()).bfloat16()
    like = gallery.search(like=[tensor, VECTORS[1]], k=4)
    assert like.ids == gallery.search(like=[tensor.float().numpy(), VECTORS[1]], k=4).ids
    assert gallery.search(like=iter(VECTORS[:2])).ids == gallery.search(like=list(VECTORS[:2])).ids


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"n": np.int64(3)}, {"d"}),
        ({"n": {"gte": np.float32(4)}}, {"e", "f"}),
        ({"n": {"in": np.array([1, 2])}}, {"b", "c"}),
        ({"n": {"in": pd.Series([1, 2])}}, {"b", "c"}),
        ({"n": {"in": {1, 2}}}, {"b", "c"}),
    ],
)
def test_filters_take_values_of_numpy_and_pandas(
    gallery: la.Gallery, condition: dict[str, Any], expected: set[str]
) -> None:
    assert set(gallery.search(vector=VECTORS[0], where=condition).ids) == expected


@pytest.mark.parametrize("name", ["exact", "foreground", "multi_crop"])
def test_flags_are_true_or_false(gallery: la.Gallery, name: str) -> None:
    with pytest.raises(la.SettingError, match=rf"^{name}=no must be True or False$"):
        gallery.search(vector=VECTORS[0], **{name: "no"})  # type: ignore[call-overload]


def test_an_id_that_no_row_can_have_is_missing(gallery: la.Gallery) -> None:
    for text in ("\udc80", "", "a\0"):
        with pytest.raises(la.MissingRowError):
            gallery.search(id=text)


def test_rows_without_an_image_say_so(gallery: la.Gallery) -> None:
    for options in ({"box": (0, 0, 1, 1)}, {"rerank": "geometric"}):
        with pytest.raises(la.ImageError, match=r"^a: has no image"):
            gallery.search(id="a", **options)
    with pytest.raises(la.ImageError, match=r"^a: has no image"):
        gallery.image("a")


def test_uris_may_be_missing_or_of_unknown_users() -> None:
    for missing in (None, "", math.nan, pd.NA, pd.NaT):
        made = la.Gallery.from_embeddings(VECTORS[:2], uris=[missing, "~nobody-here/x.jpg"])  # type: ignore[list-item]
        assert made["0"].uri == ""
        assert made["1"].uri.endswith("/~nobody-here/x.jpg")
    with pytest.raises(la.InputError, match=r"^uris: expected paths or URLs, got ndarray"):
        la.Gallery.from_embeddings(VECTORS[:1], uris=[np.zeros(3)])  # type: ignore[list-item]


def test_ids_are_ordered_and_may_be_integers() -> None:
    with pytest.raises(la.InputError, match=r"^ids: expected a list with one per row, got set"):
        la.Gallery.from_embeddings(VECTORS, ids=set(IDS))
    with pytest.raises(la.InputError, match=r"^ids: .*got DataFrame"):
        la.Gallery.from_embeddings(VECTORS).get(pd.DataFrame({"id": IDS}))
    made = la.Gallery.from_embeddings(VECTORS, ids=np.arange(6))
    assert "5" in made


def test_tables_lose_no_value_without_a_word() -> None:
    days = pd.DataFrame({"day": pd.period_range("2020", periods=6)})
    with pytest.raises(la.InputError, match=r"^metadata\[0\]: column 'day' has a value that"):
        la.Gallery.from_embeddings(VECTORS, metadata=days)
    infinite = pd.DataFrame({"x": [1, 2, math.nan, math.inf, 3, 4]})
    with pytest.raises(la.InputError, match=r"^metadata\[3\]: column 'x' has a value that"):
        la.Gallery.from_embeddings(VECTORS, metadata=infinite)
    twice = pd.DataFrame(np.zeros((6, 2)), columns=["a", "a"])
    with pytest.raises(la.InputError, match=r"^metadata: two columns"):
        la.Gallery.from_embeddings(VECTORS, metadata=twice)


def test_metadata_that_hold_themselves_are_refused() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(la.InputError, match=r"^metadata\[0\]: column 'a' is nested over"):
        la.Gallery.from_embeddings(VECTORS[:1], metadata=[endless])


def test_paths_that_cannot_be_are_refused(gallery: la.Gallery) -> None:
    for text, problem in (("x" * 5000, "too long"), ("a\0b", "characters"), ("\ud800", "chara")):
        for call in (gallery.export, gallery.copy_to, la.Gallery.open):
            with pytest.raises(la.InputError, match=rf"^(path|target) .*{problem}"):
                call(text)
        with pytest.raises(la.InputError, match=rf"^path .*{problem}"):
            la.Gallery.from_embeddings(VECTORS, path=text)


def test_a_network_is_pickled_and_copied() -> None:
    encoder = la.open_encoder("efficientnet-lite0")
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    expected = encoder.encode(image)
    for other in (pickle.loads(pickle.dumps(encoder)), copy.deepcopy(encoder)):
        np.testing.assert_array_equal(other.encode(image), expected)
        assert other.fingerprint == encoder.fingerprint


def test_copies_of_a_gallery_share_what_is_open(gallery: la.Gallery) -> None:
    deep: Any = copy.deepcopy({"gallery": gallery, "item": gallery["a"]})
    assert deep["gallery"].search(id="a").ids == gallery.search(id="a").ids
    np.testing.assert_array_equal(deep["item"].embedding, VECTORS[0])


def test_items_and_hits_can_be_in_sets(gallery: la.Gallery) -> None:
    assert len({gallery["a"], gallery["a"], gallery["b"]}) == 2
    hits = gallery.search(id="a", k=3)
    assert len({*hits, *gallery.search(id="a", k=3)}) == 3
    assert hash(hits) == hash(gallery.search(id="a", k=3))


def test_value_range_has_an_order() -> None:
    encoder = la.encoders.from_callable(
        lambda images: np.zeros((len(images), 4)), dim=4, name="mine"
    )
    for values in ({0, 1}, "01", (0, 10**400), {0: 1, 1: 2}):
        with pytest.raises(la.SettingError, match=r"^value_range"):
            encoder.encode(np.zeros((4, 4)), value_range=values)  # type: ignore[arg-type]


def test_counts_may_be_of_numpy() -> None:
    two: Any = np.int64(2)
    encoder = la.encoders.from_callable(
        lambda images: np.ones((len(images), 4)), dim=4, name="mine", batch_size=two
    )
    images = np.zeros((5, 8, 8), np.uint8)
    assert encoder.encode(images, batch_size=two).shape == (5, 4)


def test_names_of_encoders_are_one_line() -> None:
    for name in ("a\0", "\udc80", "a" * 501, "a\nb"):
        with pytest.raises(la.SettingError, match=r"^name must be at most"):
            la.Gallery.from_embeddings(VECTORS, name=name)


def test_an_empty_pil_image_has_no_pixels(tmp_path: Path) -> None:
    from PIL import Image

    encoder = la.encoders.from_callable(len, dim=4, name="mine")
    with pytest.raises(la.InputError, match=r"^images: has no pixels"):
        encoder.encode(Image.new("RGB", (0, 5)))


WRONG = [1.5, "x", [], b"x", {}, np.zeros(3), object(), len, pd.DataFrame(), Path("x"), math.nan]


@pytest.mark.parametrize(
    ("call", "name", "right"),
    [
        (la.map, "seed", ()),
        (la.map, "column", ("x",)),
        (la.map, "fresh", ()),
        (la.duplicates, "keep", ("x",)),
        (la.duplicates, "prefer", ([],)),
        (la.duplicates, "exact", ()),
        (la.duplicates, "max_distance", (1.5,)),
        (la.outliers, "k", ()),
        (la.suggest_labels, "k", ()),
        (la.suggest_labels, "seed", ()),
        (la.find_label_issues, "column", ("x",)),
        (la.evaluate, "k", ()),
        (la.evaluate, "first", ()),
        (la.evaluate, "match", ("x",)),
        (la.evaluate, "metric", ()),
        (la.evaluate, "ground_truth", ("x", Path("x"))),
        (la.evaluate_robustness, "queries", ()),
    ],
)
def test_options_of_a_wrong_type_are_named(
    gallery: la.Gallery, call: Any, name: str, right: tuple[Any, ...]
) -> None:
    for value in WRONG:
        if not any(value is each or value == each for each in right if type(value) is type(each)):
            with pytest.raises(la.SettingError, match=rf"^(unknown )?{name}\b"):
                call(gallery, **{name: value}, progress=False)


def test_options_of_encoders_of_a_wrong_type_are_named() -> None:
    encoder = la.encoders.from_callable(len, dim=4, name="mine")
    for values in (1, "12", [None], {0: 1}, np.float64(2)):
        with pytest.raises(la.SettingError, match=r"^weights(=.*)? must be a list of numbers"):
            la.combine([encoder, encoder], values)  # type: ignore[arg-type]
        with pytest.raises(la.SettingError, match=r"^mean(=.*)? must be a list of numbers"):
            la.encoders.from_callable(len, dim=4, name="mine", size=8, mean=values)  # type: ignore[arg-type]
    with pytest.raises(la.SettingError, match=r"^name must be a text, not ndarray"):
        la.combine([encoder, encoder], name=np.zeros(2))  # type: ignore[arg-type]


def test_seeds_have_a_range(gallery: la.Gallery) -> None:
    for seed in (-1, 2**32):
        with pytest.raises(la.SettingError, match=rf"^seed={seed} must be from 0 to 4,294,967,295"):
            la.map(gallery, seed=seed, progress=False)


def test_options_may_be_numbers_of_numpy(gallery: la.Gallery) -> None:
    options: Any = {"seed": np.uint8(1), "fresh": np.False_, "progress": False}
    assert len(la.map(gallery, **options).ids) == 6
    everything = la.duplicates(gallery, max_distance=10**30, progress=False)
    assert len(everything.groups) == 1
    count: Any = np.int32(2)
    assert len(la.suggest_labels(gallery, count, progress=False)) == 2


def test_a_wrong_call_is_a_type_error_as_ever(gallery: la.Gallery) -> None:
    wrong: Any = la.map
    with pytest.raises(TypeError, match=r"build_map\(\) got an unexpected keyword argument 'sead'"):
        wrong(gallery, sead=1)


def test_results_are_compared_and_hashed_without_their_arrays(gallery: la.Gallery) -> None:
    evaluation = la.evaluate(gallery, match="s", progress=False)
    layout = la.map(gallery, progress=False)
    for result in (evaluation, layout, la.outliers(gallery, progress=False)):
        copied = copy.deepcopy(result)
        assert result == result
        assert result != copied
        assert len({result, copied}) == 2


def test_counts_of_hits_have_a_limit(gallery: la.Gallery) -> None:
    for k in (16_385, 10**30):
        with pytest.raises(la.SettingError, match=rf"^k={k} must be at most 16,384"):
            la.evaluate(gallery, match="s", k=k, progress=False)
        with pytest.raises(la.SettingError, match=rf"^k={k} must be at most 16,384"):
            la.evaluate_robustness(gallery, k=k, progress=False)


def test_labels_belong_to_ids_that_are_integers_too() -> None:
    labels = la.read_labels(pd.Series(["x", "y"]), ids=["0", "1"])
    assert labels.by_id == {"0": ("x",), "1": ("y",)}
    with pytest.raises(la.InputError, match=r"^labels: the label of 0 must be text, .*got bytes"):
        la.read_labels({"0": b"x"})
    wrong: Any = 3
    with pytest.raises(la.SettingError, match=r"^ids=3 must be a list of texts"):
        la.read_labels({"0": "x"}, ids=wrong)


def test_options_of_a_source_are_source_options(tmp_path: Path) -> None:
    options: Any = {"pages": "all"}
    with pytest.raises(la.InputError, match=r"^options must be SourceOptions, not dict"):
        la.open_source(tmp_path, options=options)
    name: Any = 3
    with pytest.raises(la.SettingError, match=r"^name=3 must be a text"):
        la.open_source(tmp_path, name=name)


def test_option_objects_are_checked(tmp_path: Path) -> None:
    options: Any = {"epochs": 1}
    for call in (la.train, la.adapt, la.choose):
        wrong: Any = call
        with pytest.raises(la.SettingError, match=r"^options must be \w+Options, not dict"):
            wrong(tmp_path, options=options)
    fields: Any
    for kind, fields in (
        (la.AdaptOptions, {"views_per_image": "x"}),
        (la.AdaptOptions, {"minutes": []}),
        (la.ChooseOptions, {"train": "yes"}),
        (la.ChooseOptions, {"seed": -1}),
        (la.TrainingOptions, {"epochs": "x"}),
        (la.TrainingOptions, {"resume": 1}),
    ):
        with pytest.raises(la.SettingError, match=rf"^{next(iter(fields))}\b"):
            kind(**fields)
    count: Any = np.int64(3)
    assert type(la.TrainingOptions(epochs=count).epochs) is int


def test_an_interrupt_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lookalike.artifacts import write_atomically

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.png", b"data")
    assert not list(tmp_path.iterdir())
