"""The pages of docs/: all of their code runs, and every call in a table exists."""

import re
from pathlib import Path

import pytest

import linkern.bayes
from linkern.bayes import MonteCarloSolution

DOCS = Path(__file__).parents[1] / "docs"


def page(name):
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "blocks", "asserts"), [("which_theory", 7, 9), ("nonlinear_kernels", 4, 7)])
def test_pages_run(name, blocks, asserts):
    found = re.findall(r"```python\n(.*?)```", page(name), flags=re.DOTALL)
    assert len(found) == blocks
    assert sum(block.count("assert") for block in found) >= asserts
    space: dict = {}
    for block in found:
        exec(block, space)


def test_there_is_no_other_page():
    assert sorted(path.stem for path in DOCS.iterdir()) == ["nonlinear_kernels", "which_theory"]


def test_calls_in_the_table_of_theories_exist():
    rows = [line for line in page("which_theory").splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    names = set(re.findall(r"`(solve_\w+)", "\n".join(rows)))
    assert names
    assert names <= set(linkern.bayes.__all__)


def test_fields_in_the_table_of_certificates_exist():
    section = page("nonlinear_kernels").split("## What to make of a status")[1].split("##")[0]
    names = re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `")))
    assert len(names) >= 7
    assert all(hasattr(MonteCarloSolution, name) or name in MonteCarloSolution.__dataclass_fields__ for name in names)
