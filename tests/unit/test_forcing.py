"""The forced difference on tensors alone: near-identical prompts, coarse dtypes, and its errors."""

from __future__ import annotations

import pytest
import torch
from wanvideo_activation_editor.patching.transforms import FORCE_MODES, TOLERANCE, ForceDifference, real_share

WIDTH = 1536


def pair(scale: float, nearness: float, dtype: torch.dtype, tokens: int = 4):
    """A prompt, one that is near it, and the mask of real tokens."""
    noise = torch.randn(2, tokens, WIDTH, generator=torch.Generator().manual_seed(1)) * scale
    return noise[0].to(dtype), (noise[0] + nearness * noise[1]).to(dtype), torch.ones(tokens, 1, dtype=torch.bool)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("nearness", [0.003, 0.03, 1.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 1000.0])
def test_the_target_is_hit_wherever_enough_values_differ(scale, nearness, dtype):
    main, injection, real = pair(scale, nearness, dtype)
    most = (main != injection).float().mean().item()
    for target in (t for t in (0.1, 0.5, 0.9) if t < most):
        for mode in FORCE_MODES:
            force = ForceDifference(mode, target)
            result = force(main, injection, real)
            assert real_share(main, result, real).item() == pytest.approx(target, abs=TOLERANCE), (mode, target)
            force.check(main, injection, result, real)


@pytest.mark.parametrize("mode", FORCE_MODES)
def test_equal_steps_are_divided_to_hit_the_target(mode):
    main, real = torch.zeros(3, WIDTH), torch.ones(3, 1, dtype=torch.bool)
    result = ForceDifference(mode, 0.5)(main, main + 1, real)
    assert real_share(main, result, real).item() == pytest.approx(0.5, abs=1 / WIDTH)


def test_each_failure_has_a_message_of_its_own():
    main, injection, real = pair(1.0, 1.0, torch.float16)
    force = ForceDifference("blend", 0.5)
    with pytest.raises(ValueError, match=r"leaves the range of torch\.float16"):
        force.check(main, injection, injection / 0, real)
    with pytest.raises(ValueError, match=r"at most 0\.0% of the values"):
        force.check(main, main, main, real)
    with pytest.raises(ValueError, match=r"the nearest share is 0\.0%, by the resolution of torch\.float16"):
        force.check(main, injection, main, real)


@pytest.mark.parametrize("mode", FORCE_MODES)
def test_prompts_with_gradients_are_forced_alike(mode):
    main, injection, real = pair(1.0, 1.0, torch.float32)
    force = ForceDifference(mode, 0.5)
    result = force(main.clone().requires_grad_(), injection.clone().requires_grad_(), real)
    assert torch.equal(result, force(main, injection, real))
