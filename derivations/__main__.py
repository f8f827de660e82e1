"""Write the generated modules: `python -m linkern.derivations`, or compare them with `--check`."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

import linkern.generated
from linkern.derivations import generated_modules


def main(arguments: list[str] | None = None) -> int:
    """Regenerate `linkern/generated/`; with `--check` only report differences and exit 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m linkern.derivations", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    check = parser.parse_args(arguments).check
    folder = Path(linkern.generated.__file__).parent
    modules = generated_modules()
    stale = False
    for name, text in modules.items():
        path = folder / name
        committed = path.read_text(encoding="utf-8") if path.exists() else ""
        if committed == text:
            print(f"fresh   {path.name}")
            continue
        stale = True
        if check:
            sys.stdout.writelines(difflib.unified_diff(committed.splitlines(True), text.splitlines(True), "committed", "derived"))
        else:
            path.write_text(text, encoding="utf-8")
            print(f"written {path.name}")
    orphans = {p.name for p in folder.glob("*.py")} - set(modules) - {"__init__.py"}
    for name in sorted(orphans):
        print(f"orphan  {name}: no derivation writes it")
    return 1 if orphans or (check and stale) else 0


if __name__ == "__main__":
    sys.exit(main())
