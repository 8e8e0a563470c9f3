"""Encoders of other packages: opened by name, saved, and restored from what they saved."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import lookalike as la
from lookalike.encoders.composite import combine
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import encoder_specs, open_encoder
from lookalike.errors import ArtifactError, InputError, SettingError, UnknownNameError

CODE = '''
import hashlib
import numpy as np
from lookalike.encoders import Encoder, EncoderSpec

class Stripes(Encoder):
    """The mean gray level of horizontal bands, times a weight."""

    kind = "stripes"
    normalized = False

    def __init__(self, name, weights):
        self.name, self.weights, self.dim = name, weights, len(weights)
        self.fingerprint = hashlib.sha256(b"stripes" + weights.tobytes()).hexdigest()

    def encode_batch(self, images):
        bands = [[b.mean() for b in np.array_split(i, self.dim)] for i in images]
        return np.array(bands, np.float32).reshape(-1, self.dim) * self.weights

    def files(self):
        return {"weights.bin": self.weights.tobytes()}

    def describe(self):
        return {"kind": self.kind, "name": self.name, "bands": self.dim}

    @classmethod
    def restore(cls, description, files):
        bands = description.integer("bands", 1, 64)
        weights = np.frombuffer(files["weights.bin"], np.float32)
        if len(weights) != bands:
            raise ValueError("other weights")
        return cls(description.text("name"), weights)

def fit(name, sample):
    return Stripes(name, np.full(4, 1 + len(sample), np.float32))

SPEC = EncoderSpec("stripes", "mean of bands", fit, sample=0, kind="stripes",
                   files=("weights.bin",), restore=Stripes.restore)
FITTED = EncoderSpec("fitted-stripes", "mean of bands", fit, sample=2, kind="stripes",
                     files=("weights.bin",), restore=Stripes.restore)
OTHER = EncoderSpec("other", "another", fit, kind="stripes", restore=lambda d, f: None)
NOTHING = EncoderSpec("nothing", "opens something else", lambda name, sample: 3, sample=0)
TWICE = EncoderSpec("hog", "the name of another", fit)
TEXT = "no spec"
'''

Install = Callable[..., None]
IMAGES = [np.random.default_rng(i).integers(0, 256, (12, 9)).astype(np.uint8) for i in range(5)]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package with entry points ``name = module:object``, as pip does."""
    site = tmp_path / "site"
    info = site / "stripes-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "stripes_encoder.py").write_text(CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(site)

    def write(**objects: str) -> None:
        lines = [f"{name} = {target}" for name, target in objects.items()]
        text = "\n".join(["[lookalike.encoders]", *lines, ""])
        (info / "entry_points.txt").write_text(text)

    write(stripes="stripes_encoder:SPEC", fitted="stripes_encoder:FITTED")
    yield write
    sys.modules.pop("stripes_encoder", None)


def test_opened_by_name(install: Install) -> None:
    encoder = open_encoder("stripes")
    assert repr(encoder).startswith("<Encoder 'stripes' dim=4 fingerprint=")
    assert encoder.encode(IMAGES[0]).shape == (4,)
    assert encoder.encode(IMAGES).shape == (5, 4)
    with pytest.raises(InputError, match=r"open_encoder\('fitted-stripes', 'photos'\)"):
        open_encoder("fitted-stripes")
    assert open_encoder("fitted-stripes", IMAGES).encode([IMAGES[0]])[0, 0] == pytest.approx(
        encoder.encode(IMAGES[0])[0] * 3
    )
    assert "stripes" in encoder_specs()


def test_saved_and_restored(install: Install, tmp_path: Path) -> None:
    encoder = open_encoder("stripes")
    mixed = combine([encoder, open_encoder("color", IMAGES)])
    for number, each in enumerate((encoder, mixed, open_encoder("stripes,mirror"))):
        save_encoder(each, tmp_path / f"{number}.encoder")
        loaded = la.open_encoder(tmp_path / f"{number}.encoder")
        assert loaded.fingerprint == each.fingerprint
        np.testing.assert_array_equal(loaded.encode(IMAGES), each.encode(IMAGES))


def test_gallery_opens_with_the_package_and_names_it_without(
    install: Install, tmp_path: Path
) -> None:
    path = tmp_path / "g.gallery"
    la.Gallery.create(path, encoder=open_encoder("stripes"))
    assert la.Gallery.open(path).encoder.name == "stripes"
    install()
    with pytest.raises(
        ArtifactError, match=r"no installed package restores encoders of kind 'stripes'; install"
    ):
        _ = la.Gallery.open(path).encoder.name


def test_saved_encoder_is_checked_like_others(install: Install, tmp_path: Path) -> None:
    folder = tmp_path / "e"
    save_encoder(open_encoder("stripes"), folder)
    described = (folder / "encoder.json").read_text()
    changes: tuple[dict[str, object], ...] = (
        {"bands": 3},
        {"bands": "four"},
        {"files": ["weights.bin", "model.onnx"], "sha256": {}},
        {"files": ["../weights.bin"], "sha256": {}},
        {"files": [], "sha256": {}},
        {"fingerprint": "0" * 64},
        {"dim": 3},
    )
    for change in changes:
        (folder / "encoder.json").write_text(json.dumps({**json.loads(described), **change}))
        with pytest.raises(ArtifactError):
            load_encoder(folder)
    (folder / "encoder.json").write_text(described)
    (folder / "weights.bin").write_bytes(bytes(16))
    with pytest.raises(ArtifactError, match=r"weights\.bin has changed"):
        load_encoder(folder)


def test_two_ways_to_restore_a_kind_are_refused(install: Install, tmp_path: Path) -> None:
    save_encoder(open_encoder("stripes"), tmp_path / "e")
    install(stripes="stripes_encoder:SPEC", other="stripes_encoder:OTHER")
    with pytest.raises(SettingError, match="kind 'stripes' are registered by several packages"):
        load_encoder(tmp_path / "e")
    install(other="stripes_encoder:OTHER")
    with pytest.raises(ArtifactError, match="weights"):  # not a file of this registration
        load_encoder(tmp_path / "e")


def test_broken_package_leaves_the_others(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(
        stripes="stripes_encoder:SPEC",
        missing="stripes_encoder:MISSING",
        gone="no_such_module:SPEC",
        text="stripes_encoder:TEXT",
    )
    with caplog.at_level(logging.WARNING, "lookalike"):
        assert open_encoder("color", IMAGES).name == "color"
        assert open_encoder("stripes").name == "stripes"
    for reason in ("'missing'", "No module named 'no_such_module'", "it is str, not an Enc"):
        assert reason in caplog.text
    with pytest.raises(UnknownNameError):
        open_encoder("missing")


def test_what_is_opened_must_be_an_encoder(install: Install) -> None:
    install(nothing="stripes_encoder:NOTHING")
    with pytest.raises(InputError, match=r"'nothing': .* opens int, not an Encoder"):
        open_encoder("nothing")


def test_names_are_registered_once(install: Install) -> None:
    install(twice="stripes_encoder:TWICE")
    with pytest.raises(SettingError, match="two encoders are called 'hog'"):
        open_encoder("color", IMAGES)
