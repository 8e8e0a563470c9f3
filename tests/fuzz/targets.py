"""The parsers of strangers' bytes, each with valid inputs to start from."""

from __future__ import annotations

import atexit
import contextlib
import gzip
import io
import json
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import QueryParams

from lookalike.cancellation import check_cancelled
from lookalike.client import Client
from lookalike.documents import parse_json
from lookalike.encoders.handcrafted import Pca
from lookalike.encoders.image_processor import read_image_processor
from lookalike.encoders.onnx_files import check_model, external_files, with_external_data
from lookalike.encoders.onnx_parts import extract, read_signature
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.encoders.sentencepiece_files import sentencepiece_tokenizer
from lookalike.encoders.tokenization import text_tokenizer
from lookalike.errors import LookalikeError
from lookalike.evaluation.ground_truth import is_header, read_ground_truth
from lookalike.evaluation.human_judgements import FORMAT, VERSION, read_judgement_files
from lookalike.evaluation.saved import FILE as EVALUATION_FILE
from lookalike.evaluation.saved import SavedEvaluation, load_saved_evaluation
from lookalike.explore import build_map, load_map
from lookalike.filters import MetadataColumns, as_filter
from lookalike.filters.facets import Facet
from lookalike.filters.text import parse as parse_filter
from lookalike.gallery.archive import FILE as ARCHIVE
from lookalike.gallery.derived import EVALUATION, LABELING, Origin
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import neighbor_graph
from lookalike.gallery.removed import FILE as REMOVED
from lookalike.gallery.state import GalleryState
from lookalike.images.decode import decode_with_notes
from lookalike.images.formats import HEADER_BYTES, detect_format
from lookalike.images.header import read_header
from lookalike.images.metadata_stripping import open_parts, size_of, strip_metadata
from lookalike.images.options import DecodeOptions
from lookalike.labels.session import load_session, save_session
from lookalike.metadata import check_metadata, parse_metadata, storable_metadata
from lookalike.onnx_graph import append
from lookalike.report.page import Page, Section, Table, render_page
from lookalike.search.request import Query, SentImage
from lookalike.server.api_keys import read_keys
from lookalike.server.cursors import Cursor
from lookalike.server.decoder_pool import UPLOAD_MEGAPIXELS
from lookalike.sources import Source, open_source
from lookalike.sources.arrays import load_idx
from lookalike.sources.labels import LabelSet, read_labels
from lookalike.stores.milvus.address import Address
from lookalike.torch_files import read_state
from lookalike.training import checkpoints
from lookalike.training.run_folder import CHECKPOINT_MANIFEST
from lookalike.types import Metric
from lookalike.wire_format import message
from tests.fuzz.engine import Target
from tests.fuzz.mutators import mutate_bytes, mutate_json, mutate_text

CASES = Path(__file__).parent / "cases"
"""Inputs that were crashes, in a folder for each target."""


@cache
def _folder() -> Path:
    """Return a folder for the files that parsers read, in memory where there is such a disk."""
    shared = Path("/dev/shm")
    folder = Path(
        tempfile.mkdtemp(prefix="lookalike-fuzz-", dir=shared if shared.is_dir() else None)
    )
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _in_file(name: str, parse: Callable[[Path], object]) -> Callable[[bytes], None]:
    """Return a parser of bytes that reads them from a file."""

    def run(data: bytes) -> None:
        path = _folder() / name
        path.write_bytes(data)
        parse(path)

    return run


# ---------------------------------------------------------------- filters

_ROWS: tuple[Mapping[str, Any], ...] = (
    {"label": "cat", "year": 2020, "tags": ["a", "b"], "score": 0.5, "new": True},
    {"label": "dög", "year": 10**400, "tags": [], "deep": {"a": [1, {"b": None}]}},
    {"label": None, "year": "2020", "score": -1e308, "a b": "x" * 500, "": "e\u0301" * 200},
    *({"label": f"k{number % 7}", "year": number} for number in range(200)),
)


def _evaluate(where: Any) -> None:
    columns = MetadataColumns(_ROWS)
    as_filter(where).mask(columns)
    check_cancelled()


def _filter_text(data: bytes) -> None:
    _evaluate(parse_filter(data.decode("utf-8", "surrogateescape")))


def _filter_structure(data: bytes) -> None:
    _evaluate(parse_json(data, "filter", error=LookalikeError))


