"""Image-text encoders: small random CLIP and SigLIP models, exported and searched with."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.encoders.image_text import ImageTextEncoder
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, InputError, MissingDependencyError
from lookalike.gallery.gallery import Gallery
from tests.conftest import Require, without_torchvision
from tests.integration.test_cli import lookalike, run

pytestmark = pytest.mark.slow

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "shoe", "blue", "cat", "photo", "of"]
TEXTS = ["a red shoe", "blue cat", "photo of a cat " * 9]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(
    request: pytest.FixtureRequest, require: Require, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model folder of transformers with tokenizer and image processor."""
    without_torchvision(require, "transformers")
    return write_model(tmp_path_factory.mktemp("model") / request.param, request.param)


def write_model(path: Path, kind: str) -> Path:
    """Write a small random model, ``clip`` or ``siglip``, into a folder; return the folder."""
    import tokenizers
    import transformers
    from tokenizers import models, pre_tokenizers, processors

    backend = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = ["input_ids", "attention_mask"] if kind == "clip" else ["input_ids"]
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=names,
    ).save_pretrained(path)
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {**small, "vocab_size": len(WORDS), "max_position_embeddings": 12, "eos_token_id": 2}
    image = {**small, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    if kind == "clip":
        projection: dict[str, Any] = {"projection_dim": 16}
        clip = transformers.CLIPConfig(
            text_config={**text, **projection}, vision_config={**image, **projection}, **projection
        )
        model: transformers.PreTrainedModel = transformers.CLIPModel(clip)
        size = {
            "size": {"shortest_edge": 40},
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
        }
    else:
        siglip = transformers.SiglipConfig(
            text_config={**text, "projection_size": 32}, vision_config=image
        )
        model = transformers.SiglipModel(siglip)
        size = {"size": {"height": 32, "width": 32}}
    model.save_pretrained(path)
    mean = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    processor = {**size, **mean, "resample": 3, "do_normalize": True, "image_processor_type": "x"}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def encoder(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> ImageTextEncoder:
    monkeypatch.setenv("LOOKALIKE_DATA", str(cache))
    opened = open_encoder(f"transformers:{folder}", [])
    assert isinstance(opened, ImageTextEncoder)
    return opened


def test_embeddings_match_transformers(encoder: ImageTextEncoder, folder: Path) -> None:
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (50, 70, 3), dtype=np.uint8) for _ in range(3)]
    embeddings = encoder.encode(images)
    tokens = tokenizer(
        TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt"
    )
    assert set(tokens) == set(tokenizer.model_input_names)
    with torch.no_grad():
        expected_images = model.get_image_features(torch.from_numpy(encoder.prepare(images)))
        expected_texts = model.get_text_features(**tokens)
    for actual, output in (
        (embeddings, expected_images),
        (encoder.encode_text(TEXTS), expected_texts),
    ):
        rows = torch.nn.functional.normalize(getattr(output, "pooler_output", output))
        np.testing.assert_allclose(actual, rows.numpy(), atol=1e-4)
    alone = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, encoder.encode_text(TEXTS), atol=1e-5)
    assert embeddings.shape[1] == encoder.encode_text(TEXTS).shape[1] == encoder.dim


def test_preprocessing_follows_the_image_processor(encoder: ImageTextEncoder, folder: Path) -> None:
    preprocessing = encoder.preprocessing
    assert (preprocessing.height, preprocessing.filter) == (32, "bicubic")
    assert preprocessing.crop == (0.8 if folder.name == "clip" else None)
    assert list(preprocessing.mean) == [0.48, 0.46, 0.41]


def test_cached_export_needs_neither_torch_nor_transformers(
    encoder: ImageTextEncoder, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    cached = open_encoder(f"transformers:{folder}", [])
    save_encoder(cached, tmp_path / "e")
    loaded = load_encoder(tmp_path / "e")
    assert isinstance(loaded, ImageTextEncoder)
    assert loaded.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(loaded.encode_text(TEXTS), encoder.encode_text(TEXTS))
    (tmp_path / "e" / "text.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError):
        load_encoder(tmp_path / "e")
    with pytest.raises(MissingDependencyError, match=r"pip install 'lookalike\[transformers\]'"):
        open_encoder(f"transformers:{tmp_path}", [])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    reopened = open_encoder(f"transformers:{folder}", [])
    assert isinstance(reopened, ImageTextEncoder)
    with pytest.raises(MissingDependencyError, match="text search needs"):
        reopened.encode_text(["a"])
    Gallery.create(tmp_path / "g", encoder=reopened)
    with pytest.raises(MissingDependencyError) as missing:
        Gallery.open(tmp_path / "g").search(text="a")
    done = lookalike("search", "g", "--text", "a", cwd=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (2, f"lookalike: error: {missing.value}")


def test_gallery_is_searched_by_text(
    encoder: ImageTextEncoder, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(8):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    gallery = Gallery.create(tmp_path / "g", encoder=encoder)
    gallery.sync(tmp_path / "photos")
    hits = Gallery.open(tmp_path / "g").search(text="a red shoe", k=8)
    rows = gallery.store.get([hit.id for hit in hits]).embeddings
    distances = 1 - rows @ encoder.encode_text(["a red shoe"])[0]
    np.testing.assert_allclose([hit.distance for hit in hits], distances, atol=1e-5)
    assert hits.query == "a red shoe"
    shown = json.loads(run("search", "g", "--text", "a red shoe", "--json", cwd=tmp_path))
    assert [hit["id"] for hit in shown["hits"]] == [hit.id for hit in hits][:7]
    run("search", "g", "--text", "blue cat", "--image", "w.png", cwd=tmp_path)
    assert (tmp_path / "w.png").exists()
    with pytest.raises(InputError, match="the text query is empty"):
        gallery.search(text="  ")
    message = "query and text exclude each other"
    with pytest.raises(InputError, match=message):
        gallery.search("x.png", text="a")


def test_folder_without_an_image_text_model_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "cache"))
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{}")
    for name in (tmp_path / "m", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="cannot load an image-text model from it"):
            open_encoder(f"transformers:{name}", [])
    assert not (tmp_path / "cache").exists()
