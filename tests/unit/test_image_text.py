"""Image-text encoders: small random CLIP and SigLIP models, exported and searched with."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shutil
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.encoders import backbones, image_text_export
from lookalike.encoders.image_text import ImageTextEncoder
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.encoders.sentencepiece_files import sentencepiece_tokenizer
from lookalike.encoders.torchvision_repair import import_beside_torchvision
from lookalike.errors import ArtifactError, InputError, MissingDependencyError
from lookalike.gallery.gallery import Gallery
from lookalike.wire_format import message
from tests import hub_models
from tests.integration.test_cli import lookalike, run

pytestmark = pytest.mark.slow

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "shoe", "blue", "cat", "photo", "of"]
TEXTS = ["a red shoe", "blue cat", "photo of a cat " * 9]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of transformers with tokenizer and image processor."""
    return write_model(tmp_path_factory.mktemp("model") / request.param, request.param)


def write_model(path: Path, kind: str) -> Path:
    """Write a small random model, ``clip`` or ``siglip``, into a folder; return the folder."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    transformers = import_beside_torchvision("transformers", "the tests")

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
        model = transformers.CLIPModel(clip)
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
    name = "CLIPImageProcessor" if kind == "clip" else "SiglipImageProcessor"
    processor = {**size, **mean, "resample": 3, "do_normalize": True, "image_processor_type": name}
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
    transformers = import_beside_torchvision("transformers", "the tests")
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
    assert list(preprocessing.resize) == ([40, 40] if folder.name == "clip" else [])
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


def test_an_export_of_an_older_version_is_made_again(
    encoder: ImageTextEncoder, folder: Path
) -> None:
    name = f"transformers:{folder}"
    cached = backbones.cache_path(re.sub(r"[^\w.\-]", "_", name)).with_suffix("")
    manifest = json.loads((cached / "encoder.json").read_text())
    assert manifest["origin"].pop("export") == 2
    (cached / "encoder.json").write_text(json.dumps(manifest))
    opened = open_encoder(name, [])
    assert isinstance(opened, ImageTextEncoder)
    assert opened.origin["export"] == 2
    assert opened.fingerprint == encoder.fingerprint


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


WORDING = [
    *("a photo of a cat", "A Photo, of a CAT!!", "  two   spaces ", "naïve CAFÉ", "Zebra qux"),
    *("photo-of_a (cat)", "tab\tnew\nline", "cat…", "é", "red shoe " * 40),
]


def write_published(path: Path, kind: str) -> tuple[Any, Any]:
    """Write a small random model as it is published; return it and its own image processor."""
    transformers = import_beside_torchvision("transformers", "the tests")
    torch.manual_seed(0)
    processor = hub_models.SIGLIP_PROCESSOR
    if kind == "clip":
        model, processor = hub_models.clip_model(), hub_models.CLIP_PROCESSOR
        hub_models.clip_tokenizer().save_pretrained(path)
    elif kind == "altclip":
        model, processor = altclip_model(transformers), hub_models.CLIP_PROCESSOR
        transformers.XLMRobertaTokenizer(vocab=xlm_vocabulary()).save_pretrained(path)
    else:
        model = hub_models.siglip_model()
    model.save_pretrained(path)
    if kind == "siglip":
        (path / "spiece.model").write_bytes(trained_pieces())
        fields = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>"}
        (path / "tokenizer_config.json").write_text(json.dumps(fields))
    elif kind == "siglip2":
        hub_models.gemma_tokenizer("Siglip2Tokenizer").save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    own = hub_models.pil_processor("siglip" if "siglip" in kind else "clip", processor)
    return model, own


def altclip_model(transformers: Any) -> Any:
    text = {**hub_models.SMALL, "vocab_size": len(xlm_vocabulary()), "project_dim": 16}
    text |= {"max_position_embeddings": 40, "pad_token_id": 1}
    config = transformers.AltCLIPConfig(
        text_config=text, vision_config=hub_models.VISION, projection_dim=16
    )
    return hub_models.enlarged(transformers.AltCLIPModel(config))


def xlm_vocabulary() -> list[tuple[str, float]]:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(each, -3.0 - i / 50) for i, each in enumerate(string.ascii_letters + "!,.")]
    return [*pieces, ("<mask>", 0.0)]


def trained_pieces() -> bytes:
    """Return a model of SentencePiece with the settings of SigLIP's."""
    file, rng = io.BytesIO(), np.random.default_rng(0)
    words = ["a", "photo", "of", "cat", "dog", "red", "shoe", "table", "green", "shirts", "café"]
    sentencepiece = importlib.import_module("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(rng.choice(words, 6)) for _ in range(1_000)),
        model_writer=file,
        vocab_size=30,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        minloglevel=3,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    return file.getvalue()


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2", "altclip"])
def test_published_models_agree_with_transformers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images and texts as they come, through transformers' own image processor and tokenizer."""
    transformers = import_beside_torchvision("transformers", "the tests")
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "cache"))
    model, processor = write_published(tmp_path / kind, kind)
    encoder = open_encoder(f"transformers:{tmp_path / kind}", [])
    assert isinstance(encoder, ImageTextEncoder)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((50, 70, 3), (64, 40, 3))]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / kind)
    length = {"clip": 77, "altclip": 38}.get(kind, 64)
    options = {"padding": "max_length", "truncation": True, "max_length": length}
    tokens = tokenizer(WORDING, padding_side="right", return_tensors="pt", **options)
    if "siglip" in kind:
        tokens = {"input_ids": tokens["input_ids"]}  # trained without a mask
    with torch.no_grad():
        of_images = model.get_image_features(hub_models.processed(processor, images))
        of_texts = model.get_text_features(**tokens)
    np.testing.assert_allclose(
        encoder.encode(images), hub_models.unit(of_images.pooler_output), atol=1e-4
    )
    np.testing.assert_allclose(
        encoder.encode_text(WORDING), hub_models.unit(of_texts.pooler_output), atol=1e-4
    )
    scale = model.logit_scale.exp().item()
    assert encoder.logits is not None
    assert encoder.logits["scale"] == pytest.approx(scale, rel=1e-5)


