"""Evaluation protocols of published benchmarks, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lookalike.errors import SettingError, UnknownNameError


@dataclass(frozen=True, slots=True)
class EvaluationProtocol:
    """Settings that results must share to be comparable.

    ``k`` is the number of results that count; relevance comes from a ground-truth file. ``source``
    cites the definition.
    """

    name: str
    k: int
    summary: str
    source: str

    def check(self, k: int | None, ground_truth: str | Path | None) -> None:
        """Check that other settings agree with the protocol.

        Raises:
            SettingError: ``k`` differs from the protocol's, or ``ground_truth`` is missing.
        """
        if k is not None and k != self.k:
            raise SettingError(
                f"{{k}} contradicts {{protocol}}, which counts {self.k} results; leave out {{k}}",
                k=k,
                protocol=self.name,
            )
        if ground_truth is None:
            raise SettingError(
                "{protocol} needs {ground_truth}: a CSV file, on each line a query and the ids of "
                "its relevant rows",
                protocol=self.name,
                ground_truth=None,
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
            summary="AI Meets Beauty challenge: mAP@7 of retrieving products among half a million",
            source="seven results per query: challenge2019.perfectcorp.com; division by the "
            "relevant results retrieved: evaluation.py of "
            "cvte-research-datamining/AIMeetsBeautyChallenge on GitHub",
        ),
    )
}


def open_protocol(name: str) -> EvaluationProtocol:
    """Return a protocol by name.

    Raises:
        UnknownNameError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
