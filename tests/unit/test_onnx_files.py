"""ONNX models of others: weights beside them are taken in, and harmful ones are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lookalike.encoders.base import Preprocessing
from lookalike.encoders.image_text import ImageTextEncoder
from lookalike.encoders.onnx import NetworkEncoder, OnnxModel
from lookalike.encoders.onnx_files import check_model, with_external_data
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, InputError
from tests.conftest import Require

IMAGES = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
EMBEDDINGS = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
FLATTEN = helper.make_node("Flatten", ["x"], ["f"])
MULTIPLY = helper.make_node("MatMul", ["f", "w"], ["y"])


def weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((192, 4)).astype(np.float32)


def external(location: str, *, offset: int = 0, length: int | None = 192 * 4 * 4) -> TensorProto:
    """Return the weights as a tensor whose values are in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[192, 4])
    tensor.data_location = TensorProto.EXTERNAL
    fields = {"location": location, "offset": offset, "length": length}
    for key, value in fields.items():
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    return tensor


def model(
    nodes: Sequence[Any] = (FLATTEN, MULTIPLY),
    tensors: Sequence[Any] = (),
    outputs: Sequence[Any] = (EMBEDDINGS,),
    **more: Any,
) -> bytes:
    graph = helper.make_graph(nodes, "g", [IMAGES], outputs, tensors, **more.pop("graph", {}))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    built = helper.make_model(graph, opset_imports=opsets, **more)
    built.ir_version = 8
    return bytes(built.SerializeToString())


INLINE = numpy_helper.from_array(weights(), "w")
PLAIN = model(tensors=[INLINE])


def write(folder: Path, data: bytes) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "net.onnx").write_bytes(data)
    (folder / "net.json").write_text('{"size": 8, "normalize": false}')
    return f"onnx:{folder / 'net.onnx'}"


def image() -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (8, 8, 3), np.uint8)


