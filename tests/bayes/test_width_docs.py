"""The page that tells which theory is which: all of its code runs, and every call in its table exists."""

import re
from pathlib import Path

import linkern.bayes

PAGE = (Path(__file__).parents[2] / "docs" / "which_theory.md").read_text(encoding="utf-8")


def test_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 7
    assert sum(block.count("assert") for block in blocks) >= 9
    space: dict = {}
    for block in blocks:
        exec(block, space)


def test_calls_in_the_table_exist():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    names = set(re.findall(r"`(solve_\w+)", "\n".join(rows)))
    assert names
    assert names <= set(linkern.bayes.__all__)
