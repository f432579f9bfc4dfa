"""What is said while sampling is the change of the model's output, and measuring it changes nothing."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from wanvideo_activation_editor import Edit, EditStack, inject
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.hosts import attachment
from wanvideo_activation_editor.patching.output_change import first_tensor, keeps_state
from wanvideo_activation_editor.patching.runtime import Run
from wanvideo_activation_editor.patching.strengths import Uniform
from wanvideo_activation_editor.patching.wan_model import discover

from .conftest import make_transformer, prompt_embeds

LINE = re.compile(r"(Step at timestep [0-9.]+): the model's output changed by ([0-9.]+) \(relative L2\)")


@pytest.mark.parametrize("site", ["context", "hidden", "attention"])
def test_verbose_tells_the_change_of_the_output_and_the_clip_is_the_same(sampler, main, other, site, caplog):
    caplog.set_level(logging.INFO, "wanvideo_activation_editor")
    with inject(sampler.pipe, other, blocks="1-3", site=site):
        quiet = sampler(main)
    calls = []
    hook = sampler.pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    with inject(sampler.pipe, other, blocks="1-3", site=site, log_level="verbose"):
        assert torch.equal(sampler(main), quiet)
    hook.remove()
    told = [float(match[2]) for match in map(LINE.match, caplog.messages) if match]
    assert len(told) == sampler.steps
    first = calls[0]

    def output(strength):
        with torch.no_grad(), inject(sampler.pipe.transformer, other, "1-3", strength, site=site):
            return first_tensor(sampler.pipe.transformer(*first[0], **first[1]))

    plain, edited = output(0.0), output(1.0)
    assert told[0] == pytest.approx(float((edited - plain).norm() / plain.norm()), abs=1e-4)
    assert told[0] > 1e-3


def one_call(level: str, strengths, count: int, observer):
    """Calls of one model with an observed edit; returns how often the model ran."""
    model = discover(make_transformer())
    edit = Edit(read_text_embeds(prompt_embeds(2)), strengths, log_level=level)
    run = Run(EditStack((edit,)), model, observer_for=lambda _: observer)
    ran = 0

    def note(*_):
        nonlocal ran
        ran += 1

    model.module.register_forward_pre_hook(note)
    latents = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    for step in range(count):
        with torch.no_grad(), run:
            run.begin({"cond": [(0, 0)]}, lambda _: 0.0, label=lambda step=step: f"step {step}")
            model.module(latents, torch.tensor([900.0 - step]), prompt_embeds(1), return_dict=False)
    run.close(completed=True)
    return ran


def test_an_observer_is_told_the_change_of_the_first_call_and_nothing_runs_when_off():
    messages: list = []
    assert one_call("basic", Uniform(1.0), 3, messages.append) == 3 + 1
    assert [m["phase"] for m in messages] == ["step", "step", "step", "end"]
    changes = [m["change"] for m in messages]
    assert changes[0] > 1e-3 and changes == [changes[0]] * 4
    assert len(messages[-1]["changes"]) == 6 and min(messages[-1]["changes"]) > 0
    assert one_call("off", Uniform(1.0), 3, messages.append) == 3
    every: list = []
    assert one_call("verbose", Uniform(1.0), 3, every.append) == 6
    assert len({m["change"] for m in every[:3]}) == 3
    little: list = []
    one_call("basic", Uniform(0.1), 1, little.append)
    assert 0 < little[0]["change"] < 0.5 * changes[0]


def test_what_keeps_a_state_between_calls_is_not_called_twice(sampler):
    transformer = sampler.pipe.transformer
    assert keeps_state(transformer, {}) == ""
    assert keeps_state(transformer, {"transformer_options": {"easycache": object()}}) == "EasyCache"
    wrapped = {"transformer_options": {"wrappers": {"diffusion_model": {"pack": [print]}}}}
    assert "wraps the model" in keeps_state(transformer, wrapped)
    transformer.enable_teacache = True
    assert keeps_state(transformer, {}) == "teacache"
    del transformer.enable_teacache
    transformer.forward = transformer.forward
    assert "replaced the model's forward" in keeps_state(transformer, {})


def test_nothing_is_left_attached(sampler, main, other):
    with inject(sampler.pipe, other, log_level="verbose"):
        sampler(main)
    assert not attachment._attachments and not sampler.pipe.transformer._forward_hooks
