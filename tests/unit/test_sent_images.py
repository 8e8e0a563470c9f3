"""Images as base64 are decoded piece by piece."""

from __future__ import annotations

import random
from base64 import b64decode, encodebytes

import pytest

from lookalike.errors import InputError
from lookalike.search import request
from lookalike.search.request import SentImage


@pytest.mark.parametrize("piece", [1, 5, 64])
def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(request, "_PIECE", piece)
    rng = random.Random(0)
    for size in range(120):
        data = rng.randbytes(size)
        lines = encodebytes(data).decode()
        assert SentImage(lines).file_bytes() == data
    for text in ("", "=", "QUJD", " Q\tU-J D ", "QUI=QUJD", "QU=\n=", "/+//"):
        assert SentImage(text).file_bytes() == b64decode(text)


@pytest.mark.parametrize("text", ["Q", "QUJDR", "QU=", "é", "QUJD" * 100_000 + "é"])
def test_what_is_not_base64_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="image: not base64"):
        SentImage(text).file_bytes()
