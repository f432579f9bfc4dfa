"""Differences of captured hidden states: injection - main, for the chosen blocks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from .capture import HiddenStates
from .grid import format_grid
from .sources import CapturedDifference

log = logging.getLogger("wanvideo_activation_editor")

Reduce = Literal["none", "mean"]
REDUCTIONS: tuple[Reduce, ...] = get_args(Reduce)


def captured_difference(
    main: HiddenStates, injection: HiddenStates, blocks: Sequence[int], reduce: Reduce = "none"
) -> CapturedDifference:
    """injection - main, for the chosen blocks.

    States captured after one block serve every chosen block. Of states captured after each block, a chosen block gets
    those of its own; token by token that is possible for one chosen block only, since no more than one such difference
    is kept beside the model.

    Args:
        main, injection: hidden states of one model after the same blocks.
        blocks: indices of the chosen blocks.
        reduce: `none` adds token by token, which needs equal grids; `mean` adds the mean over tokens to every token.

    Raises:
        ValueError: they do not go together, or not with the chosen blocks; the message says what to do.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, not {reduce!r}.")
    if main.width != injection.width:
        raise ValueError(
            f"main_latent is {main.width} wide, injection_latent {injection.width}. Capture both from one model."
        )
    if main.blocks != injection.blocks:
        raise ValueError(
            f"main_latent was captured after block {_range(main.blocks)}, injection_latent after "
            f"{_range(injection.blocks)}. Use the same capture_after_blocks and all_blocks for both."
        )
    if reduce == "none":
        _check_alignment(main, injection)
    single = len(main.blocks) == 1
    missing = [] if single else [b for b in blocks if b not in main.blocks]
    if missing:
        raise ValueError(
            f"Block {missing[0]} is chosen, but the hidden states are those after blocks {_range(main.blocks)}. "
            "Raise capture_after_blocks, or choose other blocks."
        )
    if not single and reduce == "none" and len(blocks) > 1:
        raise ValueError(
            f"{len(blocks)} blocks are chosen, but hidden states of all_blocks add token by token to one block at a "
            "time. Choose one block, set reduce to mean, or capture without all_blocks."
        )
    _warn_about_differences(main, injection)
    used = [0] if single or not blocks else [main.blocks.index(b) for b in blocks]
    deltas = tuple(_difference(main.states[i], injection.states[i], reduce) for i in used)
    index_of = {b: 0 if single else n for n, b in enumerate(blocks)}
    size = torch.linalg.vector_norm(_reduced(main.states[used[0]], reduce)).item()
    return CapturedDifference(
        deltas=deltas,
        index_of=index_of,
        grid=main.grid if reduce == "none" else None,
        origin=f"after block {_range(main.blocks)}, sigma {main.sigma:.3f}"
        + (", mean over tokens" if reduce == "mean" else f", grid {format_grid(main.grid)}"),
        relative_l2=torch.linalg.vector_norm(deltas[0].float()).item() / size if size else 0.0,
        identity=main.identity if main.identity == injection.identity else "",
    )


def _check_alignment(main: HiddenStates, injection: HiddenStates) -> None:
    if main.grid != injection.grid:
        raise ValueError(
            f"main_latent has a grid of {format_grid(main.grid)} tokens, injection_latent of "
            f"{format_grid(injection.grid)}. Capture both at one size, or set reduce to mean."
        )
    a, b = list(main.states[0].shape), list(injection.states[0].shape)
    if a != b:
        raise ValueError(
            f"main_latent is {a}, injection_latent {b} (batch, tokens, width). Capture both with the same latent and "
            "image inputs."
        )


def _warn_about_differences(main: HiddenStates, injection: HiddenStates) -> None:
    """What differs beside the prompt ends up in the difference."""
    for name, what in (("seed", "seeds"), ("sigma", "sigmas"), ("identity", "models")):
        if getattr(main, name) != getattr(injection, name):
            log.warning("main_latent and injection_latent were captured with different %s, which they add too.", what)


def _reduced(x: torch.Tensor, reduce: Reduce) -> torch.Tensor:
    return x.float().mean(dim=1, keepdim=True) if reduce == "mean" else x.float()


def _difference(main: torch.Tensor, injection: torch.Tensor, reduce: Reduce) -> torch.Tensor:
    """In float32, except that token by token bfloat16 stays bfloat16: half the memory at the same range."""
    delta = _reduced(injection, reduce) - _reduced(main, reduce)
    return delta.to(torch.bfloat16) if reduce == "none" and main.dtype == torch.bfloat16 else delta


def _range(blocks: Sequence[int]) -> str:
    return str(blocks[0]) if len(blocks) == 1 else f"{blocks[0]} to {blocks[-1]}"
