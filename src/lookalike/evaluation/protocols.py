"""Protocols of evaluation by name: what a published figure was measured by, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lookalike.errors import SettingError, UnknownNameError


@dataclass(frozen=True, slots=True)
class EvaluationProtocol:
    """Settings that figures have to share to be compared.

    ``k`` is how many hits count; the right answers come from a truth file. ``source`` says where
    the definition was read.
    """

    name: str
    k: int
    summary: str
    source: str

    def check(self, k: int | None, ground_truth: str | Path | None) -> None:
        """See that other settings do not contradict it.

        Raises:
            SettingError: another ``k`` was asked for, or no truth file given.
        """
        if k is not None and k != self.k:
            raise SettingError(
                f"-n {k} cannot be combined with --protocol {self.name}, which counts {self.k} "
                "hits; leave out -n"
            )
        if ground_truth is None:
            raise SettingError(
                f"--protocol {self.name} needs --ground-truth FILE, the file of its right answers: "
                "each line a query and the ids of one or more rows"
            )

    def as_dict(self) -> dict[str, str | int]:
        """Return the fields as JSON values."""
        return asdict(self)


PROTOCOLS: Mapping[str, EvaluationProtocol] = {
    protocol.name: protocol
    for protocol in (
        EvaluationProtocol(
            name="perfect-500k",
            k=7,
            summary="AI Meets Beauty challenge: mAP@7 of finding a product in half a million",
            source="seven answers a query: challenge2019.perfectcorp.com; division by those found: "
            "evaluation.py of cvte-research-datamining/AIMeetsBeautyChallenge on GitHub",
        ),
    )
}


def open_protocol(name: str) -> EvaluationProtocol:
    """Return a protocol by name.

    Raises:
        UnknownNameError: no such protocol.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
