"""Nodes that record the hidden state between two blocks while the host samples, and compare recordings."""

from __future__ import annotations

import hashlib
import sys

import torch

from .probes import ANY, AnyInput

_seen: dict[str, list[torch.Tensor]] = {}


class TestHiddenProbe(AnyInput):
    """Records, under a name, what goes into one block in every model call. The hook goes with the measuring node."""

    _handles: dict = {}

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "model": (ANY, {}),
                "block": ("INT", {"default": 0}),
                "name": ("STRING", {}),
                "nonce": ("INT", {"default": 0, "max": 2**62}),
            }
        }

    def run(self, model, block, name, nonce):
        _seen[name] = calls = []
        raw = model.model.diffusion_model.blocks[block]
        raw = getattr(raw, "_orig_mod", raw)
        self._handles[name] = raw.register_forward_pre_hook(
            lambda module, args: calls.append(args[0].detach().float().cpu().clone())
        )
        return (model,)


class TestHiddenEnd(AnyInput):
    """Ends a recording once the latents are there. Against another one: largest difference, per call and row."""

    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"samples": ("LATENT",), "name": ("STRING", {}), "against": ("STRING", {})}}

    def run(self, samples, name, against):
        TestHiddenProbe._handles.pop(name).remove()
        here, there = _seen[name], _seen[against]
        difference = [(a - b).abs().amax(dim=(1, 2)).tolist() for a, b in zip(here, there, strict=True)]
        scale = [max(a.abs().max().item(), b.abs().max().item()) for a, b in zip(here, there, strict=True)]
        return {"ui": {"difference": difference, "scale": scale}, "result": (samples,)}


class TestLatentEmbeds(AnyInput):
    """What LATENT_EMBEDS hold; against a recording: whether they are its first call, rounded to half precision."""

    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {"latent_embeds": ("LATENT_EMBEDS",), "info": ("STRING", {"forceInput": True})},
            "optional": {"against": ("STRING", {"default": ""})},
        }

    def run(self, latent_embeds, info, against=""):
        digests = [hashlib.sha256(s.view(torch.int16).numpy().tobytes()).hexdigest() for s in latent_embeds.states]
        recorded = bool(against) and torch.equal(
            latent_embeds.states[-1], _seen[against][0].to(latent_embeds.states[-1].dtype)
        )
        plain = latent_embeds.describe()
        return {"ui": {"sha256": digests, "info": [info], "recorded": [recorded], "plain": [plain]}}


class TestMoves(AnyInput):
    """Notes from here on, for each move of the transformer, whether it goes to the wrapper's offload_device."""

    seen: list = []

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": (ANY, {}), "nonce": ("INT", {"default": 0, "max": 2**62})}}

    def run(self, model, nonce):
        transformer = model.model.diffusion_model
        root = type(transformer).__module__.split(".wanvideo.")[0]
        modules = (sys.modules.get(f"{root}.{name}") for name in ("nodes_sampler", "nodes"))
        wrapper = next(m for m in modules if hasattr(m, "WanVideoSampler"))
        move = transformer.to
        self.seen[:] = [transformer]

        def spy(*args, **kwargs):
            self.seen.append(bool(args) and args[0] is wrapper.offload_device)
            return move(*args, **kwargs)

        transformer.to = spy
        return (model,)


class TestMovesEnd(AnyInput):
    """Ends it once the states are there."""

    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"latent_embeds": ("LATENT_EMBEDS",)}}

    def run(self, latent_embeds):
        transformer, *moves = TestMoves.seen
        del transformer.to
        TestMoves.seen.clear()
        return {"ui": {"offloaded": moves}, "result": (latent_embeds,)}


HIDDEN_NODES = (TestHiddenProbe, TestHiddenEnd, TestLatentEmbeds, TestMoves, TestMovesEnd)
