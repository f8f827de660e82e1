"""The figures, one per file: `compute(quick, rng)` returns arrays, `draw(arrays)` a figure, `numbers(arrays)` what to quote.

Results are cached by a hash of the package's code and the figure's parameters; a figure whose code has not changed is only
drawn again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import matplotlib

matplotlib.use("Agg")  # files only: the figures must come out the same with and without a screen

import matplotlib.pyplot as plt
import numpy as np

import linkern
from linkern.numerics.processes import in_processes
from linkern.solution import load_npz, save_npz

__all__ = ["FIGURES", "make_figures"]

#: Name of a figure and of its module.
FIGURES = (
    "overlaps_by_layer",
    "overlap_scaling",
    "kernels_by_layer",
    "branches",
    "rescaling_digits",
    "multiscale_discrepancy",
    "multiscale_width",
    "flow_linear",
    "flow_weight_decay",
    "flow_nonlinear",
    "flow_predictors",
    "flow_loss_decay",
    "flow_two_layer_phases",
    "flow_laplace",
    "bayes_perturbation",
    "bayes_alignment",
    "bayes_densities",
    "bayes_test_loss",
    "bayes_width",
    "bayes_branches",
)

_STYLE = Path(__file__).with_name("linkern.mplstyle")


def _module(name: str) -> ModuleType:
    return import_module(f"linkern.figures.{name}")


def _code_hash() -> str:
    digest = hashlib.sha256()
    for folder in (Path(linkern.__file__).parent, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _computed(cache: Path, code: str, quick: bool, seed: int, name: str) -> tuple[dict, float]:
    """Return the figure's arrays, from the cache where code and parameters are unchanged, and the seconds they took."""
    key = hashlib.sha256(f"{code} {name} {quick} {seed}".encode()).hexdigest()[:16]
    path = cache / f"{name}-{key}.npz"
    if path.exists():
        arrays, record = load_npz(path)
        return arrays, record["seconds"]
    start = time.perf_counter()
    arrays = _module(name).compute(quick, np.random.default_rng(seed))
    seconds = time.perf_counter() - start
    for old in cache.glob(f"{name}-*.npz"):
        old.unlink()
    save_npz(path, arrays, {"name": name, "quick": quick, "seed": seed, "seconds": seconds})
    return arrays, seconds


def make_figures(
    names: Sequence[str],
    out: Path,
    *,
    quick: bool = True,
    seed: int = 0,
    jobs: int = 1,
    report: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Compute and draw figures; write `name.png`, `name.pdf` and `name.json` (the numbers to quote) into `out`.

    Parameters
    ----------
    names : sequence of str
        Figures to make; empty means all of `FIGURES`.
    out : Path
        Output folder; the cache lives in its subfolder `cache`.
    quick : bool
        Small sizes (a minute or so each at most) instead of those of the papers.
    seed : int
        Seed of all random numbers.
    jobs : int
        Figures to compute at a time, each in a process of its own; numbers do not depend on it.
    report : callable
        Called with one line of progress per figure.

    Returns
    -------
    list of Path
        The files that were written.
    """
    if unknown := set(names) - set(FIGURES):
        raise ValueError(f"names: expected figures among {list(FIGURES)}, got {sorted(unknown)}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    names = names or FIGURES
    compute = partial(_computed, out / "cache", _code_hash(), quick, seed)
    for name, (arrays, seconds) in zip(names, in_processes(compute, names, jobs), strict=True):
        module = _module(name)
        with plt.style.context(_STYLE):
            figure = module.draw(arrays)
            for suffix in (".png", ".pdf"):
                # Without a date in the file the same run writes the same bytes.
                metadata = {"CreationDate": None} if suffix == ".pdf" else {"Software": f"linkern {linkern.__version__}"}
                figure.savefig(out / f"{name}{suffix}", metadata=metadata)
                written.append(out / f"{name}{suffix}")
            plt.close(figure)
        record = {"title": module.TITLE, "source": module.SOURCE, "quick": quick, "seed": seed, "seconds": round(seconds, 2)}
        record["numbers"] = module.numbers(arrays)
        (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        written.append(out / f"{name}.json")
        report(f"{name}: {module.TITLE}; computed in {seconds:.1f} s")
    return written
