"""Write docs/reference/compatibility.md from the results of test runs on several hosts.

    COMFYUI_PATH=<ComfyUI> make test ARGS="tests/comfyui --junitxml=a.xml"     # once per version of ComfyUI
    .venv/bin/python tools/compatibility.py "ComfyUI 0.8.0=a.xml" "ComfyUI 0.33.0=b.xml"

A row is a test module, named by the first sentence of its docstring. Skipped tests do not count.
"""

from __future__ import annotations

import ast
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "compatibility.md"
HEAD = """# Compatibility

What the tests found on each version: how many passed, of those that could run there, and the names of the others.
Written by `tools/compatibility.py` from the results of `make test`. What happens in special situations, and limits:
[Situations and limits](situations.md).
"""

Results = dict[str, dict[str, bool]]
"""Whether each test passed, by module and name."""


def read(path: Path) -> Results:
    """The results in a JUnit file, as pytest writes them."""
    found: Results = defaultdict(dict)
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314  # of our own run
        if case.find("skipped") is not None:
            continue
        parts = case.get("classname", "").split(".")  # tests.comfyui.test_variants.TestVariants
        if len(parts) < 3:
            sys.exit(f"{path}: {case.get('name')} could not be read by pytest; mend that first.")
        passed = case.find("failure") is None and case.find("error") is None
        module, name = f"{parts[1]}/{parts[2]}", ".".join([*parts[3:], case.get("name", "")]).replace("|", "\\|")
        found[module][name] = passed and found[module].get(name, True)
    return found


def title(module: str) -> str:
    """The first sentence of a test module's docstring."""
    text = ast.get_docstring(ast.parse((ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8"))) or module
    return " ".join(text.split("\n\n")[0].split()).rstrip(".").replace("|", "\\|")


def cell(results: dict[str, bool] | None) -> str:
    if not results:
        return "-"
    failed = [name for name, passed in results.items() if not passed]
    count = f"{len(results) - len(failed)} of {len(results)}"
    return f"{count}: {', '.join(f'`{name}`' for name in failed)}" if failed else count


def page(runs: dict[str, Results], folder: str = "comfyui") -> str:
    modules = sorted({m for run in runs.values() for m in run if m.startswith(f"{folder}/")}, key=title)
    rows = [f"| {title(m)} | " + " | ".join(cell(run.get(m)) for run in runs.values()) + " |" for m in modules]
    head = [f"| tested | {' | '.join(runs)} |", "|---" * (len(runs) + 1) + "|"]
    return "\n".join([HEAD, *head, *rows, ""])


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if not given:
        sys.exit(__doc__)
    PAGE.write_text(page({version: read(Path(path)) for version, path in given.items()}), encoding="utf-8")


if __name__ == "__main__":
    main()
