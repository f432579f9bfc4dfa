"""A node that compares forks with whole model calls inside of a host's own run, and prompts of the tiny model."""

from __future__ import annotations

import importlib
import sys

import torch


def pack(name: str):
    """A module of the pack, whatever ComfyUI calls it."""
    root = next(n for n in sys.modules if n.endswith(".probing.hosted")).removesuffix(".probing.hosted")
    return importlib.import_module(f"{root}.{name}")


class TestForks:
    """In the first model call of a plain run: every fork beside the whole call with the edit in that block."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "model": ("*",),
                "text_embeds": ("*",),
                "injection_embeds": ("*",),
                "site": ("STRING",),
                "nonce": ("INT",),
            },
            "optional": {"image_embeds": ("*",)},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):  # noqa: N802
        return True

    def run(self, model, text_embeds, injection_embeds, site, nonce, image_embeds=None):
        runs_of, forks = pack("patching.hosts.plain_runs"), pack("probing.forks")
        edits, strengths = pack("patching.edit"), pack("patching.strengths")
        embeds = pack("embeddings.text_embeds").read_text_embeds(injection_embeds, "other", None).detached()
        target = runs_of.transformer_of(model)
        blocks = target.block_count
        edit = edits.Edit(embeds, strengths.Uniform(1.0), site=site)
        found, busy = {"equal": [], "moves": [], "plain": [], "runs": [], "expected": []}, []
        count = 0

        def ran(*_):
            nonlocal count
            count += 1

        def compare(module, args, kwargs):
            nonlocal count
            if busy:
                return
            busy.append(True)
            call = runs_of.HostCall(target, args, kwargs)
            again = forks.ModelCall(
                target, args, kwargs, call.rows, call.sigma, lambda stack: runs_of.run_of(model, stack, target),
                call.prompt_count, call.grid,
            )  # fmt: skip
            plain = again.output().clone()
            chosen = [0, 1, blocks // 2, blocks - 1]
            whole = []
            for index in chosen:
                with again.edited(forks.at_block(edit, index, blocks)):
                    whole.append(again.output().clone())
            handles = [block.register_forward_hook(ran) for block in target.blocks]
            count, forked = 0, forks.Forks(again, edit)
            for index, known in zip(chosen, whole, strict=True):
                fork = forked.fork(index)
                found["equal"].append(torch.equal(fork, known))
                found["moves"].append(not torch.equal(fork, plain))
            with forked.answered():
                found["plain"].append(torch.equal(again.output(), plain))
            found["runs"].append(count)
            found["expected"].append(sum(blocks - index for index in chosen) + blocks)
            for handle in handles:
                handle.remove()

        handle = target.module.register_forward_pre_hook(compare, with_kwargs=True)
        try:
            size = pack("patching.grid").Size(64, 64, 5)
            runs_of.sample_plain(model, text_embeds, [1.0, 0.0], size=size, seed=1, image_embeds=image_embeds)
        finally:
            handle.remove()
        return {"ui": found}


class TestTinyPrompt:
    """A caption of the tiny trained model as CONDITIONING."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"text": ("STRING",)}}

    def run(self, text):
        return ([[pack("tiny_wan.text").encode(text), {}]],)


PROBING_NODES = (TestForks, TestTinyPrompt)
