"""The examples of CONTRIBUTING.md, run as they stand."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path

import pytest
import torch
import wanvideo_activation_editor as wae
from wanvideo_activation_editor.patching import sites
from wanvideo_activation_editor.patching.runtime import Run
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.wan_model import discover

from ..hosts.conftest import Sampler, hook_count, make_transformer, prompt_embeds

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python (\w+)\n(.*?)```", PAGE, re.DOTALL))
MAIN, OTHER = prompt_embeds(1), prompt_embeds(2, 20)


def sampler() -> Sampler:
    return Sampler(make_transformer(4), steps=1, guidance=1.0)


def changed(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents without the example and within it."""
    s = sampler()
    plain = s(MAIN)
    stack = wae.EditStack((wae.Edit(wae.Direction(torch.ones(32)), parse_selection("1:0.5"), "hidden"),))
    given = {
        "wae": wae, "torch": torch, "dataclasses": dataclasses, "contextlib": contextlib, "Run": Run,
        "discover": discover, "parse_selection": parse_selection, "pipe": s.pipe, "other": OTHER, "width": 32,
        "stack": stack, "sample": lambda: s(MAIN),
    }  # fmt: skip
    exec(EXAMPLES[name], given)  # noqa: S102  # our own page
    assert torch.equal(s(MAIN), plain) and hook_count(s.pipe.transformer) == 0
    return plain, given["changed"]


def test_the_page_has_the_four():
    assert sorted(EXAMPLES) == ["host", "operation", "site", "source"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_changes_the_run_and_leaves_nothing(name):
    before = dict(sites.SITES)
    plain, edited = changed(name)
    sites.SITES.pop("ffn_inner", None)
    assert before == sites.SITES
    assert torch.isfinite(edited).all() and not torch.equal(edited, plain)


def test_the_source_and_the_host_add_what_they_say():
    """Both add half of ones after block 1, one by a source of its own, one by a host of its own."""
    s = sampler()
    with wae.inject(s.pipe, wae.Direction(torch.ones(32)), blocks="1:0.5", site="hidden"):
        wanted = s(MAIN)
    assert torch.equal(changed("source")[1], wanted) and torch.equal(changed("host")[1], wanted)


def test_the_operation_halves():
    s = sampler()
    half = wae.Direction(torch.zeros(32))

    class Half:
        name = "half"

        def __call__(self, x, value, strength):
            return x * 0.5

    with wae.inject(s.pipe, half, blocks="1-2", site="attention", operation=Half()):
        assert torch.equal(changed("operation")[1], s(MAIN))
