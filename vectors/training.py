"""Learning tokens on a diffusers pipeline, whose weights stay as they are."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..patching.fingerprint import known_identity
from ..patching.hosts import diffusers
from ..patching.hosts.diffusers_checks import check_whole
from ..probing.pipeline_calls import Pipeline
from .control_vector import ControlVectorError
from .learned_tokens import LearnedTokens, Norm, Position, joined
from .pairs import real_rows

HELD_OUT = 32
"""States on which the error is measured."""


def learn_tokens(
    pipe: Any,
    target: Any,
    prompt: Any,
    count: int = 8,
    *,
    position: Position = "append",
    norm: Norm = "free",
    steps: int = 300,
    batch: int = 8,
    rate: float = 0.05,
    seed: int = 0,
    latents: torch.Tensor | int = 4,
    origin: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
    **call: Any,
) -> LearnedTokens:
    """Learn rows of text embeddings that make a prompt give what it does not say.

        learned = learn_tokens(pipe, clips, "a circle moving left")
        save_learned_tokens("orange.safetensors", learned)

    The loss is E |v(x_t, t, [prompt; rows]) - v|^2 at random noise levels. v is that of flow matching for clips,
    noise - clip; for a prompt, what the model itself gives with it (distillation).

    Args:
        pipe: a diffusers Wan pipeline; its first transformer is used.
        target: latents of clips [clips, channels, frames, height, width]; or a prompt, a string or embeddings
            [1, tokens, 4096].
        prompt: the text beside which the rows stand: one, or a list with one per clip.
        count: rows.
        position: where they stand. `replace`: alone, and the prompt says only what the errors are measured against.
        norm: `fixed` keeps each row at the mean norm of a prompt's token; as an encoder would give it.
        steps, batch, rate: of Adam; the rate is in units of the root mean square of a prompt's embeddings.
        seed: of noise, noise levels and initial rows.
        latents: for a target prompt, the clips that states are made of, or how many are sampled with it.
        progress: called with how much is done, and how much there is to do; may raise to stop.
        call: further arguments of the pipeline, for clips that it samples.

    Raises:
        ControlVectorError: inputs that do not fit.
        ValueError: a cache of diffusers or context parallelism is on.
    """
    if not 1 <= count <= 128 or steps < 1 or batch < 1 or not 0 < rate < 10:
        raise ControlVectorError("count has to be 1 to 128, steps and batch at least 1, rate above 0 and below 10.")
    pipeline = Pipeline(pipe, {"negative_prompt_embeds": None, "guidance_scale": 1.0, **call})
    module: Any = pipeline.models[0].module
    check_whole(module, "learn_tokens")
    of_clips = torch.is_tensor(target) and target.dim() == 5
    prompts = [real_rows(pipeline.encode(one, "prompt")).float() for one in _listed(prompt)]
    wanted = None if of_clips else real_rows(pipeline.encode(target, "target")).float()
    clips = target if of_clips else latents
    if isinstance(clips, int):
        clips = torch.cat([pipeline.sample(padded(wanted)[None], seed + n) for n in range(clips)])  # type: ignore[arg-type]
    if len(prompts) not in (1, len(clips)):
        raise ControlVectorError(f"{len(prompts)} prompts for {len(clips)} clips; give one, or one for each.")
    device = module.device
    states = States(module, clips.to(device, torch.float32), [p.to(device) for p in prompts], wanted)
    size = sum(float(p.norm(dim=-1).mean()) for p in prompts) / len(prompts)
    alone = states.error(lambda p: p, seed)
    if not alone:
        raise ControlVectorError("The prompt gives what the target gives already, so there is nothing to learn.")
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(count, prompts[0].shape[-1], generator=generator) * (
        0.5 * size / math.sqrt(prompts[0].shape[-1])
    )
    rows = start.to(device).requires_grad_(True)

    def shaped() -> torch.Tensor:
        return size * torch.nn.functional.normalize(rows, dim=-1) if norm == "fixed" else rows

    optimiser = torch.optim.Adam([rows], lr=rate * size / math.sqrt(rows.shape[-1]))
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: 1 - 0.9 * done / steps)
    with _frozen(module), torch.enable_grad():
        for done in range(steps):
            x, level, which, v = states.draw(batch, generator)
            found = states.velocity(x, level, [joined(states.prompt(n), shaped(), position) for n in which])
            loss = (found - v).square().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            decay.step()
            progress(done + 1, steps)
    if not torch.isfinite(rows).all():
        raise ControlVectorError("Learning went astray (NaN or infinite values). Use a lower rate.")
    final = shaped().detach()
    away = None if wanted is None else wanted.to(device).mean(0) - torch.cat(states.prompts).mean(0)
    return LearnedTokens(
        final,
        norm,
        position,
        states.error(lambda p: joined(p, final, position), seed) / alone,
        math.nan if away is None else states.error(lambda p: p + away, seed) / alone,
        known_identity(diffusers, pipe),
        pipeline.models[0].name,
        origin or ("clips" if of_clips else "a prompt"),
    )


@dataclass(eq=False)
class States:
    """Noisy states with what the model should give there.

    Args:
        module: the transformer.
        clips: latents [clips, channels, frames, height, width].
        prompts: [tokens, width] each; one, or one per clip.
        wanted: the prompt that is distilled; None when the clips are the target.
    """

    module: Any
    clips: torch.Tensor
    prompts: list[torch.Tensor]
    wanted: torch.Tensor | None

    def prompt(self, clip: int) -> torch.Tensor:
        return self.prompts[clip % len(self.prompts)]

    def draw(
        self, count: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, list[int], torch.Tensor]:
        """States, their noise levels, their clips, and the velocity that is wanted."""
        which = torch.randint(len(self.clips), (count,), generator=generator).tolist()
        clips = self.clips[which]
        noise = torch.randn(clips.shape, generator=generator).to(clips.device)
        level = torch.rand(count, generator=generator).to(clips.device)
        mix = level.view(-1, 1, 1, 1, 1)
        x = (1 - mix) * clips + mix * noise
        if self.wanted is None:
            return x, level, which, noise - clips
        with torch.no_grad():
            return x, level, which, self.velocity(x, level, [self.wanted.to(x.device)] * count)

    def velocity(self, x: torch.Tensor, level: torch.Tensor, texts: Sequence[torch.Tensor]) -> torch.Tensor:
        dtype = self.module.dtype
        found: torch.Tensor = self.module(
            hidden_states=x.to(dtype),
            timestep=1000 * level,
            encoder_hidden_states=torch.stack([padded(text) for text in texts]).to(x.device, dtype),
            return_dict=False,
        )[0]
        return found.float()

    @torch.no_grad()
    def error(self, change: Callable[[torch.Tensor], torch.Tensor], seed: int) -> float:
        """Mean squared error of changed prompts, on states that learning has not seen."""
        generator, total = torch.Generator().manual_seed(seed + 1_000_003), 0.0
        for _ in range(HELD_OUT // 8):
            x, level, which, v = self.draw(8, generator)
            total += float((self.velocity(x, level, [change(self.prompt(n)) for n in which]) - v).square().mean())
        return total


def padded(rows: torch.Tensor, length: int = 512) -> torch.Tensor:
    """Rows with zeros up to the length of Wan's text."""
    return torch.cat([rows, rows.new_zeros(length - len(rows), rows.shape[-1])])


@contextlib.contextmanager
def _frozen(module: torch.nn.Module) -> Iterator[None]:
    """Gradients reach the rows alone; parameters and mode are put back."""
    before, training = {p: p.requires_grad for p in module.parameters()}, module.training
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        module.train(training)
        for parameter, kept in before.items():
            parameter.requires_grad_(kept)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
