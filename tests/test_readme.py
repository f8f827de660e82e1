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
    import linkern.networks

    for name in re.findall(r"\| `linkern\.bayes\.(\w+)`", README.read_text(encoding="utf-8")):
        assert callable(getattr(linkern.bayes, name))
    assert callable(linkern.networks.sample_posterior)
