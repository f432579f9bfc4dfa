"""Every site on both hosts, as Python adds it: exact where text enters, and nothing touched beside its rows."""

from __future__ import annotations

import pytest
from wanvideo_activation_editor.patching.sites import SITES
from wanvideo_activation_editor.patching.sources import Prompt

from .test_compile import compiled
from .test_hidden_states import block_swap, recorded
from .test_lora import loaders
from .workflows import FOX, MOON, Host, NativeHost, WrapperHost, edit


def at(site: str, inject: str | None = None, operation: str = "", blocks: str = "all", branch: str = "cond"):
    """A prompt or, without one, a direction at a site."""
    given = edit(inject, node="TestEdit", site=site, operation=operation, block_activations=blocks, branch=branch)
    return {k: v for k, v in given.items() if k != "enable_patching"}


@pytest.mark.parametrize("site", SITES)
def test_strength_0_is_no_edit(host: Host, site):
    prompt = MOON if site in Prompt.sites else None
    assert host.digest(FOX, at(site, blocks="all:0"), at(site, prompt, blocks="all:0")) == host.reference()


@pytest.mark.parametrize("sites", [("attention",), ("keys", "values"), ("heads",)])
def test_where_text_enters_every_block_at_1_is_the_injected_prompt(host: Host, sites):
    assert host.digest(FOX, *(at(site, MOON) for site in sites)) == host.reference(MOON)
    assert host.digest(FOX, *(at(site, MOON, branch="uncond") for site in sites)) == host.reference(negative=MOON)


@pytest.mark.parametrize("site", SITES)
def test_rows_of_the_other_branch_stay_whatever_an_operation_does(host: Host, site):
    """What goes into block 5, after the noise of three blocks before it: call by call and row by row."""
    plain, *_ = recorded(host, FOX)
    _, cond, _ = recorded(host, FOX, at(site, None, "noise", "1-3"), against=plain)
    _, uncond, _ = recorded(host, FOX, at(site, None, "noise", "1-3", "uncond"), against=plain)
    first, second = [row for call in cond for row in call], [row for call in uncond for row in call]
    assert sorted(d == 0.0 for d in first) == sorted(d == 0.0 for d in second) == [False, True]
    assert [d == 0.0 for d in first] == [d != 0.0 for d in second]
    assert host.leftovers()["hooks"] == []


@pytest.mark.parametrize("how", ["block swap", "compiled blocks", "LoRA"])
def test_every_site_with_block_swap_compiled_blocks_and_lora(wrapper: WrapperHost, how):
    if how == "compiled blocks":
        everywhere(wrapper, compiled(wrapper), wrapper.reference(MOON))
    else:
        load = block_swap(wrapper) if how == "block swap" else loaders(wrapper)["unmerged"]
        everywhere(wrapper, load, wrapper.digest(MOON, load=load))


def test_every_site_with_a_native_lora(native: NativeHost):
    load = loaders(native)["loader"]
    everywhere(native, load, native.digest(MOON, load=load))


def everywhere(host: Host, load, other: str):
    """Args: other: latents of the injected prompt, in eager mode, in which blocks run whose inside is edited."""
    plain = host.digest(FOX, load=load)
    before = host.leftovers(load)
    assert host.digest(FOX, *(at(site, blocks="all:0") for site in SITES), load=load) == plain
    for sites in (("attention",), ("keys", "values"), ("heads",)):
        assert host.digest(FOX, *(at(site, MOON) for site in sites), load=load) == other
    changed = [host.digest(FOX, at(site, blocks="1-3"), load=load) for site in SITES]
    assert len({plain, *changed}) == len(SITES) + 1
    assert host.leftovers(load) == before
