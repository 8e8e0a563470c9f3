"""Files of torch read without torch: all formats and types, broken files, hostile pickles."""

from __future__ import annotations

import io
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lookalike.errors import ArtifactError
from lookalike.torch_files import read_state


def saved(value: object, *, legacy: bool = False, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy, **options)
    return file.getvalue()


def assert_same(arrays: dict[str, np.ndarray], tensors: dict[str, torch.Tensor]) -> None:
    assert list(arrays) == list(tensors)
    for name, tensor in tensors.items():
        array = arrays[name]
        widened = tensor.dtype in (torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn)
        expected = (tensor.float() if widened else tensor).detach().numpy()
        assert array.dtype == expected.dtype, name
        assert isinstance(array, np.ndarray)
        assert array.flags.c_contiguous
        assert array.flags.writeable, "of memory of its own"
        np.testing.assert_array_equal(array, expected, err_msg=name)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
        self.head = nn.Linear(3, 4)
        self.register_buffer("grid", torch.arange(6).reshape(2, 3))
        self.steps = 7
        self.sizes = [2, 3]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def network() -> Network:
    return Network().eval()


@pytest.mark.parametrize("legacy", [False, True])
def test_state_of_a_network(network: Network, legacy: bool, tmp_path: Path) -> None:
    data = saved(network.state_dict(), legacy=legacy)
    assert_same(read_state(data, name="w"), network.state_dict())
    (tmp_path / "w.pth").write_bytes(data)
    assert_same(read_state(tmp_path / "w.pth", name="w"), network.state_dict())
    for protocol in (1, 3, 4, 5):
        data = saved(network.state_dict(), legacy=legacy, pickle_protocol=protocol)
        assert_same(read_state(data, name="w"), network.state_dict())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_names_what_is_inside(network: Network, legacy: bool) -> None:
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(2, 2, 5, 5)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": network.head.weight,
        "note": ("epoch", 3, 2.5, None, True, b"x", torch.Size([2]), torch.device("cpu")),
        "layers": [torch.ones(2), {"deep": torch.zeros(1)}],
    }
    arrays = read_state(saved(checkpoint, legacy=legacy), name="w")
    weight = network.head.weight.detach()
    np.testing.assert_array_equal(arrays["model.head.weight"], weight)
    np.testing.assert_array_equal(arrays["parameter"], weight)
    moment = optimizer.state_dict()["state"][0]["exp_avg"]
    np.testing.assert_array_equal(arrays["optimizer.state.0.exp_avg"], moment)
    assert arrays["layers.0"].tolist() == [1, 1]
    assert arrays["layers.1.deep"].tolist() == [0]
    assert not any(name.startswith("note") for name in arrays)
    assert_same(read_state(saved(weight), name="w"), {"": weight})


TYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e5m2, torch.float8_e4m3fn, torch.complex64, torch.complex128, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_of_elements(dtype: torch.dtype, legacy: bool) -> None:
    values = torch.tensor([0.0, 1, 2, 100, 64, 3]).to(dtype)
    if dtype.is_floating_point or dtype.is_complex:
        values = torch.tensor([0.0, -1, 0.1, 3e-3, -240, 1e-2]).to(dtype)
    tensors = {"a": values, "b": values[1:3], "c": values[5], "d": values[:0]}
    assert_same(read_state(saved(tensors, legacy=legacy), name="w"), tensors)


