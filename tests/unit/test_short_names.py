"""Short names of networks on the hub, what the list of encoders says of them, and guesses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookalike import errors
from lookalike.encoders.image_text import ImageTextEncoder
from lookalike.encoders.registry import encoder_specs, find_encoder_spec, open_encoder
from lookalike.encoders.short_names import FAMILIES, GUESSES, HUB_ALIASES, PHOTOGRAPHS
from lookalike.errors import InputError, UnknownNameError
from lookalike.evaluation.candidates import candidate_names
from tests.hub_models import build
from tests.hub_server import HubServer, hub_server
from tests.integration.test_cli import lookalike

CLIP, DINO = HUB_ALIASES["clip-b32"], HUB_ALIASES["dinov2-small"]
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(3)]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Files of small random models by repository, in two precisions."""
    models = {}
    for alias, kind in ((CLIP, "clip"), (DINO, "dinov2")):
        folder = tmp_path_factory.mktemp(kind)
        build(kind, folder)
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        networks = {path: data for path, data in files.items() if path.endswith(".onnx")}
        for ending in ("_quantized", "_fp16"):
            files |= {p.replace(".onnx", f"{ending}.onnx"): d for p, d in networks.items()}
        models[alias.repo] = files
    return models


@pytest.fixture
def hub(
    published: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    with hub_server() as server:
        for repo, files in published.items():
            server.add(repo, files)
        for name, value in server.variables(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield server


def row(name: str) -> dict[str, object]:
    result = lookalike("encoders", name, "--json")
    assert result.returncode == 0, result.stderr
    document: dict[str, object] = json.loads(result.stdout)
    return document


@pytest.mark.slow
def test_a_short_name_opens_the_model_and_the_list_says_so(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = row("clip-b32")
    assert (before["state"], before["cached"], before["text"]) == ("download 156 MB", None, True)
    assert hub.requests == []
    encoder = open_encoder("clip-b32")
    assert isinstance(encoder, ImageTextEncoder)
    assert encoder.name == "clip-b32"
    assert encoder.describe()["origin"]["source"] == f"hub:{CLIP.repo}"
    assert encoder.describe()["origin"]["dtype"] == "q8"
    assert encoder.encode_text("a cat").shape == (encoder.dim,)

    full = open_encoder(CLIP.full_name())
    assert full.fingerprint == encoder.fingerprint
    after = row("clip-b32")
    assert after["state"] == "cached"
    assert str(after["cached"]).endswith("onnx/vision_model_quantized.onnx")
    assert isinstance(after["bytes"], int)
    assert after["bytes"] > 0
    assert row("dinov2-small")["state"] == "download 24 MB"
    count = len(hub.requests)
    monkeypatch.setenv("LOOKALIKE_OFFLINE", "1")
    assert open_encoder("clip-b32").fingerprint == encoder.fingerprint
    assert row("dinov2-small")["state"] == "not cached"
    assert len(hub.requests) == count


@pytest.mark.slow
def test_short_names_take_options_and_precisions(hub: HubServer) -> None:
    encoder = open_encoder("clip-b32,dtype=fp16,mirror")
    rows = encoder.encode(IMAGES)
    mirrored = encoder.encode([np.ascontiguousarray(image[:, ::-1]) for image in IMAGES])
    np.testing.assert_allclose(rows, mirrored, atol=1e-5)
    assert encoder.name == "clip-b32,dtype=fp16,mirror"
    paths = {each.path for each in hub.requests if each.method == "GET"}
    assert any("vision_model_fp16.onnx" in path for path in paths)
    assert not any("quantized" in path for path in paths)
    spec = find_encoder_spec("clip-b32,dtype=fp16")
    assert (spec.download, spec.weight_files(), spec.license) == (None, [], "MIT")
    assert row("clip-b32,dtype=fp16")["state"] is None
    plain = open_encoder("clip-b32,dtype=fp16")
    np.testing.assert_allclose(
        encoder.encode_text("a cat"), plain.encode_text("a cat"), atol=1e-6
    )  # views are of images only


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
def test_texts_are_refused_where_embeddings_are_joined_or_projected() -> None:
    joined = open_encoder("color+clip-b32", IMAGES * 2)
    assert joined.encode(IMAGES).shape == (3, joined.dim)
    assert not joined.supports_text
    with pytest.raises(InputError, match=r"joins several encoders.*--encoder clip-b32$"):
        joined.encode_text("a cat")
    projected = open_encoder("clip-b32,whiten=2", IMAGES)
    with pytest.raises(InputError, match=r"projects embeddings of images.*index with hub:Xenova/"):
        projected.encode_text("a cat")
    with pytest.raises(InputError, match="supports images only"):
        open_encoder("color+texture", IMAGES).encode_text("a cat")


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
def test_networks_that_are_not_here_are_no_candidates() -> None:
    assert "dinov2-small" not in candidate_names()
    assert PHOTOGRAPHS in candidate_names()
    open_encoder("dinov2-small")
    assert "dinov2-small" in candidate_names()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("clip", "'clip-b32' or 'clip-b16'"),
        ("CLIP-ViT-B-32", "'clip-b32' or 'clip-b16'"),
        ("dinov2", "'dinov2-small'"),
        ("siglip", "'siglip-b16' or 'siglip2-b16'"),
        ("resnet50", "'efficientnet-lite0' or 'timm:resnet50'"),
        ("efficientnet", "'efficientnet-lite0'"),
        ("hgo", "'hog'"),
    ],
)
def test_guesses_lead_to_a_name(name: str, meant: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_encoder_spec(name)
    expected = f"unknown encoder {name!r}: did you mean {meant}? all names: lookalike encoders"
    assert str(caught.value) == expected


def test_every_suggested_name_is_one() -> None:
    for names in GUESSES.values():
        for name in names:
            assert find_encoder_spec(name).name == name
    for family in FAMILIES:
        if ":" in family.form:
            assert find_encoder_spec(family.example).source == family.example


def test_the_list_fits_a_terminal_and_is_complete_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(errors, "is_installed", lambda _: False)
    shown = lookalike("encoders").stdout.splitlines()
    assert max(map(len, shown)) <= 80
    for family in FAMILIES:
        assert any(line.startswith(f"{family.example} ") for line in shown), family.example
    for spec in encoder_specs().values():  # each in one line
        lines = [line for line in shown if line.startswith(f"{spec.name} ")]
        assert len(lines) == 1
        assert spec.summary in lines[0]
        if spec.download is not None:
            assert spec.license in lines[0]
            assert f"download {spec.download / 1e6:.0f} MB" in lines[0] or "installed" in lines[0]
    rows = {each["name"]: each for each in json.loads(lookalike("encoders", "--json").stdout)}
    assert set(rows) == {*encoder_specs(), *(family.form for family in FAMILIES)}
    assert row("timm:NAME") == rows["timm:NAME"]
    assert rows["clip-b32"]["download"] == CLIP.download
