"""Uses of each part, as commands use it: ``python -m lookalike.diagnostics.probes NAME``.

A probe ends with 0, and prints what it did where that varies; or with 1 and the reason.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lookalike.encoders.torchvision_repair import (
    import_beside_torchvision,
    torchvision_lacks_operators,
)

_IMAGES = 30


def _encode() -> None:
    from lookalike.encoders.registry import open_encoder

    open_encoder("untrained", []).encode_batch([np.zeros((28, 28), np.uint8)])


def _rows() -> None:
    with _gallery() as gallery:
        hits = gallery.search(id="photos:0.png", k=3)
        _expect(len(hits) == 3, "a search found too few rows")


def _images() -> str:
    from lookalike.images.decode import decode
    from lookalike.images.formats import supported_formats

    readable = []
    for name in supported_formats():
        file = io.BytesIO()
        try:
            Image.new("RGB", (8, 8)).save(file, name)
        except (KeyError, OSError):  # a format that Pillow cannot write; it has its own probe
            continue
        decode(file.getvalue(), name=f"a.{name.lower()}")
        readable.append(name)
    return ", ".join(readable)


def _charts() -> None:
    from lookalike.report import figures

    figures.interval_chart([figures.Bar("a", 0.5, 0.4, 0.6)], "a").encode("png")


def _torch() -> None:
    from lookalike.training.networks import linear

    torch: Any = importlib.import_module("torch")
    network = linear()
    images = torch.rand(4, 1, 28, 28)
    optimizer = torch.optim.Adam(network.parameters())
    ((network(images) - images) ** 2).mean().backward()
    optimizer.step()


def _onnxscript() -> None:
    from lookalike.encoders.export import to_onnx
    from lookalike.encoders.onnx import OnnxModel
    from lookalike.training.networks import linear

    torch: Any = importlib.import_module("torch")
    example = torch.zeros(2, 1, 28, 28)
    model = OnnxModel(to_onnx(linear().encoder.eval(), example), name="a small encoder")
    model(np.zeros((2, 1, 28, 28), np.float32))


def _backbone(name: str) -> None:
    from lookalike.encoders.registry import open_encoder

    open_encoder(name, []).encode_batch([np.zeros((64, 64, 3), np.uint8)])


def _timm() -> str:
    timm: Any = import_beside_torchvision("timm", "encoders timm:NAME")
    torch: Any = importlib.import_module("torch")
    network = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    network.eval()(torch.zeros(1, 3, 64, 64))
    return _about_torchvision()


def _transformers() -> str:
    transformers: Any = import_beside_torchvision("transformers", "encoders transformers:NAME")
    torch: Any = importlib.import_module("torch")
    importlib.import_module("transformers.image_processing_base")
    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=16,
        patch_size=8,
    )
    transformers.CLIPVisionModel(config).eval()(torch.zeros(1, 3, 16, 16))
    return _about_torchvision()


def _about_torchvision() -> str:
    if torchvision_lacks_operators():
        return "; torchvision's own operators do not load beside this torch and are not needed"
    return ""


def _tokenizers() -> None:
    tokenizers: Any = importlib.import_module("tokenizers")
    model = tokenizers.models.WordLevel({"a": 0, "dog": 1}, unk_token="a")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    _expect(tokenizer.encode("a dog").ids == [0, 1], "a text was encoded wrongly")


def _service() -> None:
    from lookalike.client import Client
    from lookalike.server.app import create_app
    from lookalike.server.settings import LOOPBACK, ServeSettings
    from lookalike.server.uvicorn_server import create_server, listen

    with _gallery() as gallery, listen("127.0.0.1", 0) as listening:
        options = ServeSettings(hosts=LOOPBACK)
        server = create_server(create_app({"photos": gallery}, options), options.limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            remote = Client(f"http://127.0.0.1:{listening.getsockname()[1]}").gallery("photos")
            hits = remote.search(_png(0), k=3)
            _expect(hits[0].id == "photos:0.png", "a search found another image")
        finally:
            server.should_exit = True
            thread.join()


def _label() -> None:
    from lookalike.labels.suggest import suggest_labels

    with _gallery() as gallery:
        result = suggest_labels(gallery, 3, progress=False)
        _expect(len(result.ids) == 3, "suggestions lack images")


def _map() -> None:
    from lookalike.explore import build_map

    with _gallery() as gallery:
        result = build_map(gallery, progress=False)
        _expect(len(result.ids) == _IMAGES, "a map lacks images")


def _heif() -> None:
    pi_heif: Any = importlib.import_module("pi_heif")
    _expect(bool(pi_heif.libheif_info()["decoders"]), "libheif was built without a HEVC decoder")


def _raw() -> None:
    importlib.import_module("rawpy")


def _jxl() -> None:
    pyjpegxl: Any = importlib.import_module("pyjpegxl")
    pixels = np.zeros((8, 8, 3), np.uint8)
    _decode(pyjpegxl.encode_from_numpy(pixels), "a.jxl", (8, 8, 3))


def _svg() -> None:
    box = '<rect width="8" height="8" fill="red"/>'
    data = f'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8">{box}</svg>'
    _decode(data.encode(), "a.svg", None)


def _tifffile() -> None:
    tifffile: Any = importlib.import_module("tifffile")
    file = io.BytesIO()
    bands = np.zeros((8, 8, 5), np.uint8)
    tifffile.imwrite(file, bands, photometric="minisblack", planarconfig="contig")
    _expect(tifffile.imread(io.BytesIO(file.getvalue())).shape == (8, 8, 5), "bands are missing")


def _geometric() -> None:
    from lookalike.images.local_features import extract_features

    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    image = Image.fromarray(noise).resize((256, 256))
    _expect(len(extract_features(np.asarray(image)).points) > 0, "no feature was found")


def _watch() -> None:
    watchfiles: Any = importlib.import_module("watchfiles")
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        next(watchfiles.watch(folder, yield_on_timeout=True, rust_timeout=10))


def _ann() -> None:
    from lookalike.stores.embedded.graph import new_index
    from lookalike.types import Metric

    index = new_index(Metric.COSINE, 8, writable=True)
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index.add(np.arange(100, dtype=np.uint64), vectors, threads=1)
    _expect(index.search(vectors[7], 1, threads=1).keys.tolist() == [7], "it found another row")


def _stamps() -> None:
    data: Any = importlib.import_module("skimage.data")
    _expect(data.coffee().ndim == 3, "a photograph is missing")


def _parquet() -> None:
    from lookalike.sources.tables import read_table

    with _gallery() as gallery:
        path = gallery.path.with_name("rows.parquet")
        gallery.export(path, progress=False)
        _expect(len(read_table(path).rows) == _IMAGES, "a file lacks rows")


def _lance() -> None:
    from lookalike.stores.lance_tables import LanceTable

    with _gallery() as gallery:
        path = gallery.path.with_name("rows.lance")
        gallery.export(path, layout="lance", progress=False)
        _expect(LanceTable(path).count() == _IMAGES, "a table lacks rows")


def _milvus() -> None:
    from lookalike.errors import UnreachableError
    from lookalike.stores.milvus.address import Address
    from lookalike.stores.milvus.store import MilvusStore

    with contextlib.suppress(UnreachableError):
        MilvusStore.find(Address.parse("milvus://127.0.0.1:9/doctor"))


def _ray() -> None:
    importlib.import_module("ray")


PROBES: Mapping[str, Callable[[], str | None]] = {
    "embeddings": _encode,
    "rows": _rows,
    "images": _images,
    "charts": _charts,
    "torch": _torch,
    "onnxscript": _onnxscript,
    "timm": _timm,
    "transformers": _transformers,
    "tokenizers": _tokenizers,
    "service": _service,
    "label": _label,
    "map": _map,
    "heif": _heif,
    "raw": _raw,
    "jxl": _jxl,
    "svg": _svg,
    "tifffile": _tifffile,
    "geometric": _geometric,
    "watch": _watch,
    "ann": _ann,
    "parquet": _parquet,
    "lance": _lance,
    "stamps": _stamps,
    "milvus": _milvus,
    "ray": _ray,
}
"""The probe of each part; a pretrained encoder is tried by its own name."""


@contextlib.contextmanager
def _gallery() -> Iterator[Any]:
    """Yield a gallery of small images in a temporary folder."""
    from lookalike.encoders.registry import open_encoder
    from lookalike.gallery.gallery import Gallery

    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        for number in range(_IMAGES):
            (photos / f"{number}.png").write_bytes(_png(number))
        encoder = open_encoder("color", [np.zeros((16, 16, 3), np.uint8)])
        gallery = Gallery.create(Path(folder) / "photos.gallery", encoder=encoder)
        gallery.sync(photos)
        yield gallery


def _png(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _decode(data: bytes, name: str, shape: tuple[int, ...] | None) -> None:
    from lookalike.images.decode import decode

    image = decode(data, name=name)
    _expect(shape in (None, image.shape), f"decoded to {image.shape}")


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise RuntimeError(otherwise)


def _run(name: str) -> int:
    """Run a probe and print its result, or why it failed; return the exit code."""
    probe = PROBES.get(name, partial(_backbone, name))
    try:
        said = probe()
    except Exception as error:  # noqa: BLE001 - whatever is wrong is the result of the probe
        reason = (str(error).splitlines() or [""])[0]
        sys.stdout.write(f"\n{type(error).__name__}: {reason}\n")
        return 1
    sys.stdout.write(f"\n{said or ''}\n")
    return 0


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1]))