_FILTERS = (
    b"year >= 2020 and label != 'cat'",
    b"not (label in ('a', 'b', 3) or `a b` is not null) and score < -1.5e3",
    b"label like '%_c%' or label not like 'a\\%' and new = true",
    b"((year = '2020')) or tags = 'a' and year not in (1, 2.5, 'x')",
    "label = 'd\u00f6g' and `` is null".encode(),
)
_STRUCTURES: tuple[Any, ...] = (
    {"label": "cat", "year": {"gte": 2020, "lt": 2024.5}},
    {"and": [{"label": {"in": ["a", None, True]}}, {"not": {"tags": {"like": "%a_"}}}]},
    {"or": [{"score": {"null": False}}, {"and": [{"year": {"ne": 3}}, {"label": {"eq": "x"}}]}]},
)

# ---------------------------------------------------------------- sources


def _read_all(source: Source) -> None:
    """Go through a source as ``index`` does, without decoding images."""
    for item in source:
        storable_metadata(item.metadata)
    len(source)
    for problem in source.problems:
        str(problem.reason)


def _open(path: Path) -> None:
    source = open_source(path)
    _read_all(source)


_CSV = (
    b"path,label,year\na.png,cat,2020\nb/c.jpg,dog,\n",
    'id;path;t\u00ebxt\n1;"a.png";"x; ""y""\nz"\n2;b.png;3.5e3\n'.encode(),
    b"\xef\xbb\xbfPath\turl\r\na.png\thttp://h/a.png\r\n",
    b"url,flag,big\nhttps://h/a?x=1,true,123456789012345678901234567890\n",
)
_JSONL = (
    b'{"path": "a.png", "label": "cat", "n": [1, {"a": null}]}\n{"path": "b.png"}\n',
    b'{"id": 3, "url": "http://h/x.png", "year": 1e3}\r\n\r\n{"id": "4", "url": "http://h/y.png"}\n',
)


def _table_folder(name: str) -> Callable[[bytes], None]:
    """Return a parser of a metadata table beside an image."""

    def run(data: bytes) -> None:
        folder = _folder() / "photos"
        if not folder.is_dir():
            (folder / "b").mkdir(parents=True)
            for image in ("a.png", "b/c.png"):
                (folder / image).write_bytes(_image("PNG"))
        path = folder / name
        path.write_bytes(data)
        try:
            _open(folder)
        finally:
            path.unlink()

    return run


@cache
def _parquets() -> tuple[bytes, ...]:
    import pyarrow as pa
    from pyarrow import parquet

    tables = (
        pa.table({"path": ["a.png", "b.png"], "label": ["x", None], "year": [1, 2]}),
        pa.table({"path": ["a.png"], "list": [[{"a": 1, "b": [1.5]}]], "blob": [b"\xff"]}),
        pa.table({"key": ["1", "2"], "jpg": [_image("JPEG"), b"broken"], "text": ["a", "b"]}),
    )
    files = []
    for table in tables:
        file = io.BytesIO()
        parquet.write_table(table, file)
        files.append(file.getvalue())
    return tuple(files)


@cache
def _tars() -> tuple[bytes, ...]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        members = {"1.png": _image("PNG"), "1.json": b'{"a": [1]}', "2.jpg": b"x", "2.txt": b"y"}
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return (file.getvalue(),)


def _read_shards(path: Path) -> None:
    for item in open_source(path):
        with contextlib.suppress(LookalikeError):
            item.content()
        storable_metadata(item.metadata)


def _idx_files() -> tuple[bytes, ...]:
    images = bytes((0, 0, 8, 3)) + struct.pack(">III", 3, 4, 5) + bytes(range(60))
    return images, gzip.compress(images)


# ---------------------------------------------------------------- judgements, labels, truths

_JUDGEMENTS: dict[str, Any] = {
    "format": FORMAT,
    "version": VERSION,
    "created_at": "2026-11-24T10:00:00Z",
    "galleries": {
        "a": {"encoder": "hog", "fingerprint": "f" * 64, "rows": 100},
        "b": {"encoder": "color", "fingerprint": "e" * 64, "rows": 100},
    },
    "hits": [
        {
            "gallery": "a",
            "query": "p:1.png",
            "k": 3,
            "returned": 2,
            "answers": [
                {"rank": 1, "id": "p:2.png", "relevant": True},
                {"rank": 2, "id": "p:3.png", "relevant": False},
            ],
        }
    ],
    "preferences": [{"a": "a", "b": "b", "query": "p:1.png", "preferred": "a"}],
}


