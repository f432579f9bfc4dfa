"""A second image in chosen blocks, on both hosts."""

from __future__ import annotations

import pytest

from .test_variants import i2v
from .workflows import FOX, Host, edit, output


def image(seed: int = 1, strength: float = 1.0, blocks: str = "all", kind: int = 0, **more):
    """Args: kind: 0 for the wrapper's image tokens, 1 for native ones; either node takes both."""
    look = lambda flow: output(flow.add("TestClipImage", seed=seed), kind)  # noqa: E731
    node = edit(
        None,
        node="WanVideoImageInjection",
        clip_vision_output=look,
        injection_strength=strength,
        block_activations=blocks,
        **more,
    )
    return {k: v for k, v in node.items() if k != "enable_patching"}


@pytest.mark.parametrize("kind", [0, 1])
def test_every_block_at_full_strength_is_the_second_image(host: Host, kind):
    second = host.digest(FOX, **i2v(host, 1))
    assert host.digest(FOX, image(1, branch="both", kind=kind), **i2v(host, 0)) == second
    assert host.digest(FOX, **i2v(host, 0)) != second


def test_strength_0_and_the_same_image_change_nothing(host: Host):
    model = i2v(host, 0)
    plain = host.digest(FOX, **model)
    assert host.digest(FOX, image(1, 0.0), **model) == plain
    assert host.digest(FOX, image(0, 1.0), **model) == plain
    assert host.digest(FOX, image(0, 0.5, branch="both"), **model) == plain


def test_blocks_and_branches_differ_and_nothing_remains(host: Host):
    model = i2v(host, 0)
    given = (image(1), image(1, branch="both"), image(1, blocks="1-3"), image(1, 0.5))
    assert len({host.digest(FOX, each, **model) for each in given}) == 4
    assert host.leftovers(model["load"])["hooks"] == []


def test_a_model_that_reads_no_image_is_an_error(host: Host):
    message = host.run(FOX, image()).error["exception_message"]
    assert "WanVideo Image Injection" in message and "reads no CLIP image" in message