def test_every_float8_code() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    tensors = {str(d): codes.view(d) for d in (torch.float8_e4m3fn, torch.float8_e5m2)}
    assert_same(
        {
            name.replace("/", "."): array
            for name, array in read_state(saved(tensors), name="w").items()
        },
        tensors,
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_views_of_shared_storages(legacy: bool) -> None:
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    tensors = {
        "base": base,
        "same": base,
        "transposed": base.permute(2, 0, 1),
        "steps": base[::2, 1:, ::3],
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "scalar": base[1, 2, 3],
        "empty": base[:, :0],
        "no_rows": torch.zeros(0, 7),
    }
    assert_same(read_state(saved(tensors, legacy=legacy), name="w"), tensors)


def test_old_views_of_a_storage() -> None:
    """Files of torch before 0.4 have parts of storages, as do some of its later ones."""
    data = saved({"a": torch.arange(6.0)}, legacy=True)
    # The last field of the storage's ID, None, becomes a key, a start and a length.
    part = b"(X\x01\x00\x00\x00vK\x02K\x03t"
    tail = b"K\x06Nt"
    assert data.count(tail) == 1
    changed = data.replace(tail, b"K\x06" + part + b"t")
    shape = b"K\x06\x85"
    assert changed.count(shape) == 1
    changed = changed.replace(shape, b"K\x03\x85")
    assert torch.load(io.BytesIO(changed))["a"].tolist() == [2, 3, 4]
    assert read_state(changed, name="w")["a"].tolist() == [2, 3, 4]


def rewritten(data: bytes, change: Callable[[str, bytes], bytes | None], method: int = 0) -> bytes:
    """Return a zip file with other contents of its files, or without those that are None."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", method) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return file.getvalue()


def test_byte_order_of_another_machine() -> None:
    tensors = {
        "float": torch.rand(5),
        "short": torch.arange(4, dtype=torch.int16),
        "brain": torch.rand(3).bfloat16(),
        "complex": torch.rand(2, dtype=torch.complex64),
    }
    widths = iter((4, 2, 2, 4))

    def swap(name: str, content: bytes) -> bytes | None:
        if name.endswith("byteorder"):
            return b"big"
        if "/data/" in name:
            width = next(widths)
            return np.frombuffer(content, f"<u{width}").byteswap().tobytes()
        return content

    data = rewritten(saved(tensors), swap)
    assert_same(read_state(data, name="w"), torch.load(io.BytesIO(data)))
    assert_same(read_state(data, name="w"), tensors)
    older = rewritten(saved(tensors), lambda n, c: None if n.endswith("byteorder") else c)
    assert_same(read_state(older, name="w"), tensors)


@pytest.mark.parametrize("kind", ["script", "trace"])
def test_modules_of_torchscript(network: Network, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if kind == "script":
            script: Any = torch.jit.script(network)
        else:
            script = torch.jit.trace(network, torch.rand(1, 2, 5, 5))
        file = io.BytesIO()
        torch.jit.save(script, file)
    arrays = read_state(file.getvalue(), name="w")
    expected = network.state_dict()
    assert sorted(arrays) == sorted(expected)
    assert_same({name: arrays[name] for name in expected}, expected)


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_and_changed_files(network: Network, legacy: bool) -> None:
    data = saved(network.state_dict(), legacy=legacy)
    for end in (0, 1, 4, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(ArtifactError, match=r"^w: is no complete file of torch's weights \("):
            read_state(data[:end], name="w")
    for other in (b"", b"\x89PNG\r\n", b"PK\x03\x04" + bytes(50), pickle.dumps({"a": 1}), b"\x80"):
        with pytest.raises(ArtifactError, match="w: is no complete file of torch's weights"):
            read_state(other, name="w")


def test_what_a_zip_file_lacks(network: Network) -> None:
    data = saved(network.state_dict())

    def without(end: str) -> bytes:
        return rewritten(data, lambda name, content: None if name.endswith(end) else content)

    for end in ("data.pkl", "data/3"):
        with pytest.raises(ArtifactError, match=rf"file.* {end}"):
            read_state(without(end), name="w")
    short = rewritten(data, lambda name, content: content[:-4] if name.endswith("/0") else content)
    with pytest.raises(ArtifactError, match="a tensor is larger than its storage"):
        read_state(short, name="w")
    packed = rewritten(data, lambda _, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtifactError, match="has a file byteorder that is compressed"):
        read_state(packed, name="w")
    place = data.index(network.state_dict()["body.0.weight"].numpy().tobytes())
    flipped = bytearray(data)
    flipped[place] ^= 1
    with pytest.raises(ArtifactError, match="Bad CRC-32"):
        read_state(bytes(flipped), name="w")


def with_pickle(content: bytes) -> bytes:
    data = saved({"a": torch.arange(4.0)})
    return rewritten(data, lambda name, old: content if name.endswith("data.pkl") else old)


class Runs:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


HOSTILE = [
    (Runs(os.system, "touch HERE"), "contains (posix|nt).system, which is no array"),
    (Runs(eval, "open('HERE', 'w')"), "contains (__builtin__|builtins).eval, which"),
    (Runs(getattr, [], "append"), "contains (__builtin__|builtins).getattr"),
    ({"a": np.float64(3)}, r"contains numpy\..*scalar"),
    (Network, "contains tests.unit.test_torch_files.Network"),
]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(("value", "reason"), HOSTILE, ids=[reason for _, reason in HOSTILE])
def test_no_code_is_run(
    value: Any, reason: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(value, protocol)
    start: tuple[object, ...] = (0x1950A86A20F9469CFC6C, 1001, {})
    header = b"".join(pickle.dumps(each, 2) for each in start)
    for file in (with_pickle(data), header + data):
        with pytest.raises(ArtifactError, match=rf"^w: is refused, since it {reason}.*state_dict"):
            read_state(file, name="w")
    assert not list(tmp_path.iterdir())


def test_a_whole_model_is_refused(network: Network) -> None:
    for legacy in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = saved(network, legacy=legacy)
        with pytest.raises(ArtifactError, match=r"(Network|whole model).*save the weights alone"):
            read_state(data, name="w")


def test_what_is_no_plain_tensor_is_refused() -> None:
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(ArtifactError, match=r"_rebuild_sparse_tensor"):
        read_state(saved({"a": sparse}), name="w")
    with pytest.raises(ArtifactError, match="conjugate or negative"):
        read_state(saved({"a": torch.rand(2, dtype=torch.complex64).conj()}), name="w")
    with pytest.raises(ArtifactError, match=r"two arrays are called 'a\.b'"):
        read_state(saved({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}), name="w")
    with pytest.raises(ArtifactError, match=r"contains torch\.float8_e4m3fnuz"):
        read_state(saved({"a": torch.zeros(2, dtype=torch.float8_e4m3fnuz)}), name="w")


STORAGE = (
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
)
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n" + STORAGE


def tensor(offset: bytes, shape: bytes, strides: bytes) -> bytes:
    return TENSOR + offset + shape + strides + b"\x89ccollections\nOrderedDict\n)RtR"


def test_tensors_reach_no_other_memory() -> None:
    inside = tensor(b"K\x01", b"K\x03\x85", b"K\x01\x85")
    assert read_state(with_pickle(inside + b"."), name="w")[""].tolist() == [1, 2, 3]
    minus, huge = b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f"
    for offset, shape, strides in (
        (b"K\x02", b"K\x03\x85", b"K\x01\x85"),
        (minus, b"K\x03\x85", b"K\x01\x85"),
        (b"K\x00", b"K\x03\x85", b"K\x02\x85"),
        (b"K\x00", b"K\x03\x85", minus + b"\x85"),
        (b"K\x00", minus + b"\x85", b"K\x01\x85"),
        (b"K\x00", huge + b"\x85", b"K\x00\x85"),
        (b"K\x00", b"K\x02K\x02\x86", b"K\x01\x85"),
        (b"G" + bytes(8), b"K\x03\x85", b"K\x01\x85"),
        (b"N", b"K\x03\x85", b"K\x01\x85"),
        (b"K\x00", b"\x88\x85", b"K\x01\x85"),
    ):
        with pytest.raises(ArtifactError, match="w: is no complete file"):
            read_state(with_pickle(tensor(offset, shape, strides) + b"."), name="w")


def test_small_files_stay_small() -> None:
    expanded = tensor(b"K\x00", b"J\xff\xff\xff\x0f\x85", b"K\x00\x85")
    laughs = b"]" + b"q\x00(h\x00h\x00h\x00h\x00l" * 60 + b"."
    itself = b"}q\x00X\x01\x00\x00\x00ah\x00s."
    keys = b"]" + (b"q\x00}X" + (500).to_bytes(4, "little") + b"k" * 500 + b"h\x00s") * 30 + b"."
    place = b"Nr\xff\xff\xff\x7f."
    for content, reason in (
        (expanded + b".", "tensors that are much larger than itself"),
        (laughs, "too many values inside each other"),
        (itself, "too many values inside each other"),
        (keys.replace(b"]", inside_list(), 1), "a name is too long"),
        (b"2" * 10 + b".", "contains the operation DUP"),
        (b"}(K\x01\x85K\x01u.", "a key is no text or whole number"),
        (b"}" + b"G" + bytes(8) + b"Ns.", "a key is no text"),
        (b"(((", "pickle exhausted"),
        (b"0.", "the pickle is broken"),
        (b"h\x07.", "the pickle is broken"),
        (b"K\x01a.", "the pickle is broken"),
    ):
        with pytest.raises(ArtifactError, match=reason):
            read_state(with_pickle(content), name="w")
    assert read_state(with_pickle(place), name="w") == {}


def inside_list() -> bytes:
    return tensor(b"K\x01", b"K\x03\x85", b"K\x01\x85")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^w: cannot be read \(No such file"):
        read_state(tmp_path / "none", name="w")
    with pytest.raises(ArtifactError, match=r"^w: cannot be read"):
        read_state(tmp_path, name="w")


def test_reading_needs_no_torch() -> None:
    import subprocess

    code = (
        "import sys; sys.modules['torch'] = None; from lookalike.torch_files import read_state; "
        "print(read_state(sys.stdin.buffer.read(), name='w')['a'].sum())"
    )
    data = saved({"a": torch.arange(4.0)})
    run = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert run.stdout.strip() == b"6.0"
