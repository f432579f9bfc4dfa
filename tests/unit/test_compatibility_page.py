"""The page of compatibility says what test runs found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "compatibility.py"
RUN = """<testsuites><testsuite>
<testcase classname="tests.comfyui.test_gains" name="test_a[wrapper]"/>
<testcase classname="tests.comfyui.test_gains" name="test_a[native]"><failure message="x"/></testcase>
<testcase classname="tests.comfyui.test_variants.TestVariants" name="test_b"/>
<testcase classname="tests.comfyui.test_variants.TestVariants" name="test_b"><error message="at teardown"/></testcase>
<testcase classname="tests.comfyui.test_variants" name="test_c"><skipped message="no models"/></testcase>
<testcase classname="tests.unit.test_tokens" name="test_d"/>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("compatibility", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_row_counts_what_ran_and_names_what_failed(tool, tmp_path):
    (tmp_path / "a.xml").write_text(RUN, encoding="utf-8")
    lines = tool.page({"ComfyUI 1": tool.read(tmp_path / "a.xml"), "ComfyUI 2": {}}).splitlines()
    assert "| tested | ComfyUI 1 | ComfyUI 2 |" in lines
    assert "| Weights of words and gains of streams, on both hosts | 1 of 2: `test_a[native]` | - |" in lines
    assert [line.split("|")[2].strip() for line in lines if "CLIP image tokens" in line] == [
        "0 of 1: `TestVariants.test_b`"
    ]


def test_the_page_names_only_modules_that_exist(tool):
    titles = {tool.title(f"comfyui/{path.stem}") for path in (TOOL.parents[1] / "tests" / "comfyui").glob("test_*.py")}
    rows = [line for line in tool.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20 and {row.split(" | ")[0][2:] for row in rows} <= titles
