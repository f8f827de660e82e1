"""The README's examples run and print what it says they print."""

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_examples_print_what_the_readme_shows():
    pytest.importorskip("sklearn")
    text = README.read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == text.count("```python") >= 3
    space: dict = {}
    for code, expected in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, space)
        assert printed.getvalue() == expected


def test_names_in_the_table_exist():
    import linkern.bayes
    import linkern.flow
    import linkern.networks

    named = re.findall(r"`linkern\.(bayes|flow|networks)\.(\w+)`", README.read_text(encoding="utf-8"))
    assert len(named) >= 9
    for wing, name in named:
        assert callable(getattr(getattr(linkern, wing), name))
