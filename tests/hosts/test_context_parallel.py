"""Edits in two processes that share the video's tokens (diffusers' context parallelism): as in one, or refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "diffusers.md"
ROWS = dict(
    re.findall(r"^\| ([^|]+?) \| (as in one process|refused here) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
)
PLAIN = {"plain", "other", "other negative"}
PARTS = "each process has a part of the video's tokens"

pytestmark = pytest.mark.skipif(
    not hasattr(diffusers, "ContextParallelConfig"), reason=f"diffusers {diffusers.__version__}: no context parallelism"
)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory) -> tuple[dict, dict, dict]:
    """What each case gave: alone, and in each of two processes."""
    folder = tmp_path_factory.mktemp("parallel")
    command = [sys.executable, "-m", "tests.hosts.context_parallel"]
    outputs = [(folder / f"{rank}.log").open("w+") for rank in range(2)]
    started = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        for rank, out in enumerate(outputs)
    ]
    ended = [process.wait() for process in started]
    for out in outputs:
        out.seek(0)
    assert ended == [0, 0], "\n".join(out.read()[-2000:] for out in outputs)
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    return first["alone"], first["parallel"], second["parallel"]


def cases_that(found: dict, verdict: str) -> list[str]:
    return [name for name in found if name not in PLAIN and ROWS[name.partition(":")[0]] == verdict]


def test_the_table_has_every_case(sampled):
    alone = sampled[0]
    assert {name.partition(":")[0] for name in alone.keys() - PLAIN} == ROWS.keys()
    assert not [value for value in alone.values() if isinstance(value, str)]


def test_what_works_equals_one_process(sampled):
    """Within the tolerance of the plain run; and an edit changes the video."""
    alone, first, second = sampled
    tolerance = float((first["plain"] - alone["plain"]).abs().max())
    for name in [*PLAIN, *cases_that(alone, "as in one process")]:
        assert not isinstance(first[name], str), f"{name}: {first[name]}"
        assert torch.equal(first[name], second[name]), name
        assert float((first[name] - alone[name]).abs().max()) <= tolerance, name
        assert name == "plain" or not torch.equal(first[name], first["plain"]), name


def test_all_blocks_equal_the_other_prompt_bit_for_bit(sampled):
    _, first, _ = sampled
    assert torch.equal(first["prompt in context: all"], first["other"])
    assert torch.equal(first["second stream: all"], first["other"])
    assert torch.equal(first["prompt in context: negative"], first["other negative"])


def test_what_needs_all_tokens_is_refused_by_name_in_both_processes(sampled):
    alone, *both = sampled
    for name in cases_that(alone, "refused here"):
        for found in both:
            assert isinstance(found[name], str), f"{name} was not refused"
            assert found[name].startswith("ValueError") and PARTS in found[name], f"{name}: {found[name]}"
