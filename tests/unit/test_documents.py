"""Everything that README and help pages name exists, and every node, input, output and option is named."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

_spec = importlib.util.spec_from_file_location("check_docs", REPOSITORY / "tools" / "check_docs.py")
check_docs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_docs)


@pytest.fixture(scope="module")
def nodes() -> dict:
    return check_docs.schemas()


def test_what_the_documents_name_exists(nodes):
    assert list(check_docs.problems(nodes)) == []


def test_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize(
    "page, old, new, problem",
    [
        ("web/docs/WanVideoVectorDifference.md", "| normalize |", "| normalise |", "no input normalise"),
        ("web/docs/WanVideoVectorDifference.md", "| normalize |", "| normalise |", "the input normalize is not in"),
        ("web/docs/WanVideoVectorDifference.md", "difference_vector", "difference", "the output difference_vector"),
        ("web/docs/WanVideoVectorInterpolation.md", "spherical", "slerp", "the option spherical of method"),
        ("docs/reference/nodes.md", "Injection Tester", "Injection Taster", "WanVideo Injection Tester is not named"),
        ("README.md", "make demo ", "make video ", "no target make video"),
        ("README.md", "benchmarks/README.md)", "benchmarks/TABLES.md)", "no file benchmarks/TABLES.md"),
        (
            "docs/guides/inject.md",
            "WAN_ACTIVATION_DEBUG",
            "WAN_ACTIVATION_LOG",
            "no environment variable WAN_ACTIVATION_LOG",
        ),
        ("docs/reference/nodes.md", "[Injection Tester]", "[Injection Prober]", "[Injection Prober] leads to"),
        ("README.md", "`injection_strength`", "`injection_power`", "nothing is called injection_power"),
        (
            "docs/start/comfyui.md",
            "`10 Store and reuse prompts (wrapper)`",
            "`10 Store (wrapper)`",
            "nothing is called 10 Store (wrapper)",
        ),
        (
            "README.md",
            "Put **WanVideo Activation Editor**",
            "Put **WanVideo Block Mixer**",
            "no node WanVideo Block M",
        ),
        ("web/docs/WanVideoVectorInterpolation.md", "## Example", "## Sample", "no example"),
        ("web/docs/WanVideoVectorInterpolation.md", "See also: ", "Look at ", "no line 'See also: '"),
        ("README.md", "Put **WanVideo Activation Editor**", "Put **WanVideo Prompt Mixer**", "no node WanVideo Prompt"),
    ],
)
def test_a_wrong_name_is_found(nodes, tmp_path, page, old, new, problem):
    for name in ("README.md", "web/docs", "Makefile", "docs", "benchmarks", "nodes", "example_workflows"):
        source, target = REPOSITORY / name, tmp_path / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    text = (tmp_path / page).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / page).write_text(text.replace(old, new), encoding="utf-8")
    assert any(problem in line for line in check_docs.problems(nodes, tmp_path))
