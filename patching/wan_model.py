"""Finding the parts of a Wan transformer by their structure, whatever the host calls the class."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

_CONTEXT_NAMES = ("context", "encoder_hidden_states")
_CROSS_ATTENTION_NAMES = ("cross_attn", "attn2")


class NotAWanModelError(ValueError):
    """The model lacks a part that context injection needs; the message says which."""


@dataclass(frozen=True)
class ContextArgument:
    """Where a module's forward takes the text context: by keyword, or at a position (None: keyword only)."""

    name: str
    position: int | None

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The context of a call.

        Raises:
            RuntimeError: the call has none.
        """
        if self.name in kwargs:
            return kwargs[self.name]
        if self.position is None or self.position >= len(args):
            raise RuntimeError(f"A block was called without its text context ({self.name}).")
        return args[self.position]

    def replace(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments with another context, at the place where `read` found the first one."""
        if self.name in kwargs or self.position is None:
            return args, {**kwargs, self.name: value}
        return (*args[: self.position], value, *args[self.position + 1 :]), kwargs


@dataclass(frozen=True, eq=False)
class WanModel:
    """The parts of a Wan transformer that the runtime touches.

    Args:
        module: the transformer itself.
        blocks: its main blocks, unwrapped from torch.compile.
        projection: text projection, raw T5 embeddings [batch, tokens, text_width] to the model's width.
        context: how the blocks take the text context.
        control_blocks: VACE control blocks with the index of the main block that each one feeds.
        text_width: width of raw text embeddings, 4096 for UMT5-XXL; None where only packed weights could tell it.
        image_projection: of CLIP image tokens, in I2V models that read them.
    """

    module: nn.Module
    blocks: tuple[nn.Module, ...]
    projection: nn.Module
    context: ContextArgument
    control_blocks: tuple[tuple[nn.Module, int], ...]
    text_width: int | None
    image_projection: nn.Module | None = None

    @property
    def name(self) -> str:
        return type(self.module).__name__

    @property
    def block_count(self) -> int:
        return len(self.blocks)

    @property
    def width(self) -> int | None:
        """Width of the hidden state, when the model says it."""
        config: Any = getattr(self.module, "config", None)
        if hasattr(config, "attention_head_dim"):
            return int(config.num_attention_heads * config.attention_head_dim)
        found = vars(self.module).get("dim")
        return found if isinstance(found, int) else None

    def grid(self, latents: Any) -> tuple[int, int, int]:
        """Frames, height and width of the tokens of latents [..., frames, height, width], or of a list of such."""
        x = latents[0] if isinstance(latents, list | tuple) else latents
        config = getattr(self.module, "config", None)
        patch = vars(self.module).get("patch_size") or getattr(config, "patch_size", None) or (1, 2, 2)
        frames, height, width = (-(-size // p) for size, p in zip(x.shape[-3:], patch, strict=True))
        return frames, height, width


def cross_attention(block: nn.Module) -> nn.Module:
    """The cross-attention of a block; `block` itself when it has none, because it is one."""
    for name in _CROSS_ATTENTION_NAMES:
        found = getattr(block, name, None)
        if isinstance(found, nn.Module):
            return found
    return block


def unwrap(module: nn.Module) -> nn.Module:
    """The module behind torch.compile's wrapper. Hooks belong here: wrappers are replaced every run."""
    return getattr(module, "_orig_mod", module)


def discover(module: Any) -> WanModel:
    """Find blocks, text projection and context argument of a Wan transformer.

    Raises:
        NotAWanModelError: with the part that is missing.
    """
    module = unwrap(module)
    name = type(module).__name__
    blocks = getattr(module, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise NotAWanModelError(
            f"{name} is not a Wan model: it has no list of transformer blocks. Use a Wan 2.1 or 2.2 model."
        )
    raw = tuple(unwrap(b) for b in blocks)
    if not all(any(hasattr(b, a) for a in _CROSS_ATTENTION_NAMES) for b in raw):
        raise NotAWanModelError(
            f"{name} has blocks without cross-attention: this model does not read text, so there is no context to edit."
        )
    if any(hasattr(b, "forward_gen") for b in raw):  # Wan-Animate-2 of ComfyUI
        raise NotAWanModelError(
            f"{name} runs its blocks beside those of a pose video, by methods of their own, so they cannot be edited. "
            "Use Wan 2.2 Animate or another Wan model, or leave this node out."
        )
    given = inspect.signature(type(module).forward).parameters.get("encoder_hidden_states")
    if given is not None and str(given.annotation).startswith("list["):
        raise NotAWanModelError(
            f"{name} takes a list of texts and runs its blocks on parts of the video at a time, which cannot be "
            "edited. Use another Wan model."
        )
    return WanModel(
        module=module,
        blocks=raw,
        projection=_projection(module),
        context=_context_argument(raw[0], name),
        control_blocks=_control_blocks(module),
        text_width=_text_width(module),
        image_projection=_image_projection(module),
    )


def _projection(module: nn.Module) -> nn.Module:
    found = getattr(module, "text_embedding", None)
    if found is None:
        found = getattr(getattr(module, "condition_embedder", None), "text_embedder", None)
    if not isinstance(found, nn.Module):
        raise NotAWanModelError(
            f"{type(module).__name__} has no text projection (text_embedding): it is not a Wan text model."
        )
    return found


def _image_projection(module: nn.Module) -> nn.Module | None:
    for holder, name in ((module, "img_emb"), (getattr(module, "condition_embedder", None), "image_embedder")):
        found = getattr(holder, name, None)
        if isinstance(found, nn.Module):
            return found
    return None


def _text_width(module: nn.Module) -> int | None:
    """As the model says it, or its first linear layer; packed weights, which are quantised, have other sizes."""
    said = getattr(getattr(module, "config", None), "text_dim", None) or vars(module).get("text_dim")
    if isinstance(said, int):
        return said
    linear: Any = next((part for part in _projection(module).modules() if hasattr(part, "in_features")), None)
    if linear is None:
        raise NotAWanModelError(f"{type(module).__name__}: its text projection has no linear layer.")
    weight = getattr(linear, "weight", None)
    plain = type(weight) is nn.Parameter and weight.is_floating_point() and weight.element_size() > 1
    return int(linear.in_features) if plain else None


def _context_argument(block: nn.Module, name: str) -> ContextArgument:
    for depth, cls in enumerate(type(block).__mro__):
        forward = cls.__dict__.get("forward")
        if forward is None:
            continue
        parameters = list(inspect.signature(forward).parameters)[1:]  # without self
        for wanted in _CONTEXT_NAMES:
            if wanted in parameters:
                # A parent's position means nothing when the class itself takes **kwargs.
                own = depth == 0 or "forward" not in type(block).__dict__
                return ContextArgument(wanted, parameters.index(wanted) if own else None)
    raise NotAWanModelError(f"{name}: {type(block).__name__}.forward takes no text context; it is not a Wan block.")


def _control_blocks(module: nn.Module) -> tuple[tuple[nn.Module, int], ...]:
    found = getattr(module, "vace_blocks", None)
    if not isinstance(found, nn.ModuleList):
        return ()
    mapping = getattr(module, "vace_layers_mapping", None)
    if mapping is None:
        holder = module if hasattr(module, "vace_layers") else getattr(module, "config", None)
        layers: list[int] = list(getattr(holder, "vace_layers", None) or ())
        mapping = {main: i for i, main in enumerate(layers)}
    return tuple((found[i], main) for main, i in mapping.items())
