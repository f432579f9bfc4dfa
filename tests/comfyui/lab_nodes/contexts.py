"""Nodes that measure the text which a block's cross-attention reads while the host samples."""

from __future__ import annotations

import hashlib

import torch

from .probes import ANY, AnyInput

_seen: dict[str, list[torch.Tensor]] = {}


class TestContextProbe(AnyInput):
    """Records, under a name, the context of one block in every model call. The hook goes with the measuring node."""

    _handles: dict = {}

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "model": (ANY, {}),
                "block": ("INT", {"default": 0}),
                "name": ("STRING", {}),
                "after": (ANY, {}),
                "nonce": ("INT", {"default": 0, "max": 2**62}),
            }
        }

    def run(self, model, block, name, after, nonce):
        _seen[name] = calls = []
        raw = model.model.diffusion_model.blocks[block]
        attention = getattr(raw, "_orig_mod", raw).cross_attn

        def record(module, args, kwargs):
            context = kwargs["context"] if "context" in kwargs else args[1]
            calls.append(context.detach().float().cpu().clone())

        self._handles[name] = attention.register_forward_pre_hook(record, with_kwargs=True)
        return (model,)


class TestContextEnd(AnyInput):
    """Ends a recording once the latents are there; passes them on."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"samples": ("LATENT",), "name": ("STRING", {})}}

    RETURN_TYPES = ("LATENT",)

    def run(self, samples, name):
        TestContextProbe._handles.pop(name).remove()
        return (samples,)


class TestNegativeProbe(AnyInput):
    """Records the digest of what NAG's negative prompt adds in block 0 of the wrapper's first model call."""

    digests: dict = {}

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": (ANY, {}), "name": ("STRING", {}), "after": (ANY, {})}}

    def run(self, model, name, after):
        attention = model.model.diffusion_model.blocks[0].cross_attn
        own = type(attention).nag_attention

        def recorded(*args):
            positive, negative = own(attention, *args)
            digest = hashlib.sha256(negative.detach().float().cpu().numpy().tobytes()).hexdigest()
            self.digests.setdefault(name, digest)
            return positive, negative

        attention.nag_attention = recorded
        return (model,)


class TestNegativeEnd(AnyInput):
    """Ends it once the latents are there, and shows the digest."""

    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": (ANY, {}), "samples": ("LATENT",), "name": ("STRING", {})}}

    def run(self, model, samples, name):
        del model.model.diffusion_model.blocks[0].cross_attn.nag_attention
        return {"ui": {"negative": [TestNegativeProbe.digests.pop(name)]}, "result": (samples,)}


class TestContextChange(AnyInput):
    """Of two recordings, per model call and row of its batch: the share of elements that differ by more than 0.01.

    Counted over the first `tokens` tokens; `rest` is the largest difference in the others.
    """

    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "first": ("STRING", {}),
                "second": ("STRING", {}),
                "tokens": ("INT", {"default": 0}),
                "after": (ANY, {}),
            }
        }

    def run(self, first, second, tokens, after):
        shares, rest = [], []
        for a, b in zip(_seen[first], _seen[second], strict=True):
            shares += ((a - b)[:, :tokens].abs() > 0.01).float().mean(dim=(1, 2)).tolist()
            rest.append((a - b)[:, tokens:].abs().max().item())
        return {"ui": {"shares": shares, "rest": rest}, "result": (after,)}


CONTEXT_NODES = (TestNegativeProbe, TestNegativeEnd, TestContextProbe, TestContextEnd, TestContextChange)
