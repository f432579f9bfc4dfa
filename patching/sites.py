"""Where an edit acts: the tensors of a Wan block that have a name.

A row of `SITES` is all that a site needs. `context` and `hidden` are the block's own text argument and output; every
other site is one end of a leaf module, which all hosts call as a module: the wrapper calls `forward` of the attention
around the leaves itself, past module hooks.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

End = Literal["argument", "input", "output", "keyword"]


@dataclass(frozen=True)
class Factor:
    """A stream that comes to a block as a tensor and a factor of it.

    Args:
        tensor, name: arguments of the block.
        module: what reads the tensor, from the block; models without the stream lack it.
        given: argument of the model that brings the stream, also while it is not handed to the blocks.
    """

    tensor: str
    name: str
    module: str
    given: str

    def comes(self, arguments: Mapping[str, object]) -> bool:
        """True when a call of the block with these arguments has it."""
        return arguments.get(self.tensor) is not None and self.name in arguments

    def is_in(self, block: nn.Module) -> bool:
        """True when the block reads it."""
        try:
            block.get_submodule(self.module)
        except AttributeError:
            return False
        return {self.tensor, self.name} <= _keywords(type(block))


@dataclass(frozen=True)
class Site:
    """One named tensor of every block.

    Args:
        name: what an edit calls it.
        meaning: for people.
        paths: the module that has it, from the block: in ComfyUI and the wrapper, in diffusers. Empty for the block.
        end: the module's text `argument`, its `input`, its `output`, or a `keyword` of it that is a factor.
        reads_text: its rows are those of the text batch, not of the video's.
        follows_text: for the same hidden state it changes with the text, so another prompt has a value for it.
        reads_images: its tokens are those of images, in the rows of the text batch.
        factors: of end `keyword`: those that it stands for.
        of_control: the module is one of the control block that feeds the block.
    """

    name: str
    meaning: str
    paths: tuple[str, ...] = ()
    end: End = "output"
    reads_text: bool = False
    follows_text: bool = False
    reads_images: bool = False
    factors: tuple[Factor, ...] = ()
    of_control: bool = False

    def is_in(self, blocks: Sequence[nn.Module], controls: Sequence[nn.Module]) -> bool:
        """True when a model with these blocks and control blocks may have it."""
        if self.end == "keyword":
            return any(factor.is_in(block) for factor in self.factors for block in blocks[:1])
        try:
            for block in (controls if self.of_control else blocks)[:1]:
                self.module(block)
        except ValueError:
            return False
        return bool(controls) if self.of_control else True

    def module(self, block: nn.Module) -> nn.Module:
        """The module of `block` that has the site.

        Raises:
            ValueError: the block has none, or has merged it with its siblings.
        """
        if not self.paths:
            return block
        for path in self.paths:
            try:
                found = block.get_submodule(path)
            except AttributeError:
                continue
            parent = block.get_submodule(path.split(".")[0])
            if getattr(parent, "fused_projections", False) and self.name in ("queries", "keys", "values"):
                raise ValueError(
                    f"site {self.name}: {type(block).__name__} has merged its projections (fuse_qkv_projections). "
                    "Call unfuse_qkv_projections() first."
                )
            return found
        raise ValueError(f"site {self.name}: {type(block).__name__} has no {' or '.join(self.paths)}.")


def _keywords(block: type[nn.Module]) -> set[str]:
    """Arguments of a block's forward, and of those that it may hand its keywords on to."""
    classes = [cls for cls in block.__mro__ if "forward" in vars(cls)]
    return {name for cls in classes for name in inspect.signature(vars(cls)["forward"]).parameters}


SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site("context", "the text that cross-attention reads", end="argument", reads_text=True, follows_text=True),
        Site(
            "attention",
            "cross-attention's output, before it is added",
            ("cross_attn.o", "attn2.to_out.0"),
            follows_text=True,
        ),
        Site("hidden", "the residual stream after the block"),
        Site("self_attention", "self-attention's output, before it is gated", ("self_attn.o", "attn1.to_out.0")),
        Site("queries", "cross-attention's queries, of the video", ("cross_attn.q", "attn2.to_q")),
        Site("keys", "cross-attention's keys, of the text", ("cross_attn.k", "attn2.to_k"), "output", True, True),
        Site("values", "cross-attention's values, of the text", ("cross_attn.v", "attn2.to_v"), "output", True, True),
        Site(
            "heads",
            "what cross-attention's heads read, side by side, before they are mixed",
            ("cross_attn.o", "attn2.to_out.0"),
            "input",
            follows_text=True,
        ),
        Site("feed_forward", "the feed-forward layer's output, before it is gated", ("ffn",)),
    )
}

KEYWORDS: dict[str, Site] = {
    site.name: site
    for site in (
        Site(
            "audio",
            "what FantasyTalking, MultiTalk and HuMo add of the sound",
            end="keyword",
            factors=(
                Factor("audio_proj", "audio_scale", "cross_attn.k_proj", "audio_proj"),
                Factor("multitalk_audio_embedding", "audio_scale", "audio_cross_attn", "multitalk_audio"),
                Factor("humo_audio_input", "humo_audio_scale", "audio_cross_attn_wrapper", "humo_audio"),
            ),
        ),
        Site(
            "face",
            "what FantasyPortrait adds",
            end="keyword",
            factors=(
                Factor(
                    "adapter_proj", "ip_scale", "cross_attn.ip_adapter_single_stream_k_proj", "fantasy_portrait_input"
                ),
            ),
        ),
        Site(
            "reference",
            "what Lynx and One-to-All add of a reference",
            end="keyword",
            factors=(
                Factor("lynx_x_ip", "lynx_ip_scale", "cross_attn.ip_adapter", "lynx_embeds"),
                Factor("lynx_ref_feature", "lynx_ref_scale", "self_attn.ref_adapter", "lynx_embeds"),
                Factor("x_onetoall_ref", "onetoall_ref_scale", "ref_attn_k_img", "one_to_all_input"),
            ),
        ),
    )
}
"""Sites that are a factor, in hosts that hand their blocks one. They take a Scale, and nothing else."""

MORE_SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site(
            "image_values",
            "cross-attention's values, of CLIP image tokens",
            ("cross_attn.v_img", "attn2.add_v_proj"),
            reads_text=True,
            reads_images=True,
        ),
        Site(
            "image_tokens",
            "the CLIP image tokens that cross-attention reads",
            ("cross_attn.k_img", "attn2.add_k_proj"),
            end="input",
            reads_text=True,
            reads_images=True,
        ),
        Site(
            "control", "what a VACE control block hands to its main block", ("after_proj", "proj_out"), of_control=True
        ),
        *KEYWORDS.values(),
    )
}
"""Sites that some models have."""

STREAMS: dict[str, Site] = {
    "text": SITES["values"],
    "clip_image": MORE_SITES["image_values"],
    "audio": KEYWORDS["audio"],
    "face": KEYWORDS["face"],
    "reference": KEYWORDS["reference"],
    "vace": MORE_SITES["control"],
}
"""What a gain scales, by the name of what comes."""


def site_of(name: str) -> Site:
    """The site of that name.

    Raises:
        ValueError: there is none.
    """
    found = SITES.get(name) or MORE_SITES.get(name)
    if found is None:
        raise ValueError(f"site must be one of {', '.join([*SITES, *MORE_SITES])}, not {name!r}.")
    return found