# ---- weights in other files ----------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 4096])
def test_weights_beside_a_model_are_taken_in(
    offset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder is the same wherever it is used, and one file that its fingerprint covers."""
    name = write(tmp_path / "m", model(tensors=[external("net.data", offset=offset)]))
    (tmp_path / "m" / "net.data").write_bytes(bytes(offset) + weights().tobytes())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "net.data").write_bytes(bytes(offset) + weights(1).tobytes())
    expected = open_encoder(write(tmp_path / "plain", PLAIN), []).encode([image()])
    prints = set()
    for folder in ("m", "elsewhere", "."):
        monkeypatch.chdir(tmp_path / folder)
        encoder = open_encoder(name, [])
        np.testing.assert_array_equal(encoder.encode([image()]), expected)
        prints.add(encoder.fingerprint)
    assert len(prints) == 1
    save_encoder(encoder, tmp_path / "e")
    files = sorted(file.name for file in (tmp_path / "e").iterdir())
    assert files == ["encoder.json", "model.onnx"]
    (tmp_path / "m" / "net.data").unlink()
    np.testing.assert_array_equal(load_encoder(tmp_path / "e").encode([image()]), expected)
    (tmp_path / "m" / "net.data").write_bytes(bytes(offset) + weights(2).tobytes())
    assert open_encoder(name, []).fingerprint not in prints


def test_a_model_that_holds_its_weights_stays_as_it_is(tmp_path: Path) -> None:
    assert with_external_data(PLAIN, tmp_path, name="m") is PLAIN


def test_weights_that_torch_exports_beside_a_model_are_taken_in(tmp_path: Path) -> None:
    """As onnx writes them, with several tensors in a file, in constants and branches too."""
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(weights(3)))
    add = helper.make_node("Add", ["w", "c"], ["v"])
    multiply = helper.make_node("MatMul", ["f", "v"], ["y"])
    data = model([FLATTEN, constant, add, multiply], [INLINE])
    (tmp_path / "m").mkdir()
    onnx.save_model(
        onnx.load_model_from_string(data),
        str(tmp_path / "m" / "net.onnx"),
        save_as_external_data=True,
        location="net.onnx.data",
        size_threshold=0,
        convert_attribute=True,
    )
    written = (tmp_path / "m" / "net.onnx").read_bytes()
    assert len(written) < len(data) / 2
    taken = with_external_data(written, tmp_path / "m", name="m")
    images = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(
        OnnxModel(taken, name="m")(images), OnnxModel(data, name="m")(images)
    )
    with pytest.raises(ArtifactError, match="its weights are in another file"):
        OnnxModel(written, name="m")


LOCATIONS = ["../net.data", "/etc/hostname", "a/net.data", "..", "", "*/_ORT_MEM_ADDR_/*", "x\0"]


@pytest.mark.parametrize("location", LOCATIONS)
def test_weights_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "net.data").write_bytes(weights().tobytes())
    name = write(tmp_path / "m", model(tensors=[external(location, length=16)]))
    with pytest.raises(ArtifactError, match="which is not a plain file name"):
        open_encoder(name, [])


def test_weights_that_are_a_link_are_refused(tmp_path: Path) -> None:
    name = write(tmp_path / "m", model(tensors=[external("net.data")]))
    (tmp_path / "data").write_bytes(weights().tobytes())
    (tmp_path / "m" / "net.data").symlink_to(tmp_path / "data")
    with pytest.raises(ArtifactError, match=r"'net\.data' cannot be read \(is a link\)"):
        open_encoder(name, [])


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (external("none.data"), r"'none\.data' cannot be read \(No such file"),
        (external("net.data", length=10**12), "has 3,072 bytes|have 3,072 bytes"),
        (external("net.data", offset=4), "have 3,072 bytes, expected at least 3,076"),
        (external("net.data", length=-1), "at no valid place"),
        (external("net.data", offset=10**40), "at no valid place"),
    ],
    ids=["missing", "long", "behind the end", "negative", "huge"],
)
def test_weights_that_are_incomplete_are_refused(
    tensor: TensorProto, message: str, tmp_path: Path
) -> None:
    name = write(tmp_path / "m", model(tensors=[tensor]))
    (tmp_path / "m" / "net.data").write_bytes(weights().tobytes())
    with pytest.raises(ArtifactError, match=message):
        open_encoder(name, [])


def test_an_encoder_of_somebody_else_cannot_have_weights_in_other_files(tmp_path: Path) -> None:
    encoder = open_encoder(write(tmp_path / "m", PLAIN), [])
    save_encoder(encoder, tmp_path / "e")
    data = model(tensors=[external("net.data")])
    (tmp_path / "e" / "model.onnx").write_bytes(data)
    (tmp_path / "e" / "net.data").write_bytes(weights().tobytes())
    manifest = (tmp_path / "e" / "encoder.json").read_text()
    (tmp_path / "e" / "encoder.json").write_text(manifest.replace('"sha256"', '"older"'))
    with pytest.raises(ArtifactError, match="its weights are in another file, which is not part"):
        load_encoder(tmp_path / "e")


# ---- models that could do harm -------------------------------------------------------------------


def sub_graph(name: str) -> Any:
    value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
    return helper.make_graph(
        [helper.make_node("Identity", ["x"], [f"{name}_y"])], name, [], [value]
    )


def sparse(size: int) -> Any:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    return helper.make_sparse_tensor(values, indices, [size])


def function(name: str, nodes: Sequence[Any]) -> Any:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], ["b"], nodes, opsets)


def doubling(levels: int) -> list[Any]:
    """Return functions each of which calls the next one twice."""
    last = function(f"f{levels}", [helper.make_node("Identity", ["a"], ["b"])])
    return [
        function(
            f"f{level}",
            [
                helper.make_node(f"f{level + 1}", ["a"], ["c"], domain="own"),
                helper.make_node(f"f{level + 1}", ["c"], ["b"], domain="own"),
            ],
        )
        for level in range(levels)
    ] + [last]


def with_dims(*dims: int) -> TensorProto:
    tensor = numpy_helper.from_array(weights(), "w")
    del tensor.dims[:]
    tensor.dims.extend(dims)
    return tensor


CALL = helper.make_node("f0", ["w"], ["v"], domain="own")
MULTIPLY_V = helper.make_node("MatMul", ["f", "v"], ["y"])
ITSELF = function("f0", [helper.make_node("f0", ["a"], ["b"], domain="own")])
LOOP = helper.make_node("Loop", ["", ""], ["z"], body=sub_graph("b"))

HARMFUL = {
    "a huge tensor": (model(tensors=[with_dims(10**6, 10**6)]), "larger than its data"),
    "a tensor of negative size": (model(tensors=[with_dims(-1, 4)]), "negative size"),
    "a loop": (model([FLATTEN, MULTIPLY, LOOP], [INLINE]), r"any number of times \(Loop\)"),
    "functions that multiply": (
        model([FLATTEN, CALL, MULTIPLY_V], [INLINE], functions=doubling(30)),
        "more than 1,000,000 nodes",
    ),
    "functions that call themselves": (
        model([FLATTEN, CALL, MULTIPLY_V], [INLINE], functions=[ITSELF]),
        "call themselves",
    ),
    "a huge sparse tensor": (
        model(tensors=[INLINE], graph={"sparse_initializer": [sparse(10**10)]}),
        "sparse tensor",
    ),
    "a node that reads files": (
        model(
            [FLATTEN, MULTIPLY, helper.make_node("EPContext", [], ["z"], domain="own")], [INLINE]
        ),
        r"reads other files \(EPContext\)",
    ),
    "the format of ONNX Runtime": (PLAIN[:4] + b"ORTM" + PLAIN[8:], "own format"),
    "no model": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a complete ONNX model"),
    "nothing": (b"", "has no nodes"),
    "cut": (PLAIN[: len(PLAIN) // 2], "not a complete ONNX model"),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_harmful_models_are_refused_before_they_are_loaded(kind: str) -> None:
    data, message = HARMFUL[kind]
    with pytest.raises(ArtifactError, match=message) as caught:
        check_model(data, name="encoder 'a'")
    assert "\n" not in str(caught.value)


def test_branches_and_functions_are_allowed() -> None:
    condition = numpy_helper.from_array(np.array(True), "t")
    branch = helper.make_node(
        "If", ["t"], ["z"], then_branch=sub_graph("a"), else_branch=sub_graph("b")
    )
    flatten = helper.make_node("Flatten", ["z"], ["f"])
    data = model([branch, flatten, CALL, MULTIPLY_V], [INLINE, condition], functions=doubling(3))
    images = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)
    plain = OnnxModel(PLAIN, name="m")
    np.testing.assert_array_equal(OnnxModel(data, name="m")(images), plain(images))


def test_damaged_models_give_one_line() -> None:
    """Each byte changed or the rest cut off: a model that is loaded or ArtifactError."""
    rng = np.random.default_rng(0)
    data = model(tensors=[numpy_helper.from_array(weights()[:, :1], "w")])
    for place in rng.integers(0, len(data) - 800, 300):
        damaged = bytearray(data)
        damaged[place] = rng.integers(0, 256)
        for each in (bytes(damaged), data[:place]):
            try:
                OnnxModel(each, name="m")(np.zeros((1, 3, 8, 8), np.float32))
            except ArtifactError as error:
                reason = str(error)
                assert reason.startswith("m: ")
                assert "\n" not in reason


def test_what_a_model_allocates_is_limited() -> None:
    size = numpy_helper.from_array(np.array([1 << 44], np.int64), "s")
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["r"], keepdims=0),
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Add", ["f", "r"], ["y"]),
    ]
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot"):
        OnnxModel(model(nodes, [size]), name="m")(np.zeros((1, 3, 8, 8), np.float32))


def test_outputs_that_are_no_tensors_of_numbers_are_refused() -> None:
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    with pytest.raises(ArtifactError, match=r"returns seq\(tensor\(float\)\)"):
        OnnxModel(model([node], outputs=[sequence]), name="m")
    text = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    with pytest.raises(ArtifactError, match=r"returns tensor\(int64\)"):
        OnnxModel(model([helper.make_node("Shape", ["x"], ["y"])], outputs=[text]), name="m")


def test_a_model_of_other_inputs_or_rows_is_an_artifact_error(tmp_path: Path) -> None:
    encoder = open_encoder(write(tmp_path / "m", PLAIN), [])
    assert isinstance(encoder, NetworkEncoder)
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot run the model"):
        encoder.run(np.zeros((1, 3, 9, 9), np.float32))
    one_row = helper.make_node("ReduceMean", ["f"], ["y"], axes=[0], keepdims=1)
    whole = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    network = OnnxModel(model([FLATTEN, one_row], outputs=[whole]), name="m")
    with pytest.raises(ArtifactError, match="one row for each"):
        network(np.zeros((3, 3, 8, 8), np.float32))


def test_a_model_without_its_description_is_an_input_error(tmp_path: Path) -> None:
    name = write(tmp_path / "m", PLAIN)
    (tmp_path / "m" / "net.json").unlink()
    with pytest.raises(InputError, match=r"there is no file .*net\.json; it describes"):
        open_encoder(name, [])


TOKENIZER: dict[str, object] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"},
}
PADDING = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        (b"", ""),
        (b"\xff", "codec"),
        (b"[" * 100_000, ""),
        (json.dumps({**TOKENIZER, "model": {"type": "None"}}).encode(), ""),
        (json.dumps(TOKENIZER).encode(), ""),  # texts of different lengths, not padded
        (
            json.dumps(
                {
                    **TOKENIZER,
                    "padding": {
                        "strategy": {"Fixed": 10**9},
                        "pad_to_multiple_of": None,
                        **PADDING,
                    },
                }
            ).encode(),
            "pads texts to more than 8,192 tokens",
        ),
    ],
    ids=["empty", "no text", "deep", "no model", "not padded", "padded to a billion"],
)
def test_tokenizers_of_others_are_refused_in_one_line(
    tokenizer: bytes, reason: str, require: Require
) -> None:
    require(find_spec("tokenizers"), "tokenizers is not installed")
    encoder = ImageTextEncoder("t", PLAIN, Preprocessing(8, 8, 3), text=b"", tokenizer=tokenizer)
    with pytest.raises(ArtifactError, match=r"its tokenizer\.json is broken") as caught:
        encoder.encode_text(["a", "a b"])
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
