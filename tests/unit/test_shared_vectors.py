"""The table that Python and the front end's JavaScript share: see tests/vectors and tests/js."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


def test_python_still_gives_what_the_table_holds():
    spec = importlib.util.spec_from_file_location("make_patterns", TESTS / "vectors" / "make_patterns.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    stored, now = json.loads(writer.FILE.read_text(encoding="utf-8")), writer.table()
    assert stored.keys() == now.keys()
    for key in stored:
        assert len(stored[key]) == len(now[key])
        for old, new in zip(stored[key], now[key], strict=True):
            numbers = "values" if key == "random" else "strengths"
            assert {k: v for k, v in old.items() if k != numbers} == {k: v for k, v in new.items() if k != numbers}
            assert old.get(numbers) == pytest.approx(new.get(numbers), abs=1e-12), old


def test_javascript():
    """Runs tests/js under Node's own test runner."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node: the front end's unit tests in tests/js were not run; install Node.js 18 or newer")
    if int(subprocess.check_output([node, "--version"], text=True).strip("v\n").split(".")[0]) < 18:
        pytest.skip("node is older than 18: the front end's unit tests in tests/js were not run")
    files = sorted(map(str, (TESTS / "js").glob("*.test.mjs")))
    run = subprocess.run([node, "--test", *files], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
