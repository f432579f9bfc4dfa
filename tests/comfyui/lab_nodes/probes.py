"""Nodes that report what a run produced or left behind, and nodes that end a run early."""

from __future__ import annotations

import functools
import gc
import hashlib
import logging
import os
import time

import torch

log = logging.getLogger("activation_editor_tests")

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


class AnyType(str):
    """A socket type that fits every other."""

    def __ne__(self, other):
        return False


ANY = AnyType("*")


class AnyInput:
    """Base of nodes that take values of any type and pass them on."""

    RETURN_TYPES = (ANY,)
    FUNCTION = "run"

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):  # noqa: N802
        return True


class TestIsSame(AnyInput):
    """Whether two sockets hold one object."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"first": (ANY,), "second": (ANY,)}}

    def run(self, first, second):
        return {"ui": {"same": [first is second]}}


class TestDigest:
    """SHA-256 of latents."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"samples": ("LATENT",)}}

    def run(self, samples):
        latents = samples["samples"].detach().to("cpu", torch.float32).contiguous()
        digest = hashlib.sha256(latents.numpy().tobytes()).hexdigest()
        finite = bool(torch.isfinite(latents).all())
        self._speed_up()
        return {"ui": {"sha256": [digest], "finite": [finite], "shape": [list(latents.shape)]}}

    @staticmethod
    @functools.cache
    def _speed_up():
        """The wrapper collects garbage several times per run, in a server of this size most of a tiny run's time."""
        gc.collect()
        gc.freeze()


class TestLeftovers(AnyInput):
    """Whatever is still attached to a transformer: hooks, replaced forwards; and which object it is.

    With `places` also where its weights are, which a first run changes.
    """

    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        nonce = ("INT", {"default": 0, "max": 2**62})
        return {"required": {"model": (ANY, {})}, "optional": {"nonce": nonce, "places": ("BOOLEAN", {})}}

    def run(self, model, nonce=0, places=False):
        transformer = model.model.diffusion_model
        modules = dict(transformer.named_modules())
        hooks = [f"{name}: {kind}" for name, m in modules.items() for kind in HOOKS if getattr(m, kind)]
        forwards = [name for name, m in modules.items() if "forward" in m.__dict__]
        options = sorted(model.model_options.get("transformer_options", {}))
        ui = {"hooks": hooks, "forwards": forwards, "options": options, "identity": [id(transformer)]}
        if places:
            ui["places"] = sorted({f"{kind} on {t.device}" for t, kind in _tensors(transformer)})
            ui["swap"] = [getattr(transformer, "blocks_to_swap", None), getattr(transformer, "offload_txt_emb", None)]
        return {"ui": ui, "result": (model,)}


def _tensors(module):
    return [(t, kind) for kind in ("parameters", "buffers") for t in getattr(module, kind)()]


class TestStopInBlock(AnyInput):
    """Ends a run inside a block of the model: raises, or waits there until the user interrupts.

    The hook that does it is set on the block in the middle, counts its calls, and removes itself.
    """

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "model": (ANY, {}),
                "call": ("INT", {"default": 2}),
                "action": (["raise", "raise StopIteration", "wait"],),
                "nonce": ("INT", {"default": 0, "max": 2**62}),
            }
        }

    def run(self, model, call, action, nonce):
        blocks = model.model.diffusion_model.blocks
        block = blocks[len(blocks) // 2]
        calls = []

        def stop(*_):
            calls.append(None)
            if len(calls) < call:
                return
            handle.remove()
            if action != "wait":
                raise (RuntimeError if action == "raise" else StopIteration)("stopped in the middle of a block")
            log.info("waiting for an interrupt %d", nonce)
            self._wait()

        handle = getattr(block, "_orig_mod", block).register_forward_pre_hook(stop)
        return (model,)

    @staticmethod
    def _wait(limit=60.0):
        from comfy.model_management import processing_interrupted

        end = time.monotonic() + limit
        while not processing_interrupted():
            if time.monotonic() > end:
                raise TimeoutError("nobody interrupted")
            time.sleep(0.01)


class TestFail(AnyInput):
    """Raises after its input was computed."""

    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"value": (ANY, {})}}

    def run(self, value):
        raise RuntimeError("a node after the sampler failed")


class TestEnvironment(AnyInput):
    """Sets an environment variable of the server."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"value": (ANY, {}), "name": ("STRING", {}), "text": ("STRING", {})}}

    def run(self, value, name, text):
        os.environ[name] = text
        return (value,)


class TestShow(AnyInput):
    """Text into /history."""

    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"value": (ANY, {})}}

    def run(self, value):
        return {"ui": {"text": [str(value)]}, "result": (value,)}


PROBE_NODES = (TestIsSame, TestDigest, TestLeftovers, TestStopInBlock, TestFail, TestEnvironment, TestShow)
