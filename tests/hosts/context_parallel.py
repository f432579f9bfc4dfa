"""Sample edits in one process and in two that share the tokens, and save what came out.

    python -m tests.hosts.context_parallel RANK FOLDER

Both processes run this; `test_context_parallel.py` starts them and compares.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import wanvideo_activation_editor as wae
from diffusers import ContextParallelConfig
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.hosts.diffusers import inject, inject_hidden
from wanvideo_activation_editor.patching.mask import Box
from wanvideo_activation_editor.patching.operations import Scale
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.sites import SITES
from wanvideo_activation_editor.patching.sources import Direction, Zero
from wanvideo_activation_editor.patching.transforms import Boost
from wanvideo_activation_editor.vectors.applying import steer

from .conftest import Sampler, make_transformer, prompt_embeds

MAIN, OTHER, NEGATIVE = prompt_embeds(1), prompt_embeds(2, tokens=20), prompt_embeds(99, tokens=5)
CALL = {"height": 32, "width": 32, "num_frames": 5}
SHORT = {"noise_levels": (0.6,), "num_inference_steps": 2, "guidance_scale": 1.0, **CALL}
BLOCKS = "0-3:0.7"
ALONG = Direction(torch.randn(32, generator=torch.Generator().manual_seed(8)))
WAIT = timedelta(minutes=5)  # for a process that has died
PARALLEL, ALONE = "parallel", "alone"


def cases(sampler: Sampler) -> dict[str, Callable[[], torch.Tensor]]:
    """What is sampled, by its row in the table of docs/reference/diffusers.md and what is special about it.

    Vectors and states are taken from the model here, before it is shared."""
    pipe = sampler.pipe

    def edited(*args, **options) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            with inject(pipe, *args, **options):
                return sampler(MAIN)

        return run

    def along(vector, operation, **options) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            with steer(pipe, vector, 1.5, operation, **options):
                return sampler(MAIN)

        return run

    def added(reduce: str, **options) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            with inject_hidden(pipe, *states, "2", reduce=reduce, **options):
                return sampler(MAIN)

        return run

    def mapped(other: Any, **options) -> torch.Tensor:
        share = wae.block_map(pipe, MAIN, other, seeds=1, **SHORT, **options).share
        return torch.as_tensor(share).nan_to_num()

    latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    states = [wae.capture(pipe, text, 3, latents=latents) for text in (MAIN, OTHER)]
    pairs = [(OTHER, MAIN), (prompt_embeds(3), prompt_embeds(4))]
    vectors = {site: wae.control_vector(pipe, pairs, site=site, levels=2, **CALL) for site in ("context", "hidden")}
    inside = [name for name, site in SITES.items() if site.follows_text and name != "context"]
    masked = wae.Edit(read_text_embeds(OTHER), parse_selection("all"), mask=Box(right=0.5))
    return {
        "plain": lambda: sampler(MAIN),
        "other": lambda: sampler(OTHER),
        "other negative": lambda: sampler(MAIN, negative=OTHER),
        "prompt in context: all": edited(OTHER),
        "prompt in context: negative": edited(OTHER, branch="uncond"),
        "prompt in context: window": edited(OTHER, BLOCKS, window=(0, 0.5)),
        "prompt in context: schedule": edited(OTHER, BLOCKS, schedule="0:0.2, 1:1"),
        "prompt in context: tokens": edited(OTHER, BLOCKS, tokens="2-5"),
        "prompt in context: boost": edited(OTHER, BLOCKS, transforms=[Boost(3.0)]),
        "prompt in context: logged": edited(OTHER, BLOCKS, log_level="verbose"),
        **{f"prompt inside of blocks: {site}": edited(OTHER, BLOCKS, site=site) for site in inside},
        **{f"direction: {site}": edited(ALONG, BLOCKS, site=site) for site in SITES},
        "gain: values": edited(Zero(), site="values", operation=Scale(0.5)),
        "second stream: all": edited(OTHER, site="hidden"),
        "second stream: some": edited(OTHER, BLOCKS, site="hidden"),
        "captured difference, mean: added": added("mean"),
        "captured difference, mean: norms kept": added("mean", preserve_norm=True),
        "captured difference, by token": added("none"),
        "steering: add": along(vectors["hidden"], "add"),
        "steering: ablate": along(vectors["hidden"], "ablate"),
        "steering: text": along(vectors["context"], "add"),
        "mask: context": edited(OTHER, BLOCKS, mask=Box(right=0.5)),
        "mask: hidden": edited(ALONG, BLOCKS, site="hidden", mask=Box(last_frame=0)),
        "capture": lambda: wae.capture(pipe, MAIN, 3, latents=latents).states[0],
        "fitting a control vector": lambda: wae.control_vector(pipe, pairs, site="hidden", levels=2, **CALL).directions,
        "learning tokens": lambda: (
            wae.learn_tokens(pipe, OTHER, MAIN, 2, steps=2, batch=2, latents=torch.cat([latents] * 2)).tokens
        ),
        "reading words": lambda: torch.as_tensor(wae.read_words(pipe, MAIN, **SHORT).maps),
        "block map by forks": lambda: mapped(OTHER, blocks="2-4"),
        "block map of a mask": lambda: mapped(masked),
        "block map by gradients": lambda: mapped(OTHER, blocks="2-4", method="integrated_gradients"),
    }


def outcomes(chosen: dict[str, Callable[[], torch.Tensor]]) -> dict[str, torch.Tensor | str]:
    """What each case gives: a tensor, or the message of its error."""
    found: dict[str, torch.Tensor | str] = {}
    for name, run in chosen.items():
        try:
            found[name] = run()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=WAIT)
    sampler = Sampler(make_transformer(), steps=2)
    chosen = cases(sampler)
    alone = outcomes(chosen) if rank == 0 else {}
    torch.accelerator.device_count = lambda: 2  # 0 on a CPU; diffusers numbers devices by it
    sampler.pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    torch.save({ALONE: alone, PARALLEL: outcomes(chosen)}, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
