"""Published ONNX models, of the hub and in folders, embed what torch embeds."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lookalike.encoders.base import Encoder, Preprocessing
from lookalike.encoders.hub_models import open_model_folder
from lookalike.encoders.image_text import ImageTextEncoder
from lookalike.encoders.model_files import FolderFiles
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.options import DTYPES
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import find_encoder_spec, open_encoder
from lookalike.errors import (
    ArtifactError,
    FetchError,
    InputError,
    LookalikeError,
    SettingError,
    UnknownNameError,
)
from lookalike.gallery.gallery import Gallery
from lookalike.types import ImageArray
from tests.hub_server import HubServer, hub_server

pytestmark = pytest.mark.slow

KINDS = (
    *("clip", "clip-combined", "mobileclip", "siglip", "siglip-combined", "siglip2", "jina"),
    *("dinov2", "dinov2-registers", "dinov3", "vit", "nomic", "swin", "convnext", "resnet"),
    "efficientnet",
)
WITH_TEXT = KINDS[:7]
TEXTS = ["a photo of a Cat!", "Zürich, a red SHOE", "long " * 40, "it's  a dog.", "dog"]
_RNG = np.random.default_rng(0)
IMAGES: list[ImageArray] = [
    _RNG.integers(0, 256, shape, dtype=np.uint8)
    for shape in ((50, 70, 3), (70, 50, 3), (33, 200, 3), (32, 32, 3), (40, 41), (20, 25, 3))
]

HubModels = Callable[[str], tuple[Path, Any]]


def agrees(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Check embeddings of unit length, which must also tell their inputs apart."""
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.min(actual @ actual.T) < 0.98


def text_encoder(encoder: Encoder) -> ImageTextEncoder:
    assert isinstance(encoder, ImageTextEncoder)
    return encoder


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_transformers(kind: str, hub_model: HubModels) -> None:
    folder, reference = hub_model(kind)
    encoder = open_encoder(f"onnx:{folder}")
    agrees(encoder.encode(IMAGES), reference.images(IMAGES))
    assert encoder.supports_text == (kind in WITH_TEXT)
    if encoder.supports_text:
        agrees(encoder.encode_text(TEXTS), reference.texts(TEXTS))
        alone = np.stack([encoder.encode_text(text) for text in TEXTS])
        np.testing.assert_allclose(alone, encoder.encode_text(TEXTS), atol=1e-6)


