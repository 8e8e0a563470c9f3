"""Concatenated encoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lookalike as la
from lookalike.encoders.composite import combine
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import find_encoder_spec, open_encoder
from lookalike.errors import ArtifactError, InputError, UnknownNameError

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(8)]


def test_embeddings_are_concatenated_with_weights() -> None:
    hog, color = open_encoder("hog", IMAGES), open_encoder("color", IMAGES)
    combined = combine([hog, color], [1, 0.5])
    embeddings = combined.encode(IMAGES)
    assert embeddings.shape == (8, combined.dim) == (8, hog.dim + color.dim)
    assert embeddings.dtype == np.float32
    slow = np.hstack([hog.encode(IMAGES), 0.5 * color.encode(IMAGES)]) / np.sqrt(1.25)
    np.testing.assert_allclose(embeddings, slow, atol=1e-6)
    assert combined.name == "hog+color"


def test_embeddings_are_normalized_before_concatenation() -> None:
    pixels, hog = open_encoder("pixels", IMAGES), open_encoder("hog", IMAGES)
    embeddings = combine([pixels, hog]).encode([*IMAGES, np.zeros((9, 9), np.uint8)])
    np.testing.assert_allclose(
        np.linalg.norm(embeddings[:8, : pixels.dim], axis=1), 0.5**0.5, atol=1e-5
    )
    assert not embeddings[8].any()


def test_joined_names_open_save_and_load(tmp_path: Path) -> None:
    encoder = open_encoder("pixels+untrained", IMAGES)
    assert find_encoder_spec("pixels+untrained").sample == 200
    save_encoder(encoder, tmp_path / "e")
    again = load_encoder(tmp_path / "e")
    assert (again.name, again.fingerprint) == (encoder.name, encoder.fingerprint)
    np.testing.assert_array_equal(again.encode(IMAGES), encoder.encode(IMAGES))
    gallery = la.Gallery.create(tmp_path / "g", encoder=again)
    assert gallery.encoder.dim == encoder.dim
    next((tmp_path / "e").glob("1-*")).unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_encoder(tmp_path / "e")


def test_fingerprint_depends_on_weights_and_encoders() -> None:
    hog, color = open_encoder("hog", IMAGES), open_encoder("color", IMAGES)
    prints = {
        combine([hog, color]).fingerprint,
        combine([color, hog]).fingerprint,
        combine([hog, color], [1, 2]).fingerprint,
        combine([hog, hog]).fingerprint,
    }
    assert len(prints) == 4
    assert combine([hog, color], name="x").fingerprint in prints


def test_invalid_combinations_are_refused() -> None:
    hog = open_encoder("hog", IMAGES)
    with pytest.raises(InputError, match="at least 2 encoders, got 1"):
        combine([hog])
    for weights in ([1], [1, 0], [1, float("nan")]):
        with pytest.raises(InputError, match="one weight above 0 for each of 2"):
            combine([hog, hog], weights)
    with pytest.raises(UnknownNameError, match="did you mean 'color'"):
        open_encoder("hog+colr", IMAGES)