def test_pieces_are_tokenized_as_by_sentencepiece() -> None:
    """The document alone, without SigLIP's rules, on every kind of character of its table."""
    import tokenizers

    data = trained_pieces()
    sentencepiece = importlib.import_module("sentencepiece")
    reference = sentencepiece.SentencePieceProcessor(model_proto=data)
    tokenizer = tokenizers.Tokenizer.from_str(sentencepiece_tokenizer(data).decode())
    rng = np.random.default_rng(0)
    letters = list("abcdefgh  éÅß½①ﬁ,.猫’\u00a0\t")
    texts = ["".join(rng.choice(letters, rng.integers(1, 40))) for _ in range(500)]
    for text in (*texts, *WORDING, "!"):
        assert tokenizer.encode(text).ids == [*reference.encode(text), 1], repr(text)


@pytest.mark.parametrize("data", [b"", b"no", b"\x0a\x02\x08\x01"])
def test_broken_pieces_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"spiece\.model: is not a model of SentencePiece"):
        sentencepiece_tokenizer(data)


def test_pieces_of_another_kind_are_refused() -> None:
    data = trained_pieces()
    with pytest.raises(ArtifactError, match="is not a unigram model of SentencePiece with the tok"):
        sentencepiece_tokenizer(data, end="</end>")


def refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the message of a model that is refused."""
    monkeypatch.setenv("LOOKALIKE_DATA", str(path.parent / "cache"))
    with pytest.raises(InputError) as error:
        open_encoder(f"transformers:{path}", [])
    assert str(error.value).startswith(f"encoder 'transformers:{path}': ")
    return str(error.value)


def test_broken_table_of_characters_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the package tokenizers finds, with a panic."""
    write_published(tmp_path / "m", "siglip")
    pieces = tmp_path / "m" / "spiece.model"
    pieces.write_bytes(pieces.read_bytes() + b"".join(message((3, message((2, b"\xff" * 9))))))
    assert "its tokenizer cannot be loaded" in refused(tmp_path / "m", monkeypatch)


def test_naflex_is_refused_with_what_to_use_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = import_beside_torchvision("transformers", "the tests")
    text = {**hub_models.SMALL, "vocab_size": 64, "projection_size": 32}
    config = transformers.Siglip2Config(
        text_config=text, vision_config={**hub_models.SMALL, "num_patches": 16, "patch_size": 8}
    )
    transformers.Siglip2Model(config).save_pretrained(tmp_path / "m")
    message = refused(tmp_path / "m", monkeypatch)
    assert "patches of images of any aspect ratio (naflex)" in message
    assert "google/siglip2-base-patch16-224" in message
    assert "hub:OWNER/NAME" in message


def test_other_models_are_refused_by_their_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = import_beside_torchvision("transformers", "the tests")
    config = transformers.ViTConfig(**hub_models.VISION)
    transformers.ViTModel(config).save_pretrained(tmp_path / "m")
    message = refused(tmp_path / "m", monkeypatch)
    assert "a model of the type 'vit', which does not embed images and texts in one spac" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"preprocessor_config.json": None}, "has no preprocessor_config.json"),
        ({"preprocessor_config.json": {"do_pad": True}}, "do_pad"),
        ({"preprocessor_config.json": {"crop_size": {"height": 40, "width": 40}}}, "not accept"),
        ({"tokenizer.json": None}, "its tokenizer"),
    ],
)
def test_processing_that_is_not_known_is_refused(
    change: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "m", "clip")
    for name, fields in change.items():
        path = tmp_path / "m" / name
        if fields is None:
            path.unlink()
        else:
            path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    assert expected in refused(tmp_path / "m", monkeypatch)


@pytest.mark.parametrize("package", ["sentencepiece", "protobuf"])
def test_packages_of_tokenizers_are_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = import_beside_torchvision("transformers", "the tests")
    write_model(tmp_path / "m", "clip")

    def fail(_: str) -> None:
        raise ImportError(f"this tokenizer requires the {package} library")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    monkeypatch.setattr(image_text_export, "_installed", lambda _: False)
    message = refused(tmp_path / "m", monkeypatch)
    assert message.endswith(f"its tokenizer needs {package}: pip install {package}")
    monkeypatch.setattr(image_text_export, "_installed", lambda _: True)
    assert f"(this tokenizer requires the {package} library)" in refused(
        tmp_path / "m", monkeypatch
    )


OPENS = """
import sys
from lookalike.encoders.registry import open_encoder
encoder = open_encoder(f"transformers:{sys.argv[1]}", [])
print(encoder.dim, encoder.encode_text("a red shoe").shape)
"""


def test_opens_in_the_environment_of_make(tmp_path: Path) -> None:
    """In a process that imports nothing before: torchvision may be built for another torch."""
    model = write_model(tmp_path / "m", "clip")
    done = subprocess.run(
        [sys.executable, "-c", OPENS, str(model)],
        capture_output=True,
        text=True,
        env={**os.environ, "LOOKALIKE_DATA": str(tmp_path / "cache")},
        check=False,
    )
    assert (done.stdout, done.returncode) == ("16 (16,)\n", 0), done.stderr
