"""Where an edit acts: the tensors of a Wan block that have a name.

A row of `SITES` is all that a site needs. `context` and `hidden` are the block's own text argument and output; every
other site is one end of a leaf module, which all hosts call as a module: the wrapper calls `forward` of the attention
around the leaves itself, past module hooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

End = Literal["argument", "input", "output"]


@dataclass(frozen=True)
class Site:
    """One named tensor of every block.

    Args:
        name: what an edit calls it.
        meaning: for people.
        paths: the module that has it, from the block: in ComfyUI and the wrapper, in diffusers. Empty for the block.
        end: the module's text `argument`, its `input`, or its `output`.
        reads_text: its rows are those of the text batch, not of the video's.
        follows_text: for the same hidden state it changes with the text, so another prompt has a value for it.
    """

    name: str
    meaning: str
    paths: tuple[str, ...] = ()
    end: End = "output"
    reads_text: bool = False
    follows_text: bool = False

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