def _ground_truth(path: Path) -> None:
    first, *_ = read_ground_truth(path)
    is_header(first, {"q1"}, {"p:1"})


_IDS = [f"photos:{number}.jpg" for number in range(50)]

_LABELS = [
    {"id": "photos:1.jpg", "label": "cat", "status": "labeled"},
    {"id": "2.jpg", "label": ["a; b", 3, 2.5, None, True]},
    {"id": 3, "label": "unknown"},
]

# ---------------------------------------------------------------- artifacts


@cache
def _encoder_folder() -> Path:
    folder = _folder() / "encoder"
    images = list(np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8))
    encoder = open_encoder("pca", images)
    assert isinstance(encoder, Pca)
    save_encoder(encoder, folder)
    return folder


def _artifact_file(folder: Callable[[], Path], name: str, use: Callable[[Path], object]) -> Any:
    """Return a parser of one file of an artifact, which has its content again afterwards."""

    def run(data: bytes) -> None:
        path = folder() / name
        before = path.read_bytes()
        path.write_bytes(data)
        try:
            use(folder())
        finally:
            path.write_bytes(before)

    return run


@cache
def _gallery_folder() -> Path:
    photos = _folder() / "gallery-photos"
    photos.mkdir()
    rng = np.random.default_rng(1)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(photos / f"{number}.png")
    source = open_source(photos)
    path = _folder() / "fuzz.gallery"
    encoder = open_encoder("color", [item.image() for item in source])
    gallery = Gallery.create(path, encoder=encoder)
    gallery.sync(source)
    build_map(gallery)
    graph = neighbor_graph(gallery)
    labels = LabelSet("labels", {graph.ids[0]: ("a", "b"), graph.ids[1]: ("c",)})
    save_session(gallery, graph, [2, 3, 4], labels)
    gallery._archive().add({"0" * 64: {"label": "cat", "n": [1, None]}})
    gallery.leave_out({"photos": {"photos:a/1.png": "0" * 64, "photos:b.png": "1" * 64}})
    table = Table(("a", "b"), (("x", "1"),), wrap=True)
    section = Section("Quality", "Text.", image="aGk=", table=table)
    page = Page(title="a", subtitle="b", verdict="c", sections=(section,), highlight="x")
    saved = SavedEvaluation(
        origin=Origin.now(gallery.state),
        rows=12,
        fingerprint="f" * 64,
        verdict="good",
        evaluation={"k": 7},
        page=asdict(page),
    )
    EVALUATION_FILE.save(gallery, saved)
    return path


def _open_gallery(folder: Path) -> None:
    gallery = Gallery.open(folder)
    gallery.info()
    _ = gallery.encoder


@cache
def _opened_gallery() -> Gallery:
    return Gallery.open(_gallery_folder())


def _load_map(_: Path) -> None:
    document = load_map(_opened_gallery())
    if document is not None:
        document.as_dict()


def _load_session(_: Path) -> None:
    session = load_session(_opened_gallery())
    if session is not None:
        session.coverage(session.labels)
        [session.graph.ids[row] for group in session.groups for row in group]


def _load_archive(_: Path) -> None:
    archive = Gallery.open(_gallery_folder())._archive()
    json.dumps(dict(archive.values))
    archive.expire()


def _load_removed(_: Path) -> None:
    gallery = Gallery.open(_gallery_folder())
    gallery.leave_out(gallery.removed)


def _load_evaluation(_: Path) -> None:
    saved = load_saved_evaluation(_opened_gallery())
    if saved is not None:
        render_page(saved.page)


_CHECKPOINT = "checkpoint-00001-0000002.safetensors"
_CHECKPOINTED = {"recipe": "contrastive", "augment": "photos", "seed": 0}


def _training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@cache
def _run_folder() -> Path:
    folder = _folder() / "run"
    folder.mkdir()
    state = checkpoints.TrainingState(
        _CHECKPOINTED, epoch=1, step=2, loss_marks=[(1, 0.5)], history=[{"loss": 0.5}]
    )
    checkpoints.save(folder, state, *_training())
    return folder


