"""Which guidance branch and which part of the run an edit touches."""

from __future__ import annotations

import pytest

from .workflows import BLURRY, FOX, MOON, SHARP, Host, Workflow, edit


def test_the_negative_prompt_is_untouched_by_default(host: Host):
    """At cfg 3 a changed negative prompt would show."""
    assert host.digest(FOX, edit(), negative=SHARP) == host.reference(MOON, negative=SHARP)
    assert host.reference(MOON, negative=SHARP) != host.reference(MOON, negative=BLURRY)


def test_the_uncond_branch_at_full_strength_equals_another_negative_prompt(host: Host):
    injected = host.digest(FOX, edit(SHARP, branch="uncond"))
    assert injected == host.reference(FOX, negative=SHARP)
    assert injected != host.reference(FOX)


def test_both_branches_at_full_strength_equal_both_prompts_replaced(host: Host):
    assert host.digest(FOX, edit(branch="both")) == host.reference(MOON, negative=MOON)


def test_two_editors_may_take_a_branch_each(host: Host):
    edits = edit(MOON, branch="cond"), edit(SHARP, branch="uncond")
    assert host.digest(FOX, *edits) == host.reference(MOON, negative=SHARP)


def test_an_edit_of_the_negative_prompt_does_nothing_without_guidance_and_says_so(host: Host):
    result = host.run(FOX, edit(branch="uncond"), cfg=1.0).checked()
    assert host.reference(cfg=1.0) in str(result.outputs)
    assert "had no effect" in result.log
    assert "branch uncond" in result.log


def test_equal_prompt_and_negative_prompt_are_told_apart(host: Host):
    assert host.digest(FOX, edit(), negative=FOX) == host.reference(MOON, negative=FOX)


def test_windows_that_cover_the_run_equal_the_injected_prompt(host: Host):
    edits = edit(start_percent=0.0, end_percent=0.5), edit(start_percent=0.5, end_percent=1.0)
    assert host.digest(FOX, *edits, steps=4) == host.reference(MOON, steps=4)


@pytest.mark.parametrize("window", [(0.0, 0.5), (0.5, 1.0)])
def test_a_window_edits_only_its_part_of_the_run(host: Host, window):
    start, end = window
    part = host.digest(FOX, edit(start_percent=start, end_percent=end), steps=4)
    assert part not in (host.reference(steps=4), host.reference(MOON, steps=4))


def test_windows_on_step_boundaries_hold_whole_steps(host: Host):
    """In four steps, 0-0.25 is the first and 0.75-1 the last; anything between boundaries changes nothing."""
    first = host.digest(FOX, edit(end_percent=0.25), steps=4)
    assert first == host.digest(FOX, edit(end_percent=0.01), steps=4)
    last = host.digest(FOX, edit(start_percent=0.75), steps=4)
    assert last == host.digest(FOX, edit(start_percent=0.6), steps=4)
    assert first != last


def _two_samplers(host: Host, edits, second_edits, prompt=FOX):
    """Steps 0-1 of four in one sampler and steps 2-3 in another, as in Wan 2.2 workflows."""
    flow = Workflow()
    if host.name == "wrapper":
        first = host.branch(flow, prompt, *edits, steps=4, end_step=2)
        second = host.branch(flow, prompt, *second_edits, steps=4, start_step=2, samples=lambda _: first)
    else:
        common = {"variant": "KSamplerAdvanced", "steps": 4, "noise_seed": 42}
        first = host.branch(flow, prompt, *edits, **common, add_noise="enable", start_at_step=0, end_at_step=2,
                            return_with_leftover_noise="enable")  # fmt: skip
        second = host.branch(flow, prompt, *second_edits, **common, add_noise="disable", start_at_step=2,
                             end_at_step=4, return_with_leftover_noise="disable",
                             latent_image=lambda _: first)  # fmt: skip
    probe = flow.add("TestDigest", samples=second)[0]
    return host.server.run(flow).checked().output(probe, "sha256")[0]


def test_a_window_counts_from_the_noise_level_where_two_samplers_share_a_run(host: Host):
    early, whole = edit(end_percent=0.5), edit()
    assert _two_samplers(host, [whole], [whole]) == _two_samplers(host, [], [], MOON)
    only_first = _two_samplers(host, [whole], [])
    assert _two_samplers(host, [early], [early]) == only_first
    assert only_first != _two_samplers(host, [], [])
