"""Workflows of the two hosts, built node by node and run on a server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import tiny_models
from .server import ComfyServer, Result

Link = list[Any]
"""An output of a node: [node id, output number]."""

Edit = Mapping[str, Any]
"""Inputs of an editor node, with `inject` (a prompt) and `node` (its class)."""

FOX = "a red fox in the snow"
MOON = "two astronauts on the moon at noon"
BLURRY = "blurry, low quality"
SHARP = "sharp focus and vivid colours"
SIZE = {"width": 64, "height": 64}
FRAMES = 5

_nonces = itertools.count(1)


def edit(inject: str | None = MOON, node: str = "WanVideoActivationEditor", **inputs: Any) -> Edit:
    """An editor that injects MOON into every block at full strength, unless told otherwise."""
    defaults: dict[str, Any] = {"block_activations": "all", "enable_patching": True}
    if node == "WanVideoActivationEditor":
        defaults |= {"injection_strength": 1.0, "log_level": "off", "injection_mode": "context"}
    return {**defaults, **inputs, "inject": inject, "node": node}


class Workflow(dict[str, Any]):
    """An API workflow that numbers its own nodes."""

    def add(self, class_type: str, **inputs: Any) -> Link:
        """Add a node; returns its first output."""
        node = str(len(self) + 1)
        self[node] = {"class_type": class_type, "inputs": inputs}
        return [node, 0]


def output(link: Link, number: int) -> Link:
    """Another output of the same node."""
    return [link[0], number]


class Host:
    """Builds and runs the workflows of one host. Subclasses say which nodes it has."""

    name: str
    blocks: int
    sampler: str

    def __init__(self, server: ComfyServer) -> None:
        self.server = server
        self._references: dict[str, str] = {}

    # What differs between hosts

    def load(self, flow: Workflow, **options: Any) -> Link:
        """The loaded text-to-video model."""
        raise NotImplementedError

    def embeds(self, flow: Workflow, prompt: str, negative: str = BLURRY, nonce: int = 0, **options: Any) -> Link:
        """A prompt as the host encodes it."""
        raise NotImplementedError

    def sample(
        self, flow: Workflow, model: Link, embeds: Link, negative: str, cfg: float, steps: int, **options: Any
    ) -> Link:
        """Latents."""
        raise NotImplementedError

    # What is the same

    def branch(
        self,
        flow: Workflow,
        prompt: str = FOX,
        *edits: Edit,
        negative: str = BLURRY,
        cfg: float = 3.0,
        steps: int = 2,
        load: Callable[[Workflow], Link] | None = None,
        encode: Callable[..., Link] | None = None,
        after: Callable[[Workflow, Link], Link] | None = None,
        **options: Any,
    ) -> Link:
        """Add one model, its edits and a sampler to a workflow; returns the latents.

        Args:
            flow: the workflow.
            prompt: the main prompt.
            edits: editors, in a row.
            negative: the negative prompt.
            cfg: guidance scale.
            steps: sampling steps.
            load: adds the model loader.
            encode: adds what encodes a prompt, main or injected; takes what `embeds` takes.
            after: adds what stands between the last editor and the sampler.
            options: inputs of the sampler; a callable adds the node that the input is linked to.
        """
        encode = encode or self.embeds
        model = (load or self.load)(flow)
        embeds = encode(flow, prompt, negative, next(_nonces))
        for given in edits:
            model, embeds = self.edit(flow, model, embeds, given, lambda text: encode(flow, text, negative))
        if after is not None:
            model = after(flow, model)
        return self.sample(flow, model, embeds, negative, cfg, steps, **options)

    def edit(
        self, flow: Workflow, model: Link, embeds: Link, given: Edit, encode: Callable[[str], Link]
    ) -> tuple[Link, Link]:
        """Add an editor; returns its model and its embeds. Callables among its inputs add the nodes they link to."""
        inputs = {name: value(flow) if callable(value) else value for name, value in given.items()}
        node, inject = inputs.pop("node"), inputs.pop("inject")
        if inject is not None:
            inputs["injection_embeds"] = encode(inject) if isinstance(inject, str) else inject
        edited = flow.add(node, model=model, text_embeds=embeds, **inputs)
        return edited, output(edited, 1)

    def run(self, *args: Any, **kwargs: Any) -> Result:
        """Run one branch, whatever comes of it. Takes what `branch` takes."""
        flow = Workflow()
        flow.add("TestDigest", samples=self.branch(flow, *args, **kwargs))
        return self.server.run(flow)

    def digest(self, *args: Any, **kwargs: Any) -> str:
        """SHA-256 of the latents of one branch, sampled anew. Takes what `branch` takes."""
        return self.digests((args, kwargs))[0]

    def digests(self, *branches: tuple[Sequence[Any], Mapping[str, Any]]) -> list[str]:
        """The same for several branches in one graph."""
        flow = Workflow()
        probes = [flow.add("TestDigest", samples=self.branch(flow, *args, **kwargs))[0] for args, kwargs in branches]
        result = self.server.run(flow).checked()
        assert all(result.output(p, "finite") == [True] for p in probes), "latents are not finite"
        return [result.output(p, "sha256")[0] for p in probes]

    def reference(self, prompt: str = FOX, *edits: Edit, name: str = "", **kwargs: Any) -> str:
        """The same as `digest`, sampled once per session.

        Args:
            prompt: see `branch`.
            edits: see `branch`; of plain values.
            name: tells apart what callables among the other arguments build.
            kwargs: see `branch`.
        """
        built = sorted(k for k, v in kwargs.items() if callable(v))
        assert name or not built, f"name what {built} build"
        assert not any(callable(v) for given in edits for v in given.values())
        plain = sorted((k, v) for k, v in kwargs.items() if k not in built)
        key = repr((prompt, edits, name, built, plain))
        if key not in self._references:
            self._references[key] = self.digest(prompt, *edits, **kwargs)
        return self._references[key]

    def capture(self, flow: Workflow, model: Link, prompt: str, blocks: int, **options: Any) -> Link:
        """Add a Latent Encoder at the size and seed of `sample`; returns its latent_embeds."""
        encode = options.pop("encode", self.embeds)
        inputs = {"width": 64, "height": 64, "num_frames": FRAMES, "seed": 42, "use_cache": False, **options}
        inputs = {name: value(flow) if callable(value) else value for name, value in inputs.items()}
        embeds = encode(flow, prompt, BLURRY)
        return flow.add("WanVideoLatentEncoder", model=model, text_embeds=embeds, capture_after_blocks=blocks, **inputs)

    def adding(
        self, blocks: int, main: str = FOX, other: str = MOON, at: str | None = None, capture: Any = None, **inputs: Any
    ) -> Callable[[Workflow, Link], Link]:
        """For `after`: captures two prompts after that many blocks and adds their difference after the last of them.

        Args:
            blocks: see `capture`.
            main, other: the prompts.
            at: another selection of blocks.
            capture: further inputs of both captures.
            inputs: further inputs of the injector.
        """

        def add(flow: Workflow, model: Link) -> Link:
            a, b = (self.capture(flow, model, prompt, blocks, **(capture or {})) for prompt in (main, other))
            given = {"injection_strength": 1.0, "block_activations": at or str(blocks - 1), **inputs}
            return flow.add("WanVideoLatentInjector", model=model, main_latent=a, injection_latent=b, **given)

        return add

    def leftovers(self, load: Callable[[Workflow], Link] | None = None, places: bool = False) -> dict[str, list[Any]]:
        """What is attached to the loaded model, between runs; with `places` also where its weights are."""
        flow = Workflow()
        probe = flow.add("TestLeftovers", model=(load or self.load)(flow), nonce=next(_nonces), places=places)
        return dict(self.server.run(flow).checked().outputs[probe[0]])

    def stop_in_block(self, call: int, action: str) -> Callable[[Workflow, Link], Link]:
        """For `after`: ends the run at that call of the middle block."""
        return lambda flow, model: flow.add(
            "TestStopInBlock", model=model, call=call, action=action, nonce=next(_nonces)
        )

    def interrupted(self, call: int, *args: Any, **kwargs: Any) -> Result:
        """Run one branch and interrupt it while it stands at that call of the middle block."""
        flow = Workflow()
        flow.add("TestDigest", samples=self.branch(flow, *args, after=self.stop_in_block(call, "wait"), **kwargs))
        start = self.server.log_size()
        run = self.server.submit(flow)
        end = time.monotonic() + 60
        while "waiting for an interrupt" not in self.server.log(start):
            assert time.monotonic() < end, self.server.log(start)[-4000:]
            time.sleep(0.02)
        self.server.call("/interrupt", {})
        return self.server.result(run, start)


class WrapperHost(Host):
    """ComfyUI-WanVideoWrapper, a 30-block model."""

    name, blocks, sampler = "wrapper", tiny_models.WRAPPER_BLOCKS, "WanVideoSampler"

    def load(self, flow: Workflow, checkpoint: str = tiny_models.WRAPPER_T2V, **options: Any) -> Link:
        return flow.add(
            "WanVideoModelLoader",
            model=checkpoint,
            base_precision="fp32",
            quantization="disabled",
            load_device="offload_device",
            attention_mode="sdpa",
            **options,
        )

    def embeds(self, flow: Workflow, prompt: str, negative: str = BLURRY, nonce: int = 0, **options: Any) -> Link:
        return flow.add("TestTextEmbeds", prompt=prompt, negative=negative, nonce=nonce, **options)

    def sample(
        self, flow: Workflow, model: Link, embeds: Link, negative: str, cfg: float, steps: int, **options: Any
    ) -> Link:
        options = {name: value(flow) if callable(value) else value for name, value in options.items()}
        inputs = {
            "model": model,
            "image_embeds": options.pop("image_embeds", None) or self.empty_video(flow),
            "text_embeds": embeds,
            "steps": steps,
            "cfg": cfg,
            "shift": 5.0,
            "seed": 42,
            "force_offload": True,
            "scheduler": "unipc",
            "riflex_freq_index": 0,
            "rope_function": "comfy",
        }
        variant = options.pop("variant", self.sampler)
        return SAMPLERS[variant](flow, {**inputs, **options})

    @staticmethod
    def empty_video(flow: Workflow) -> Link:
        return flow.add("WanVideoEmptyEmbeds", num_frames=FRAMES, **SIZE)


def _sampler(flow: Workflow, inputs: dict[str, Any]) -> Link:
    return flow.add("WanVideoSampler", **inputs)


def _sampler_v2(flow: Workflow, inputs: dict[str, Any]) -> Link:
    schedule = {k: inputs.pop(k) for k in ("scheduler", "steps", "shift")}
    extra = {k: inputs.pop(k) for k in ("riflex_freq_index", "rope_function")}
    scheduler = flow.add("WanVideoSchedulerv2", start_step=0, end_step=-1, **schedule)
    return flow.add(
        "WanVideoSamplerv2", **inputs, scheduler=scheduler, extra_args=flow.add("WanVideoSamplerExtraArgs", **extra)
    )


def _sampler_from_settings(flow: Workflow, inputs: dict[str, Any]) -> Link:
    return flow.add("WanVideoSamplerFromSettings", sampler_inputs=flow.add("WanVideoSamplerSettings", **inputs))


def _diffusion_forcing(flow: Workflow, inputs: dict[str, Any]) -> Link:
    del inputs["riflex_freq_index"]
    return flow.add("WanVideoDiffusionForcingSampler", addnoise_condition=10, fps=24.0, **inputs)


SAMPLERS: dict[str, Callable[[Workflow, dict[str, Any]], Link]] = {
    "WanVideoSampler": _sampler,
    "WanVideoSamplerv2": _sampler_v2,
    "WanVideoSamplerFromSettings": _sampler_from_settings,
    "WanVideoDiffusionForcingSampler": _diffusion_forcing,
}


class NativeHost(Host):
    """ComfyUI's own nodes, a model of 12 blocks."""

    name, blocks, sampler = "native", tiny_models.NATIVE_BLOCKS, "KSampler"

    def load(self, flow: Workflow, checkpoint: str = tiny_models.NATIVE_T2V, **options: Any) -> Link:
        model = flow.add("UNETLoader", unet_name=checkpoint, weight_dtype="default", **options)
        return flow.add("ModelSamplingSD3", model=model, shift=5.0)

    def embeds(self, flow: Workflow, prompt: str, negative: str = BLURRY, nonce: int = 0, **options: Any) -> Link:
        return flow.add("TestConditioning", prompt=prompt, nonce=nonce, **options)

    def sample(
        self, flow: Workflow, model: Link, embeds: Link, negative: str, cfg: float, steps: int, **options: Any
    ) -> Link:
        condition = options.pop("condition", None)
        against = self.embeds(flow, negative)
        if condition:  # I2V and VACE add their images to both conditionings
            embeds, against, latents = condition(flow, embeds, against)
        else:
            batch = options.pop("batch_size", 1)
            length = options.pop("length", FRAMES)
            latents = flow.add("EmptyHunyuanLatentVideo", length=length, batch_size=batch, **SIZE)
        inputs = {
            "model": model,
            "positive": embeds,
            "negative": against,
            "latent_image": latents,
            "seed": 42,
            "steps": steps,
            "cfg": cfg,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        }
        options = {name: value(flow) if callable(value) else value for name, value in options.items()}
        return flow.add(options.pop("variant", self.sampler), **{**inputs, **options})


HOSTS: dict[str, type[Host]] = {"wrapper": WrapperHost, "native": NativeHost}