def _resume(folder: Path) -> None:
    model, optimizer = _training()
    checkpoints.load(folder, _CHECKPOINTED, model, optimizer)
    optimizer.step()


# ---------------------------------------------------------------- images


def _image(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    exif[0x011A] = 72.5
    exif.get_ifd(0x8769).update({0x9003: "2020:01:02 03:04:05", 0x9011: "+01:00", 0x927C: b"note"})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0), 29: "2020:01:02"})
    return exif


@cache
def _images(kinds: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(
        _image(kind, exif=_exif())
        if kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")
        else _image(kind)
        for kind in kinds
    )


_OPTIONS = DecodeOptions(max_megapixels=UPLOAD_MEGAPIXELS)


def _decode(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a message on stderr for each broken image is a flood
        with contextlib.suppress(LookalikeError):
            read_header(data)
        decode_with_notes(data, name="an image", options=_OPTIONS)


def _strip(data: bytes) -> None:
    file = io.BytesIO(data)
    kind = detect_format(data[:HEADER_BYTES], "an image")
    parts = None if kind is None else strip_metadata(file, kind.name)
    if parts is not None:
        with open_parts(file, parts) as stripped:
            assert len(stripped.read()) == size_of(parts)


def _mutate_model(data: bytes, rng: Any, pool: Sequence[bytes]) -> bytes:
    """Change a model mostly where its messages are, not its weights."""
    return mutate_bytes(data[:2_000], rng, pool) + data[2_000:]


@cache
def _torch_files() -> tuple[bytes, ...]:
    """Return small files of torch in both formats, and a tree of modules as TorchScript has it."""
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    values = {"a": base, "b": {"c": base.T[1:], "d": [base.bfloat16(), 3]}, "e": torch.ones(())}
    files = []
    for is_zip in (True, False):
        file = io.BytesIO()
        torch.save(values, file, _use_new_zipfile_serialization=is_zip)
        files.append(file.getvalue())
    module = b"c__torch__.m\nNet\n)\x81"
    with zipfile.ZipFile(io.BytesIO(files[0])) as old:
        tree = b"\x80\x02" + module + old.read("archive/data.pkl")[2:-1] + b"b."
    return (*files, _with_pickle(files[0], tree))


def _with_pickle(data: bytes, content: bytes) -> bytes:
    """Return a zip file of torch with another pickle, whose sum is right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("data.pkl") else old.read(name))
    return file.getvalue()


def _mutate_torch(data: bytes, rng: Any, pool: Sequence[bytes]) -> bytes:
    """Change the pickle of a file more often than what is around it."""
    if rng.random() < 0.7:
        with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(data)) as old:
            return _with_pickle(data, mutate_bytes(old.read("archive/data.pkl"), rng, pool))
    return mutate_bytes(data, rng, pool)


@cache
def _models() -> tuple[bytes, ...]:
    """Return small ONNX models: a chain of nodes, a loop, and weights in another file."""
    import onnx
    from onnx import TensorProto, helper

    def model(nodes: Sequence[Any], tensors: Sequence[Any] = ()) -> bytes:
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")
        ]
        graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], list(tensors))
        data: bytes = helper.make_model(graph).SerializeToString()
        return data

    weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    outside = onnx.TensorProto()
    outside.CopyFrom(weights)
    outside.ClearField("float_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "model.onnx.data"), ("offset", "0"), ("length", "16")):
        outside.external_data.add(key=key, value=value)
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    return (
        model([product], [weights]),
        model([product], [outside]),
        model([helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Neg", ["h"], ["y"])]),
    )


def _check_onnx(data: bytes) -> None:
    folder = _folder() / "model"
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx.data").write_bytes(bytes(16))
    with contextlib.suppress(LookalikeError):
        check_model(data, name="model.onnx")
    with contextlib.suppress(LookalikeError):
        outputs = [each.name for each in read_signature(data, name="model.onnx").outputs]
        extract(data, outputs[:1], name="model.onnx")
        external_files(data, name="model.onnx")
    with contextlib.suppress(LookalikeError):
        append(data, lambda graph, outputs: [graph.unit_length(outputs[0])], name="model.onnx")
    check_model(with_external_data(data, folder, name="model.onnx"), name="model.onnx")


_PROCESSORS = (
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.4, 0.3],
    },
    {
        "image_processor_type": "JinaCLIPImageProcessor",
        "size": 32,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.5, 0.4, 0.3],
        "resize_mode": "longest",
        "fill_color": [1, 2, 3],
    },
)
_TOKENIZER = {
    "added_tokens": [{"id": 2, "content": "<pad>"}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
}
_TOKENIZERS = (
    {"config": {"model_type": "siglip"}, "tokenizer": _TOKENIZER, "options": {}},
    {
        "config": {"model_type": "clip", "text_config": {"max_position_embeddings": 9}},
        "tokenizer": {"model": {"type": "Unigram", "vocab": [["</s>", 0.0]]}},
        "options": {"pad_token": {"content": "</s>"}, "model_max_length": 10**30},
    },
)


def _image_processor(data: bytes) -> None:
    fields = parse_json(data, "preprocessor_config.json", error=LookalikeError)
    if isinstance(fields, dict):
        p = read_image_processor(fields, name="m")
        if p.height * p.width < 1 << 16:
            p.scaled(p.apply([np.zeros((5, 7, 3), np.uint8)]))


def _tokenizer(data: bytes) -> None:
    """Complete a tokenizer for a model of any configuration, which are objects of JSON."""
    fields = parse_json(data, "all", error=LookalikeError)
    values = fields if isinstance(fields, dict) else {}
    config, options = (values.get(name) for name in ("config", "options"))
    text_tokenizer(
        json.dumps(values.get("tokenizer")).encode(),
        config if isinstance(config, dict) else {},
        options if isinstance(options, dict) else {},
    )


_MARK = b"Exif\0\0"


def _pieces() -> tuple[bytes, ...]:
    """Return small models of SentencePiece, with and without a trainer and a table."""
    kinds = [(b"<pad>", 3), (b"</s>", 3), (b"<unk>", 2), ("▁a".encode(), 1), (b"b", 1)]
    pieces = [(1, message((1, piece), (2, -1.5), (3, kind))) for piece, kind in kinds]
    trainer, table = (2, message((3, 1), (35, 0), (40, 2))), (3, message((2, b"\1\0\0\0")))
    return tuple(b"".join(message(*each)) for each in (pieces, [*pieces, trainer, table]))


def _sentencepiece(data: bytes) -> None:
    text_tokenizer(sentencepiece_tokenizer(data), {"model_type": "siglip"})


def _mutate_exif(data: bytes, rng: Any, pool: Sequence[bytes]) -> bytes:
    """Change bytes of the EXIF block only; the file around it stays valid."""
    start = data.find(_MARK)
    if start < 4 or data[:2] != b"\xff\xd8":
        return mutate_bytes(data, rng, pool)
    end = start - 2 + int.from_bytes(data[start - 2 : start], "big")
    block = mutate_bytes(data[start + len(_MARK) : end], rng, pool)[:60_000]
    length = (2 + len(_MARK) + len(block)).to_bytes(2, "big")
    return data[: start - 2] + length + _MARK + block + data[end:]


# ---------------------------------------------------------------- the service


_FORM = (
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n\x89PNG\r\n'
    b'--x\r\nContent-Disposition: form-data; name="unlike_id"\r\n\r\na\r\n'
    b'--x\r\nContent-Disposition: form-data; name="vector"\r\n\r\n[1, 2]\r\n'
    b'--x\r\nContent-Disposition: form-data; name="weights"\r\n\r\n1,0.5,2\r\n'
    b'--x\r\nContent-Disposition: form-data; name="where"\r\n\r\n{"a": 1}\r\n--x--\r\n'
)


def _search_body(data: bytes) -> None:
    from lookalike.server.schemas import SearchRequest

    request = SearchRequest.model_validate_json(data)
    search = request.request(request.query(request, SentImage)).for_metric(Metric.COSINE)
    if search.filter is not None:
        search.filter.mask(MetadataColumns(_ROWS))


def _batch_body(data: bytes) -> None:
    from lookalike.server.schemas import BatchRequest

    request = BatchRequest.model_validate_json(data)
    queries = [query.query(request, SentImage) for query in request.queries]
    request.request(*queries).for_metric(Metric.COSINE)


def _search_form(data: bytes) -> None:
    from lookalike.server.problems import ProblemError
    from lookalike.server.schemas import SearchRequest
    from lookalike.server.search_forms import read_form

    try:
        sent = read_form(data, "multipart/form-data; boundary=x")
    except ProblemError as problem:
        if not 400 <= problem.status < 500:
            raise
        return
    request = SearchRequest.model_validate(sent.value)
    request.request(request.query(request, SentImage))


def _cursor(data: bytes) -> None:
    Cursor.parse(data.decode(errors="replace"))


def _metadata_body(data: bytes) -> None:
    from lookalike.server.schemas import ItemMetadata

    ItemMetadata.model_validate_json(data)


_FACETS = (
    Facet("label", "text", 10, 3, {"cat": 5, "dog": 5}, None, None),
    Facet("year", "number", 10, 3, None, 1.0, 2.0),
    Facet("new", "boolean", 10, 2, {True: 5, False: 5}, None, None),
)


_QUERY = Query.of(id="a")


def _query_string(data: bytes) -> None:
    from lookalike.server.forms import SearchForm
    from lookalike.server.schemas import UrlParameters

    params = QueryParams(data)
    with contextlib.suppress(ValidationError, LookalikeError):
        UrlParameters(**dict(params)).options().request(_QUERY).for_metric(Metric.COSINE)
    form = SearchForm(params)
    _ = form.options_query, form.page_query(60), form.offset, form.sort
    for supports_text in (False, True):
        query = form.query(supports_text=supports_text, open_shared=SentImage) or _QUERY
        form.request(query, _FACETS, 7).for_metric(Metric.COSINE)


def _headers(data: bytes) -> None:
    """Check the access of a request whose headers, one a line, and path are these."""
    from lookalike.server.access import check_access, is_free, is_write
    from lookalike.server.admission import client_of
    from lookalike.server.middleware import problem_response
    from lookalike.server.problems import ProblemError
    from lookalike.server.settings import LOOPBACK, ServeSettings

    path, *lines = data.split(b"\n")
    pairs = [line.partition(b": ") for line in lines]
    scope = {
        "type": "http",
        "method": "GET",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": b"a=b",
        "headers": [(name.lower(), value) for name, _, value in pairs],
        "client": ("127.0.0.1", 1),
        "state": {},
    }
    settings = ServeSettings(hosts=LOOPBACK, trusted_proxies=("127.0.0.1",))
    _ = is_free(scope), is_write(scope)
    try:
        check_access(scope, settings)
    except ProblemError as problem:
        problem_response(problem, scope)
    client_of(scope)


def _metadata(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    stored = parse_metadata(text)
    storable, _ = storable_metadata(stored)
    check_metadata(storable, what="row")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(parsed, dict):
        check_metadata(parsed, what="row")


def _answer(data: bytes) -> None:
    client = Client("http://127.0.0.1:1")
    gallery = client.gallery("g")
    gallery._hits(client._parse(data), _QUERY)


_RESULT = {
    "query": "q",
    "metric": "cosine",
    "hits": [{"rank": 1, "id": "a", "image_url": "/x", "distance": 0.5, "metadata": {"a": 1}}],
}
_KEYS = {"keys": [{"name": "web", "write": False, "sha256": "0" * 64}]}


def _documents(*values: Any) -> tuple[bytes, ...]:
    return tuple(json.dumps(value).encode() for value in values)


def _make() -> dict[str, Callable[[], Target]]:
    """Return the makers of the targets, by name: their seeds cost something to make."""
    labels = (
        b"id,label,status\nphotos:1.jpg,cat,labeled\nphotos:2.jpg,a;b,\nphotos:3.jpg,unknown,\n"
    )
    truths = (b"query,relevant\nq1,p:1,p:2\nq2,p:3\n", b"q1;a;b\n\nq2;\xc3\xa9\n")
    makers: dict[str, Callable[[], Target]] = {
        "filter-text": lambda: Target("filter-text", _filter_text, _FILTERS, mutate_text),
        "filter-structure": lambda: Target(
            "filter-structure", _filter_structure, _documents(*_STRUCTURES), mutate_json
        ),
        "judgements": lambda: Target(
            "judgements",
            _in_file("judgements.json", lambda path: read_judgement_files([path])),
            _documents(_JUDGEMENTS),
            mutate_json,
        ),
        "ground-truth": lambda: Target(
            "ground-truth", _in_file("truth.csv", _ground_truth), truths, mutate_text
        ),
        "labels": lambda: Target(
            "labels",
            _in_file("labels.csv", lambda path: read_labels(path, _IDS)),
            (labels,),
            mutate_text,
        ),
        "labels-json": lambda: Target(
            "labels-json",
            _in_file("labels.json", lambda path: read_labels(path, _IDS)),
            _documents(_LABELS),
            mutate_json,
        ),
        "manifest-parquet": lambda: Target(
            "manifest-parquet", _in_file("m.parquet", _open), _parquets()
        ),
        "shard-tar": lambda: Target("shard-tar", _in_file("s.tar", _read_shards), _tars()),
        "shard-parquet": lambda: Target(
            "shard-parquet", _in_file("s.parquet", _read_shards), _parquets()[-1:]
        ),
        "idx": lambda: Target(
            "idx",
            _in_file("images-idx3-ubyte", lambda path: _read_all(load_idx(path))),
            _idx_files(),
        ),
        "encoder-json": lambda: Target(
            "encoder-json",
            _artifact_file(_encoder_folder, "encoder.json", load_encoder),
            ((_encoder_folder() / "encoder.json").read_bytes(),),
            mutate_json,
        ),
        "encoder-weights": lambda: Target(
            "encoder-weights",
            _weights,
            ((_encoder_folder() / "model.safetensors").read_bytes(),),
        ),
        "gallery-json": lambda: Target(
            "gallery-json",
            _artifact_file(_gallery_folder, "gallery.json", _open_gallery),
            ((_gallery_folder() / "gallery.json").read_bytes(),),
            mutate_json,
        ),
        "map-json": lambda: Target(
            "map-json",
            _artifact_file(_gallery_folder, "map.json", _load_map),
            ((_gallery_folder() / "map.json").read_bytes(),),
            mutate_json,
        ),
        "labeling-json": lambda: Target(
            "labeling-json",
            _artifact_file(_gallery_folder, LABELING, _load_session),
            ((_gallery_folder() / LABELING).read_bytes(),),
            mutate_json,
        ),
        "evaluation-json": lambda: Target(
            "evaluation-json",
            _artifact_file(_gallery_folder, EVALUATION, _load_evaluation),
            ((_gallery_folder() / EVALUATION).read_bytes(),),
            mutate_json,
        ),
        "archive-json": lambda: Target(
            "archive-json",
            _artifact_file(_gallery_folder, ARCHIVE, _load_archive),
            ((_gallery_folder() / ARCHIVE).read_bytes(),),
            mutate_json,
        ),
        "removed-json": lambda: Target(
            "removed-json",
            _artifact_file(_gallery_folder, REMOVED, _load_removed),
            ((_gallery_folder() / REMOVED).read_bytes(),),
            mutate_json,
        ),
        "checkpoint-json": lambda: Target(
            "checkpoint-json",
            _artifact_file(_run_folder, CHECKPOINT_MANIFEST, _resume),
            ((_run_folder() / CHECKPOINT_MANIFEST).read_bytes(),),
            mutate_json,
        ),
        "checkpoint-weights": lambda: Target(
            "checkpoint-weights",
            _artifact_file(_run_folder, _CHECKPOINT, _resume),
            ((_run_folder() / _CHECKPOINT).read_bytes(),),
        ),
        "exif": lambda: Target("exif", _decode, _images(("JPEG",)), _mutate_exif),
        "metadata": lambda: Target(
            "metadata",
            _metadata,
            _documents(*_ROWS[:2], {"a": {"b": [1, 2.5, None]}}),
            mutate_json,
        ),
        "search-body": lambda: Target(
            "search-body",
            _search_body,
            _documents(
                {"id": "a", "k": 7, "where": {"label": "cat"}, "box": [1, 2, 3, 4]},
                {"image": "aGk=", "metric": "l2", "where": "year > 3", "rerank": "aqe+diffusion"},
                {"text": "x", "max_distance": 1.5, "exact": True, "keywords": "red"},
            ),
            mutate_json,
            (ValidationError,),
        ),
        "search-form": lambda: Target(
            "search-form",
            _search_form,
            (_FORM,),
            mutate_bytes,
            (ValidationError,),
        ),
        "cursor": lambda: Target(
            "cursor",
            _cursor,
            (str(Cursor(GalleryState("a", "1-b"), "c", 7, 7)).encode(),),
            mutate_bytes,
            (ValueError,),
        ),
        "batch-body": lambda: Target(
            "batch-body",
            _batch_body,
            _documents(
                {
                    "queries": [{"id": "a"}, {"image": "aGk="}, {"vector": [1, 2]}],
                    "k": 3,
                    "min_similarity": 0.5,
                }
            ),
            mutate_json,
            (ValidationError,),
        ),
        "metadata-body": lambda: Target(
            "metadata-body",
            _metadata_body,
            _documents({"metadata": {"a": 1, "b": None, "c": {"d": [1.5]}}}),
            mutate_json,
            (ValidationError,),
        ),
        "query-string": lambda: Target(
            "query-string",
            _query_string,
            (
                b"id=a&k=5&where=year+%3E+3&box=1,2,3,4&metric=l2&rerank=aqe",
                b"text=red&value:label=cat&value:label=dog&min:year=1&max:year=2&value:new=true",
            ),
            mutate_text,
        ),
        "headers": lambda: Target(
            "headers",
            _headers,
            (
                b"/g/a\nhost: localhost:80\naccept: text/html;q=0.9,*/*\nx-forwarded-for: 1.2.3.4",
                b"/v1/galleries\nhost: [::1]:8\norigin: http://[::1]:8\nsec-fetch-site: none",
                b"/\nhost: localhost\nreferer: http://localhost/x\nx-forwarded-for: ::1, 5.6.7.8",
            ),
            mutate_text,
        ),
        "image-processor": lambda: Target(
            "image-processor", _image_processor, _documents(*_PROCESSORS), mutate_json
        ),
        "tokenizer": lambda: Target("tokenizer", _tokenizer, _documents(*_TOKENIZERS), mutate_json),
        "sentencepiece": lambda: Target("sentencepiece", _sentencepiece, _pieces()),
        "onnx": lambda: Target("onnx", _check_onnx, _models(), _mutate_model),
        "torch": lambda: Target(
            "torch", lambda data: read_state(data, name="w"), _torch_files(), _mutate_torch
        ),
        "strip": lambda: Target("strip", _strip, _images(("JPEG", "PNG", "GIF", "BMP", "WEBP"))),
        "keys": lambda: Target(
            "keys", _in_file("keys.json", read_keys), _documents(_KEYS), mutate_json
        ),
        "answer": lambda: Target("answer", _answer, _documents(_RESULT), mutate_json),
        "address": lambda: Target(
            "address",
            lambda data: Address.parse(data.decode("utf-8", "surrogateescape")),
            (b"milvus://h:19530/name?index=hnsw&effort=10", b"milvus+tls://[::1]/a?timeout=3"),
            mutate_text,
        ),
    }
    for suffix, seeds, mutate in (
        ("csv", _CSV, mutate_text),
        ("tsv", _CSV[2:3], mutate_text),
        ("jsonl", _JSONL, mutate_text),
        ("json", (b"[" + _JSONL[0].replace(b"\n", b",", 1) + b"]",), mutate_json),
    ):
        makers[f"manifest-{suffix}"] = partial(
            Target, f"manifest-{suffix}", _in_file(f"m.{suffix}", _open), seeds, mutate
        )
    folder_table = b"file_name,label\na.png,x\nb/c.png,y\n"
    makers["folder-table"] = partial(
        Target, "folder-table", _table_folder("metadata.csv"), (folder_table,), mutate_text
    )
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"):
        makers[f"image-{kind.lower()}"] = partial(
            lambda kind: Target(f"image-{kind.lower()}", _decode, _images((kind,))), kind
        )
    return dict(sorted(makers.items()))


def _weights(data: bytes) -> None:
    """Load an encoder whose weights are these, and whose description agrees with them."""
    import hashlib

    description = _encoder_folder() / "encoder.json"
    before = description.read_bytes()
    fields = json.loads(before)
    if "sha256" in fields:
        fields["sha256"]["model.safetensors"] = hashlib.sha256(data).hexdigest()
    description.write_text(json.dumps(fields))
    try:
        _artifact_file(_encoder_folder, "model.safetensors", load_encoder)(data)
    finally:
        description.write_bytes(before)


_MAKERS = _make()

TARGETS: tuple[str, ...] = tuple(_MAKERS)
"""The names of all targets."""


@cache
def target(name: str) -> Target:
    """Return a target by its name."""
    return _MAKERS[name]()
