"""Models built from arrays: layers against torch, nodes added to the models of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional

from lookalike.encoders.onnx_files import check_model
from lookalike.errors import ArtifactError
from lookalike.onnx_graph import Graph, append, folded_conv, model_outputs
from lookalike.wire_format import message, read_fields, read_varint, to_varint


def run(model: bytes, **inputs: np.ndarray) -> list[np.ndarray]:
    loaded = onnx.load_from_string(model)
    if all(each.type.tensor_type.HasField("shape") for each in loaded.graph.output):
        onnx.checker.check_model(loaded, full_check=True)
    check_model(model, name="model")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def test_layers_compute_what_torch_does() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 4, 17, 20)).astype(np.float32)
    conv, norm = nn.Conv2d(4, 6, (3, 5), stride=2, bias=False), nn.BatchNorm2d(6, eps=1e-3)
    other = nn.Conv2d(6, 6, 3, groups=3)
    linear = nn.Linear(6, 5)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.1, 2)  # type: ignore[arg-type]
    network = nn.ModuleDict({"conv": conv, "norm": norm})
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    graph = Graph()
    values = graph.input("images", (None, 4, 17, 20))
    padding = (0, 1, 2, 3)
    values = graph.conv(
        values, *folded_conv(state, "conv", "norm", eps=1e-3), stride=2, padding=padding
    )
    values = graph.relu6(graph.add(values, values))
    pooled = graph.max_pool(values, 3, stride=2, padding=1)
    weight, bias = other.weight.detach().numpy(), other.bias.detach().numpy()  # type: ignore[union-attr]
    values = graph.relu(graph.conv(pooled, weight, bias, groups=3, padding=1))
    rows = graph.reduce("ReduceMean", values, (2, 3))
    rows = graph.linear(rows, linear.weight.detach().numpy(), linear.bias.detach().numpy())
    graph.output(graph.unit_length(rows), (None, 5), name="embeddings")
    [actual] = run(graph.to_bytes(), images=images)
    network.eval()
    with torch.no_grad():
        padded = functional.pad(torch.from_numpy(images), (1, 3, 0, 2))
        maps = (2 * norm(conv(padded))).clamp(0, 6)
        maps = functional.max_pool2d(maps, 3, 2, 1)
        maps = torch.relu(functional.conv2d(maps, other.weight, other.bias, 1, 1, 1, 3))
        expected = functional.normalize(linear(maps.mean(dim=(2, 3))))
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint8, np.int64, np.bool_])
def test_arrays_keep_type_and_shape(dtype: type) -> None:
    array: np.ndarray = np.arange(-6, 6).reshape(3, 4).T.astype(dtype)
    for each in (array, array[0], array[0, 0, ...], array[:, :0]):
        graph = Graph()
        flag = graph.input("flag", (1,), np.int64)
        graph.output(graph.node("Identity", graph.constant(each)), each.shape, dtype, name="copy")
        del flag
        [copy] = run(graph.to_bytes(), flag=np.zeros(1, np.int64))
        assert (copy.dtype, copy.shape) == (each.dtype, each.shape)
        np.testing.assert_array_equal(copy, each)


def test_attributes_of_every_type() -> None:
    graph = Graph()
    rows = graph.input("rows", (None, 3))
    attributes: dict[str, Any] = {
        "whole": -3,
        "part": 0.25,
        "text": "ä",
        "wholes": [1, -2],
        "parts": [1.5, 2],
        "texts": ["a", "b"],
        "flag": True,
        "array": np.arange(3, dtype=np.int64),
        "absent": None,
    }
    one, two = graph.multi_node("Odd", rows, "", outputs=2, domain="some.where", **attributes)
    graph.output(one)
    graph.output(two)
    model = onnx.load_from_string(graph.to_bytes())
    [node] = model.graph.node
    parsed = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    assert onnx.numpy_helper.to_array(parsed.pop("array")).tolist() == [0, 1, 2]
    assert parsed == {
        "whole": -3,
        "part": 0.25,
        "text": "ä".encode(),
        "wholes": [1, -2],
        "flag": 1,
        "parts": [1.5, 2.0],
        "texts": [b"a", b"b"],
    }
    assert list(node.input) == ["rows", ""]
    assert {each.domain: each.version for each in model.opset_import} == {"": 17, "some.where": 1}


def stranger(opset: int, shape: list[int | str] | None) -> bytes:
    """A model that uses every name that added nodes could like."""
    names = ["embeddings", "added_reducel2_1", "added_node_0"]
    nodes = [
        helper.make_node("Relu", ["images"], [names[1]], name=names[2]),
        helper.make_node("Identity", [names[1]], [names[0]], name="constant_1"),
    ]
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", kind, ["n", 4])],
        [helper.make_tensor_value_info(names[0], kind, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    return model.SerializeToString()


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_nodes_are_added_behind_the_model_of_a_stranger(opset: int) -> None:
    def unit(graph: Graph, outputs: list[str]) -> list[str]:
        assert outputs == ["embeddings"]
        assert graph.source("embeddings").shape == (None, 4)
        assert graph.source("embeddings").dtype == np.float32
        rows = graph.slice(outputs[0], (1,), (1,), (3,))
        total = graph.reduce("ReduceSum", rows, (1,), keepdims=True)
        rows = graph.unit_length(graph.node("Concat", rows, total, axis=1))
        graph.output(rows, (None, 3), name="embeddings")
        return [rows, outputs[0]]

    model = append(stranger(opset, ["n", 4]), unit)
    rows = np.array([[9, 3, 4, 9], [1, -1, 0, 1]], np.float32)
    first, second = run(model, images=rows)
    expected = np.array([[3, 4, 7], [0, 0, 0]]) / np.array([[74**0.5], [1]])
    np.testing.assert_allclose(first, expected, atol=1e-6)
    np.testing.assert_array_equal(second, np.maximum(rows, 0))
    names = [each.name for each in model_outputs(model)]
    assert names == ["embeddings_", "embeddings"]
    assert model_outputs(model)[0].shape == (None, 3)
    # Twice, as for pooling and then a projection.
    again = append(model, lambda graph, outputs: [graph.node("Neg", outputs[0])])
    np.testing.assert_allclose(run(again, images=rows)[0], -expected, atol=1e-6)


def test_tensors_of_the_model_stay_as_they_are() -> None:
    model = onnx.load_from_string(stranger(17, ["n", 4]))
    tensor = helper.make_tensor(
        "w", TensorProto.FLOAT, [4], np.ones(4, np.float32).tobytes(), raw=True
    )
    model.graph.initializer.append(tensor)
    data = model.SerializeToString()
    appended = append(data, lambda graph, outputs: [graph.unit_length(outputs[0])])
    assert onnx.load_from_string(appended).graph.initializer[0] == tensor


def test_what_is_no_model_is_refused() -> None:
    def same(_: Graph, outputs: list[str]) -> list[str]:
        return outputs

    good = stranger(17, None)
    assert model_outputs(good)[0].shape is None
    for data in (b"", b"x", good[:-5], good[:40], good + good, b"\x00" * 9):
        with pytest.raises(ArtifactError, match=r"photos: is not a complete ONNX model"):
            append(data, same, name="photos")
    with pytest.raises(ArtifactError, match=r"photos: its operators are of version 10; export"):
        append(stranger(10, None), same, name="photos")


def test_varints_and_fields_are_read_as_they_are_written() -> None:
    for value in (0, 1, 127, 128, 300, 1 << 31, (1 << 64) - 1):
        assert read_varint(memoryview(to_varint(value)), 0) == (value, len(to_varint(value)))
    data = b"".join(message((1, 5), (2, -1), (3, 0.5), (4, b"ab"), (5, message((1, b"c")))))
    fields = [
        (number, bytes(value) if isinstance(value, memoryview) else value)
        for number, _, value, _ in read_fields(memoryview(data), [9])
    ]
    half = b"\x00\x00\x00\x3f"
    assert fields == [(1, 5), (2, (1 << 64) - 1), (3, half), (4, b"ab"), (5, b"\x0a\x01c")]
    with pytest.raises(ValueError, match="too many"):
        list(read_fields(memoryview(data), [3]))
    for broken in (data[:-1], b"\x80" * 11, b"\x00\x01", b"\x0b"):
        with pytest.raises(ValueError, match=r"cut off|field 0|wire type"):
            list(read_fields(memoryview(broken), [9]))
