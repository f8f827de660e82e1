"""What every solver returns: a frozen result that carries its own certificate."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ConvergenceError", "Solution", "Status", "load_npz", "save_npz"]


class Status(enum.Enum):
    """How far a solution can be trusted; the value is advice to whoever reads it."""

    CONVERGED = "the defining equations hold to the stated residual"
    DEGENERATE = (
        "two solutions (nearly) coincide: the parameters lie on a spinodal, where a root is ill conditioned; "
        "trust digits only down to condition_number * machine epsilon, or move gamma0 or beta slightly"
    )
    ILL_CONDITIONED = (
        "the kernel's small eigenvalues are not resolved by float64 and the answer depends on them; "
        "lower beta (a larger ridge), remove duplicated data, or pass the spectrum itself"
    )
    UNRELIABLE = "the error estimate is not trustworthy; increase the number of samples or loosen the tolerance"
    NOT_CONVERGED = "the residual is above the tolerance; try another branch or start, or loosen tol"


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Fields that every solution has.

    Attributes
    ----------
    parameters : Mapping[str, Any]
        The parameters of the problem as the solver understood them (after validation).
    residual : float
        Largest relative violation of the defining equations, re-evaluated independently of how the solution was found.
    status : Status
        Verdict with advice; `status.value` is the text.
    """

    parameters: Mapping[str, Any]
    residual: float
    status: Status


class ConvergenceError(RuntimeError):
    """Raised when a solver cannot vouch for its answer; `solution` holds the best one found."""

    def __init__(self, message: str, solution: Solution | None = None) -> None:
        super().__init__(message)
        self.solution = solution


def save_npz(path: str | Path, arrays: Mapping[str, NDArray[Any]], record: Mapping[str, Any]) -> Path:
    """Write `arrays` and the JSON-able `record` (parameters, seed, versions) to one `.npz` file, without pickle."""
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"path: expected a name ending in .npz, got {str(path)!r}")
    if "record" in arrays:
        raise ValueError("arrays: the name 'record' is reserved for the JSON record")
    path.parent.mkdir(parents=True, exist_ok=True)
    everything: dict[str, Any] = {"record": np.array(json.dumps(dict(record), sort_keys=True)), **arrays}
    np.savez_compressed(path, **everything)
    return path


def load_npz(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `save_npz` wrote: the arrays and the record."""
    with np.load(Path(path), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    record = json.loads(str(arrays.pop("record")))
    return arrays, record