@pytest.mark.parametrize("kind", ["clip-combined", "jina", "resnet"])
def test_a_saved_encoder_is_complete_without_torch(
    kind: str, hub_model: HubModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = hub_model(kind)
    for package in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    encoder = open_encoder(f"onnx:{folder}")
    save_encoder(encoder, tmp_path / "e")
    loaded = load_encoder(tmp_path / "e")
    assert loaded.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(loaded.encode(IMAGES), encoder.encode(IMAGES))
    if kind != "resnet":
        np.testing.assert_array_equal(loaded.encode_text(TEXTS), encoder.encode_text(TEXTS))


def test_a_network_of_both_is_split_into_its_parts(hub_model: HubModels) -> None:
    folder, _ = hub_model("clip-combined")
    files = open_encoder(f"onnx:{folder}").files()
    whole = (folder / "onnx" / "model.onnx").stat().st_size
    assert len(files["model.onnx"]) < whole / 2 < len(files["text.onnx"]) < 2 * whole / 3
    for name, inputs in (("model.onnx", {"pixel_values"}), ("text.onnx", {"input_ids"})):
        graph = onnx.load_model_from_string(files[name]).graph
        assert {each.name for each in graph.input} - {"attention_mask"} == inputs
        onnx.checker.check_model(onnx.load_model_from_string(files[name]))


def test_scale_and_bias_are_those_of_the_model_where_it_has_them(hub_model: HubModels) -> None:
    scales = {
        kind: text_encoder(open_encoder(f"onnx:{hub_model(kind)[0]}")).logits
        for kind in ("siglip-combined", "clip-combined", "siglip", "jina")
    }
    assert scales["siglip-combined"] == pytest.approx({"scale": 25, "bias": -7}, rel=1e-4)
    assert scales["clip-combined"] == pytest.approx({"scale": 1 / 0.07, "bias": 0}, rel=1e-3)
    assert scales["siglip"] is scales["jina"] is None


def test_logits_that_are_no_numbers_have_no_scale(hub_model: HubModels, tmp_path: Path) -> None:
    shutil.copytree(hub_model("clip-combined")[0], tmp_path / "m")
    path = tmp_path / "m" / "onnx" / "model.onnx"
    model = onnx.load(path)
    node = next(n for n in model.graph.node if "logits_per_image" in n.output)
    node.output[list(node.output).index("logits_per_image")] = "finite"
    nan = numpy_helper.from_array(np.array(np.nan, np.float32), "nan")
    model.graph.initializer.append(nan)
    model.graph.node.append(helper.make_node("Mul", ["finite", "nan"], ["logits_per_image"]))
    path.write_bytes(model.SerializeToString())
    encoder = text_encoder(open_encoder(f"onnx:{tmp_path / 'm'}"))
    assert encoder.logits is None
    assert np.isfinite(encoder.encode_batch(IMAGES)).all()


def test_a_name_in_a_network_that_is_no_text_is_told(tmp_path: Path) -> None:
    model = own_model("rows", inputs={"x": ("batch_n", 3, 4, 4)})
    name = own_file(tmp_path, model.replace(b"batch_n", b"batch_\xff"))
    with pytest.raises(ArtifactError, match=r"net.*cannot load the model.*utf-8"):
        open_encoder(name).encode_batch(IMAGES)


def test_a_file_in_such_a_folder_finds_what_describes_it(
    hub_model: HubModels, tmp_path: Path
) -> None:
    folder, reference = hub_model("siglip")
    encoder = open_encoder(f"onnx:{folder / 'onnx' / 'vision_model.onnx'}")
    agrees(encoder.encode(IMAGES), reference.images(IMAGES))
    agrees(encoder.encode_text(TEXTS), reference.texts(TEXTS))
    flat = tmp_path / "a, b"  # networks at the top, and a comma in the name
    shutil.copytree(folder, flat)
    for path in (flat / "onnx").iterdir():
        path.rename(flat / path.name)
    (flat / "text_model.onnx").unlink()
    for name in (f"onnx:{flat}", f"onnx:{flat},dtype=fp32", f"onnx:{flat}/vision_model.onnx"):
        encoder = open_encoder(name)
        assert not encoder.supports_text
        agrees(encoder.encode(IMAGES), reference.images(IMAGES))


def test_weights_in_another_file_are_taken_in(hub_model: HubModels, tmp_path: Path) -> None:
    folder, reference = hub_model("vit")
    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m" / "onnx" / "model.onnx"
    onnx.save_model(
        onnx.load(path),
        str(path),
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    encoder = open_encoder(f"onnx:{tmp_path / 'm'}")
    agrees(encoder.encode(IMAGES), reference.images(IMAGES))
    assert isinstance(encoder, NetworkEncoder)
    assert set(encoder.origin["files"]) >= {"onnx/model.onnx", "onnx/model.onnx_data"}
    path.with_name("model.onnx_data").unlink()
    with pytest.raises(InputError, match=r"has its weights in onnx/model\.onnx_data, which is not"):
        open_encoder(f"onnx:{tmp_path / 'm'}")


# ---------------------------------------------------------------- precisions


def converted(model: bytes, dtype: str, folder: Path) -> onnx.ModelProto:
    """Return a model in another precision, as the tools of ONNX Runtime convert it."""
    from onnxruntime import quantization
    from onnxruntime.transformers.float16 import convert_float_to_float16

    source, target = folder / "source.onnx", folder / "target.onnx"
    source.write_bytes(model)
    proto = onnx.load(source)
    if dtype in ("q8", "int8", "uint8"):
        kind = quantization.QuantType.QInt8 if dtype == "int8" else quantization.QuantType.QUInt8
        quantization.quantize_dynamic(source, target, weight_type=kind)
        return onnx.load(target)
    if dtype in ("q4", "q4f16"):
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(proto, block_size=16)
        quantizer.process()
        proto = quantizer.model.model
    if dtype == "bnb4":
        from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

        quantizer = MatMulBnb4Quantizer(proto, quant_type=1, block_size=16)
        quantizer.process()
        return quantizer.model.model
    return convert_float_to_float16(proto) if dtype.endswith("16") else proto


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_precision_is_opened_by_its_name(
    dtype: str, hub_model: HubModels, tmp_path: Path
) -> None:
    folder, reference = hub_model("clip")
    target = tmp_path / "m"
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.onnx"))
    for name in ("vision_model", "text_model"):
        model = (folder / "onnx" / f"{name}.onnx").read_bytes()
        path = target / "onnx" / f"{name}{DTYPES[dtype]}.onnx"
        path.write_bytes(converted(model, dtype, tmp_path).SerializeToString())
    encoder = open_encoder(f"onnx:{target},dtype={dtype}")
    cosines = (encoder.encode(IMAGES) * reference.images(IMAGES)).sum(axis=1)
    text_cosines = (encoder.encode_text(TEXTS) * reference.texts(TEXTS)).sum(axis=1)
    least = {"fp32": 0.999999, "fp16": 0.9999, "q8": 0.98, "int8": 0.98, "uint8": 0.98}
    assert min(*cosines, *text_cosines) > least.get(dtype, 0.9)
    alone = np.stack([encoder.encode(image) for image in IMAGES])
    np.testing.assert_allclose(alone, encoder.encode(IMAGES), atol=1e-6)  # also where quantized
    assert open_encoder(f"onnx:{target}").fingerprint == encoder.fingerprint  # there is no other
    other = "q8" if dtype != "q8" else "fp16"
    with pytest.raises(InputError, match=f"no networks with dtype={other}; it has dtype={dtype}$"):
        open_encoder(f"onnx:{target},dtype={other}")


def test_precisions_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown dtype .*'q9'.*did you mean 'q8'"):
        find_encoder_spec("hub:owner/name,dtype=q9")
    with pytest.raises(SettingError, match=r"'dtype=' must be dtype=VALUE"):
        find_encoder_spec("hub:owner/name,dtype=")
    with pytest.raises(UnknownNameError, match=r"unknown option .*'dtyp': did you mean 'dtype'"):
        find_encoder_spec("hub:owner/name,dtyp=q8")
    with pytest.raises(SettingError, match="option output is given twice"):
        find_encoder_spec(f"onnx:{tmp_path},output=a,output=b")


# ---------------------------------------------------------------- options of encoders


def test_options_of_encoders_apply(hub_model: HubModels) -> None:
    folder, _ = hub_model("resnet")
    plain, larger, stretched, mirrored = (
        open_encoder(f"onnx:{folder}{options}")
        for options in ("", ",size=48", ",fit=stretch", ",mirror,dtype=fp32")
    )
    assert isinstance(larger, NetworkEncoder)
    assert larger.preprocessing.resize == (54, 54)  # as 36 is to 32
    assert larger.prepare(IMAGES[:1]).shape == (1, 3, 48, 48)
    rows = [encoder.encode(IMAGES) for encoder in (plain, larger, stretched, mirrored)]
    assert len({row.tobytes() for row in rows}) == len(rows)
    symmetric = [np.concatenate([image, image[:, ::-1]], axis=1) for image in IMAGES]
    np.testing.assert_allclose(mirrored.encode(symmetric), plain.encode(symmetric), atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_size_that_the_network_does_not_take_is_refused(kind: str, hub_model: HubModels) -> None:
    folder, _ = hub_model(kind)
    with pytest.raises(InputError, match=r"size=64 is not accepted.*own size, 32x32 pixels"):
        open_encoder(f"onnx:{folder},size=64")


# ---------------------------------------------------------------- outputs


TOKENS, MAPS, ROWS = (("n", 5, 6), ("n", 6, 4, 4), ("n", 6))
VALUES = {
    name: np.random.default_rng(i).standard_normal(size).astype(np.float32)
    for i, (name, size) in enumerate(
        {"tokens": (48, 30), "maps": (48, 96), "rows": (48, 6)}.items()
    )
}


def own_model(*outputs: str, inputs: Mapping[str, Any] | None = None, weights: int = 48) -> bytes:
    """Return a network of images of 4 x 4 pixels with some of the outputs tokens, maps and rows."""
    inputs = inputs or {"x": ("n", 3, 4, 4)}
    shapes = {"tokens": TOKENS, "maps": MAPS, "rows": ROWS}
    nodes, tensors, values = [helper.make_node("Flatten", [next(iter(inputs))], ["f"])], [], []
    for name in outputs:
        shape = shapes[name]
        matrix = np.resize(VALUES[name], (weights, VALUES[name].shape[1]))
        tensors += [numpy_helper.from_array(matrix, f"{name}_w")]
        tensors += [numpy_helper.from_array(np.array([-1, *shape[1:]]), f"{name}_s")]
        nodes += [helper.make_node("MatMul", ["f", f"{name}_w"], [f"{name}_flat"])]
        nodes += [helper.make_node("Reshape", [f"{name}_flat", f"{name}_s"], [name])]
        values += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
    infos = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()]
    graph = helper.make_graph(nodes, "g", infos, values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def own_file(folder: Path, model: bytes, **fields: Any) -> str:
    (folder / "net.onnx").write_bytes(model)
    (folder / "net.json").write_text(json.dumps({"size": 4, "normalize": False, **fields}))
    return f"onnx:{folder / 'net.onnx'}"


def expected_outputs() -> dict[str, NDArray[np.float32]]:
    values = Preprocessing(4, 4, 3)
    flat = values.scaled(values.apply(IMAGES)).reshape(len(IMAGES), -1)
    tokens = (flat @ VALUES["tokens"]).reshape(-1, 5, 6)
    maps = (flat @ VALUES["maps"]).reshape(-1, 6, 4, 4)
    gem = (np.maximum(maps, 1e-6) ** 3).mean(axis=(2, 3)) ** (1 / 3)
    return {
        "output=rows": flat @ VALUES["rows"],
        "output=tokens,pooling=cls": tokens[:, 0],
        "output=tokens,pooling=mean": tokens.mean(axis=1),
        "output=maps,pooling=avg": maps.mean(axis=(2, 3)),
        "output=maps,pooling=max": maps.max(axis=(2, 3)),
        "output=maps,pooling=gem": gem,
    }


@pytest.mark.parametrize("options", expected_outputs())
def test_an_output_and_its_pooling_can_be_named(options: str, tmp_path: Path) -> None:
    expected = expected_outputs()[options]
    name = own_file(tmp_path, own_model("tokens", "maps", "rows"))
    encoder = open_encoder(f"{name},{options}")
    np.testing.assert_allclose(encoder.encode(IMAGES), expected, rtol=1e-4, atol=1e-4)
    fields = dict(option.split("=") for option in options.split(","))
    described = open_encoder(own_file(tmp_path, own_model("tokens", "maps", "rows"), **fields))
    assert described.fingerprint == encoder.fingerprint
    save_encoder(encoder, tmp_path / "e")
    np.testing.assert_array_equal(
        load_encoder(tmp_path / "e").encode(IMAGES), encoder.encode(IMAGES)
    )


def test_a_pooling_of_regions_is_one_of_the_maps(tmp_path: Path) -> None:
    name = own_file(tmp_path, own_model("maps"))
    dims = {pooling: open_encoder(f"{name},pooling={pooling}").dim for pooling in ("rmac", "grid")}
    assert dims == {"rmac": 6, "grid": 54}


def test_the_only_embedding_among_outputs_is_taken_and_the_rest_left_out(tmp_path: Path) -> None:
    whole = open_encoder(own_file(tmp_path, own_model("tokens", "rows")))
    expected = expected_outputs()["output=rows"]
    np.testing.assert_allclose(whole.encode(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert len(whole.files()["model.onnx"]) < len(own_model("tokens", "rows")) / 3
    plain = own_model("rows")  # with one output, a model stays as it is
    encoder = open_encoder(own_file(tmp_path, plain))
    same = NetworkEncoder("n", plain, Preprocessing(4, 4, 3, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert encoder.fingerprint == same.fingerprint


REFUSED: Mapping[str, tuple[bytes, str, str]] = {
    "tokens": (own_model("tokens"), "", r"not known which .*Outputs: tokens \(\?, 5, 6\)"),
    "several": (own_model("maps", "tokens"), "", r"maps \(\?, 6, 4, 4\), tokens \(\?, 5, 6\)"),
    "unknown": (own_model("rows"), ",output=row", "unknown output .*did you mean 'rows'"),
    "pooled": (own_model("rows"), ",output=rows,pooling=cls", "has no tokens or maps to pool"),
    "pooling": (own_model("maps"), ",pooling=cls", "unknown pooling .*'cls'.*available: attention"),
    "nhwc": (
        own_model("rows", inputs={"x": ("n", 4, 4, 3)}),
        "",
        r"'x' has the shape \(\?, 4, 4, 3\)",
    ),
    "dtype": (own_model("rows"), ",dtype=q8", "dtype is for folders"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_by_name(case: str, tmp_path: Path) -> None:
    model, options, message = REFUSED[case]
    with pytest.raises(LookalikeError, match=message):
        open_encoder(own_file(tmp_path, model) + options)


def test_a_network_of_several_inputs_is_refused(hub_model: HubModels, tmp_path: Path) -> None:
    model = (hub_model("clip-combined")[0] / "onnx" / "model.onnx").read_bytes()
    name = own_file(tmp_path, model)
    message = r"'logits_per_image' needs 3 inputs \(input_ids, "
    with pytest.raises(InputError, match=message):
        open_encoder(f"{name},output=logits_per_image")


# ---------------------------------------------------------------- files that describe a model


def changed(folder: Path, target: Path, file: str, **fields: Any) -> str:
    """Return the name of a copy of a model with other fields in a file, None for left out."""
    shutil.copytree(folder, target)
    content = {**json.loads((target / file).read_text()), **fields}
    kept = {name: value for name, value in content.items() if value is not None}
    (target / file).write_text(json.dumps(kept))
    return f"onnx:{target}"


def test_a_model_without_networks_names_its_files_and_other_ways(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    message = rf"it has config.json, model.safetensors. .* transformers:{tmp_path}"
    with pytest.raises(InputError, match=message):
        open_encoder(f"onnx:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architecture": "vit_tiny"}')
    with pytest.raises(InputError, match="hf-hub:"):
        open_encoder(f"onnx:{tmp_path}")
    for file in tmp_path.iterdir():
        file.unlink()
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"it has a\.jpg$"):
        open_encoder(f"onnx:{tmp_path}")
    (tmp_path / "best.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=rf"one of its networks: onnx:{tmp_path}/best\.onnx$"):
        open_encoder(f"onnx:{tmp_path}")
    with pytest.raises(InputError, match="write onnx:FOLDER or onnx:FILE"):
        open_encoder("onnx:")


@pytest.mark.parametrize("name", [b"a b", b"c++", b"a,b+c", b"caf\xe9"])
def test_paths_may_have_what_separates_names_and_bytes_that_are_no_text(
    name: bytes, hub_model: HubModels, tmp_path: Path
) -> None:
    path = tmp_path / os.fsdecode(name)
    shutil.copytree(hub_model("clip")[0], path)
    encoder = open_encoder(f"onnx:{path}")
    both = open_encoder(f"onnx:{path},mirror+color", IMAGES)
    assert both.dim == encoder.dim + open_encoder("color", IMAGES).dim
    for number, each in enumerate((encoder, both)):
        save_encoder(each, tmp_path / f"{number}.encoder")
        saved = open_encoder(tmp_path / f"{number}.encoder")
        assert saved.fingerprint == each.fingerprint
        np.testing.assert_array_equal(saved.encode_batch(IMAGES), each.encode_batch(IMAGES))


def test_a_text_query_of_bytes_that_are_no_text_is_refused(hub_model: HubModels) -> None:
    encoder = open_encoder(f"onnx:{hub_model('clip')[0]}")
    with pytest.raises(InputError, match=r"the text query has bytes that are no text: caf"):
        encoder.encode_text("caf\udce9")


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("config.json", {"model_type": "unheard-of"}, "not known which of its outputs"),
        ("preprocessor_config.json", {"size": 64}, "makes images of 64x64 pixels, but"),
        ("preprocessor_config.json", {"do_gray": True}, "field 'do_gray' is not supported"),
        (
            "preprocessor_config.json",
            {"feature_extractor_type": "X"},
            "'X' of its .* not supported",
        ),
        (
            "preprocessor_config.json",
            {"feature_extractor_type": None},
            "'image_processor_type' is missing",
        ),
    ],
)
def test_models_that_are_not_known_are_refused(
    file: str, fields: dict[str, Any], message: str, hub_model: HubModels, tmp_path: Path
) -> None:
    folder, _ = hub_model("vit")
    if "size" in fields:
        folder, _ = hub_model("mobileclip")  # whose networks are of one size
        fields = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    with pytest.raises(InputError, match=message):
        open_encoder(changed(folder, tmp_path / "m", file, **fields))


def test_scores_of_classes_are_no_embedding_unless_they_are_named(
    hub_model: HubModels, tmp_path: Path
) -> None:
    shutil.copytree(hub_model("vit")[0], tmp_path / "m")
    model = own_model("rows", inputs={"pixel_values": ("n", 3, 32, 32)}, weights=3 * 32 * 32)
    proto = onnx.load_model_from_string(model)
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = "logits"
    onnx.save(proto, tmp_path / "m" / "onnx" / "model.onnx")
    with pytest.raises(InputError, match=r"not known which .*Outputs: logits \(\?, 6\)"):
        open_encoder(f"onnx:{tmp_path / 'm'}")
    assert open_encoder(f"onnx:{tmp_path / 'm'},output=logits").dim == 6


def test_a_network_that_is_too_large_is_refused_before_it_is_read(
    hub_model: HubModels, tmp_path: Path
) -> None:
    shutil.copytree(hub_model("vit")[0], tmp_path / "m")
    with (tmp_path / "m" / "onnx" / "model.onnx_data").open("wb") as file:
        file.truncate(3_000_000_000)  # which takes nothing on the disk
    with pytest.raises(InputError, match=r"onnx/model\.onnx has 3\.0 GB, .* dtype=fp16"):
        open_encoder(f"onnx:{tmp_path / 'm'}")


def test_a_model_with_code_of_its_own_is_told_by_its_class(
    hub_model: HubModels, tmp_path: Path
) -> None:
    folder, reference = hub_model("nomic")
    fields = {"model_type": "another", "architectures": ["NomicVisionModel"]}
    name = changed(folder, tmp_path / "m", "config.json", **fields)
    agrees(open_encoder(name).encode(IMAGES), reference.images(IMAGES))


def test_missing_descriptions_are_named(hub_model: HubModels, tmp_path: Path) -> None:
    folder, reference = hub_model("clip")
    shutil.copytree(folder, tmp_path / "m")
    processor = tmp_path / "m" / "preprocessor_config.json"
    newer = json.dumps({"image_processor": json.loads(processor.read_text())})
    processor.unlink()
    with pytest.raises(InputError, match=r"has no preprocessor_config\.json"):
        open_encoder(f"onnx:{tmp_path / 'm'}")
    (tmp_path / "m" / "processor_config.json").write_text(newer)
    agrees(open_encoder(f"onnx:{tmp_path / 'm'}").encode(IMAGES), reference.images(IMAGES))
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has a network of texts, but no tokenizer\.json"):
        open_encoder(f"onnx:{tmp_path / 'm'}")


def test_networks_that_do_not_belong_together_are_refused(
    hub_model: HubModels, tmp_path: Path
) -> None:
    folder, _ = hub_model("siglip")
    shutil.copytree(folder, tmp_path / "m")
    other = hub_model("clip")[0] / "onnx" / "text_model.onnx"
    shutil.copyfile(other, tmp_path / "m" / "onnx" / "text_model.onnx")
    with pytest.raises(InputError, match="32 numbers for images and 16 for texts"):
        open_encoder(f"onnx:{tmp_path / 'm'}")


@pytest.mark.parametrize("file", ["onnx/vision_model.onnx", "onnx/text_model.onnx", "config.json"])
def test_broken_files_are_named(file: str, hub_model: HubModels, tmp_path: Path) -> None:
    folder, _ = hub_model("clip")
    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m" / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises((ArtifactError, InputError), match=r"onnx:|/m:"):
        open_encoder(f"onnx:{tmp_path / 'm'}")


def test_a_folder_is_listed_and_read_by_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"x")
    files = FolderFiles(tmp_path)
    assert files.names() == ["onnx/model.onnx"]
    assert files.read("onnx/model.onnx") == b"x"
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        files.read("config.json")
    assert files.read_json("config.json") == {}


# ---------------------------------------------------------------- the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        for name, value in server.variables(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield server


CARD = b"---\nlicense: mit\n---\n"


def publish(hub: HubServer, folder: Path, **files: bytes) -> str:
    (folder / "README.md").write_bytes(CARD)
    (folder / "pytorch_model.bin").write_bytes(b"weights that nobody needs")
    return hub.add("owner/name", folder)


@pytest.mark.parametrize("kind", ["clip", "siglip-combined", "dinov2"])
def test_a_model_of_the_hub_is_opened_by_its_name(
    kind: str, hub_model: HubModels, hub: HubServer, tmp_path: Path
) -> None:
    folder, reference = hub_model(kind)
    shutil.copytree(folder, tmp_path / "m")
    commit = publish(hub, tmp_path / "m")
    encoder = open_encoder("hub:owner/name")
    agrees(encoder.encode(IMAGES), reference.images(IMAGES))
    assert isinstance(encoder, NetworkEncoder)
    networks = sorted(path.name for path in (folder / "onnx").iterdir())
    origin = encoder.origin
    assert (origin["source"], origin["commit"], origin["license"]) == (
        "hub:owner/name",
        commit,
        "mit",
    )
    assert {f"onnx/{name}" for name in networks} < set(origin["files"])
    assert all(len(digest) == 64 for digest in origin["files"].values())
    fetched = {each.path.rpartition("/")[2].partition("?")[0] for each in hub.requests}
    assert "pytorch_model.bin" not in fetched
    assert set(networks) < fetched
    hub.requests.clear()
    again = open_encoder("hub:owner/name@main,dtype=fp32")
    assert again.fingerprint == encoder.fingerprint
    assert not hub.requests
    if encoder.supports_text:
        agrees(again.encode_text(TEXTS), reference.texts(TEXTS))
    assert open_encoder(f"hub:owner/name@{commit}").fingerprint == encoder.fingerprint


def test_weights_of_the_hub_in_another_file_are_fetched(
    hub_model: HubModels, hub: HubServer, tmp_path: Path
) -> None:
    folder, reference = hub_model("vit")
    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m" / "onnx" / "model_fp16.onnx"
    model = onnx.load(tmp_path / "m" / "onnx" / "model.onnx")
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        location="model_fp16.onnx_data",
        size_threshold=0,
    )
    publish(hub, tmp_path / "m")
    encoder = open_encoder("hub:owner/name,dtype=fp16")
    agrees(encoder.encode(IMAGES), reference.images(IMAGES))
    hub.requests.clear()
    assert open_encoder("hub:owner/name,dtype=fp16").fingerprint == encoder.fingerprint
    assert not hub.requests


def test_a_gallery_keeps_its_encoder_when_the_hub_is_gone(
    hub_model: HubModels, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    folder, reference = hub_model("clip")
    shutil.copytree(folder, tmp_path / "m")
    publish(hub, tmp_path / "m")
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    gallery = Gallery.create(tmp_path / "g", encoder=open_encoder("hub:owner/name"))
    gallery.sync(tmp_path / "photos")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "empty"))
    hits = Gallery.open(tmp_path / "g").search(text="a red shoe", k=len(IMAGES))
    cosines = reference.images(IMAGES) @ reference.texts(["a red shoe"])[0]
    expected = [f"{number}.png" for number in np.argsort(-cosines)]
    assert [Path(hit.uri).name for hit in hits] == expected
    with pytest.raises(FetchError):
        open_encoder("hub:owner/name")


def test_models_of_the_hub_that_cannot_be_opened(
    hub_model: HubModels, hub: HubServer, tmp_path: Path
) -> None:
    hub.add("owner/torch", {"README.md": CARD, "config.json": b"{}", "model.safetensors": b"x"})
    with pytest.raises(
        InputError, match=r"it has model.safetensors, config.json\..* transformers:o"
    ):
        open_encoder("hub:owner/torch")
    shutil.copytree(hub_model("vit")[0], tmp_path / "m")
    publish(hub, tmp_path / "m")
    with pytest.raises(InputError, match="has no networks with dtype=q8; it has dtype=fp32"):
        open_encoder("hub:owner/name,dtype=q8")
    with pytest.raises(FetchError, match="hub:owner/nothing"):
        open_encoder("hub:owner/nothing")
    with pytest.raises(InputError, match="hub"):
        open_encoder("hub:name")


def test_a_text_is_refused_where_a_model_embeds_images_only(hub_model: HubModels) -> None:
    encoder = open_model_folder(hub_model("vit")[0], name="mine")
    with pytest.raises(InputError, match=r"'mine' supports images only.*clip-b32"):
        encoder.encode_text("a shoe")
