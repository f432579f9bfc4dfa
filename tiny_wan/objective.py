"""What one training step computes: captions with gaps, noise levels, the model's fast path, the probes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .codec import CHANNELS, GRID
from .data import BACKGROUNDS, COLOURS, FRAMES, MOTIONS, NAMES, SHAPES, caption
from .model import DIM
from .text import ROWS, WIDTH, position_vector, word_vector, words

TEXT_ROWS = 12  # rows that a step computes: 11 for words, one that stands for all padding rows
SHIFT = 3.0  # of the noise levels, as the pipeline's scheduler has it
JUNK = [
    *["blurry", ",", "low", "quality", "bad", "ugly", "worst", "text", "static", "distorted"],
    *(f"junk{i}" for i in range(60)),
]
# Wan's blocks know relative places only. Linear probes after these blocks ask every token for its frame, row and
# column, and are thrown away after training. An earlier recipe without
# them left motion and shape at chance for a long time.
PROBED = (1, 3)
PLACES = torch.stack(
    torch.meshgrid(torch.arange(FRAMES), torch.arange(GRID // 2), torch.arange(GRID // 2), indexing="ij"), -1
).view(-1, 3)
PLACE_CLASSES = (FRAMES, GRID // 2, GRID // 2)


class Captions:
    """Captions as indices into one table of word vectors and one of position vectors."""

    def __init__(self) -> None:
        known = {w for names in (COLOURS, SHAPES, MOTIONS, BACKGROUNDS) for name in names for w in words(name)}
        vocabulary = [*sorted(known | {"a", "shape"}), *JUNK]
        self.index = {word: i + 1 for i, word in enumerate(vocabulary)}
        self.table = torch.stack([torch.zeros(WIDTH)] + [word_vector(word) for word in vocabulary])
        self.positions = torch.stack([position_vector(i) for i in range(TEXT_ROWS)] + [torch.zeros(WIDTH)])

    def rows(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Word and position indices, each [count, TEXT_ROWS]; index 0 and the last position are zero vectors.

        Raises:
            ValueError: a text with more words than a training step has rows for.
        """
        word = torch.zeros(len(texts), TEXT_ROWS, dtype=torch.long)
        position = torch.full((len(texts), TEXT_ROWS), TEXT_ROWS)
        for row, text in enumerate(texts):
            found = [self.index[w] for w in words(text)]
            if len(found) >= TEXT_ROWS:
                raise ValueError(f"Training texts have at most {TEXT_ROWS - 1} words, this one {len(found)}: {text}")
            word[row, : len(found)] = torch.tensor(found, dtype=torch.long)
            position[row, : len(found)] = torch.arange(len(found))
        return word, position

    def draw(self, attributes: torch.Tensor, generator: torch.Generator) -> list[str]:
        """Captions of which 5 % are empty, 7 % unrelated words, and 18 % leave out some attributes."""
        texts = []
        for row in attributes.tolist():
            kind, *drops = torch.rand(5, generator=generator).tolist()
            if kind < 0.05:
                texts.append("")
            elif kind < 0.12:
                count = 1 + int(8 * drops[0])
                picks = torch.randint(len(JUNK), (count,), generator=generator).tolist()
                texts.append(" ".join(JUNK[pick] for pick in picks))
            else:
                names = [values[index] for values, index in zip(NAMES.values(), row, strict=True)]
                gaps = kind < 0.30
                texts.append(
                    caption(*(None if gaps and d < 0.4 else name for name, d in zip(names, drops, strict=True)))
                )
        return texts


class CollapsedAttention:
    """Attention in which the last text row counts for all padding rows up to 512.

    These rows are all zero, so they have one key and one value; their share of the softmax is that of one row with
    log(501) added to its logit. This is exact. `padding` is that
    addend, which the first part of training raises from 0.
    """

    def __init__(self) -> None:
        self.bias = torch.zeros(1, 1, TEXT_ROWS)
        self.padding(1.0)

    def padding(self, part: float) -> None:
        self.bias[..., -1] = part * math.log(ROWS - TEXT_ROWS + 1)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
        if rotary_emb is not None:
            query, key = _rotate(query, *rotary_emb), _rotate(key, *rotary_emb)
        logits = torch.bmm(query, key.transpose(1, 2)) * DIM**-0.5
        if encoder_hidden_states is not None:
            logits = logits + self.bias
        out: torch.Tensor = attn.to_out[0](torch.bmm(logits.softmax(-1), attn.to_v(source)))
        return out


def _rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = x.view(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([first * cosine - second * sine, first * sine + second * cosine], -1).flatten(-2)


class Trainee(nn.Module):
    """A Wan transformer under training: its own modules, called with collapsed text, and the probes."""

    def __init__(self, model: Any, captions: Captions) -> None:
        super().__init__()
        self.model, self.captions = model, captions
        self.attention = CollapsedAttention()
        for block in model.blocks:
            block.attn1.set_processor(self.attention)
            block.attn2.set_processor(self.attention)
        cosine, sine = model.rope(torch.zeros(1, CHANNELS, FRAMES, GRID, GRID))
        self.rope = (cosine[0, :, 0, 0::2].contiguous(), sine[0, :, 0, 1::2].contiguous())
        self.probes = nn.ModuleDict({str(block): nn.Linear(DIM, sum(PLACE_CLASSES)) for block in PROBED})
        self.table = torch.cat([captions.table, captions.positions])

    def to(self, device: str) -> Trainee:  # type: ignore[override]
        super().to(device)
        self.table = self.table.to(device)
        self.rope = (self.rope[0].to(device), self.rope[1].to(device))
        self.attention.bias = self.attention.bias.to(device)
        return self

    def forward(
        self, latents: torch.Tensor, sigma: torch.Tensor, texts: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Velocity [count, 16, FRAMES, GRID, GRID], the probes' loss, and the last probe's predictions."""
        model, device = self.model, latents.device
        word, position = (rows.to(device) for rows in self.captions.rows(texts))
        conditions = model.condition_embedder
        time = conditions.time_embedder(conditions.timesteps_proj(1000 * sigma))
        modulation = conditions.time_proj(conditions.act_fn(time)).unflatten(1, (6, -1))
        embedder = conditions.text_embedder
        # linear_1 is linear, so each word and position is projected once a step.
        projected = self.table @ embedder.linear_1.weight.T
        rows = projected[word] + projected[len(self.captions.table) + position] + embedder.linear_1.bias
        text = embedder.linear_2(embedder.act_1(rows))

        hidden = model.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()
        loss, guesses = latents.new_zeros(()), []
        for index, block in enumerate(model.blocks):
            hidden = block(hidden, text, modulation, self.rope)
            if index in PROBED and self.training:
                logits = self.probes[str(index)](F.layer_norm(hidden, (DIM,))).split(PLACE_CLASSES, -1)
                for part, place in zip(logits, PLACES.to(device).unbind(1), strict=True):
                    loss = loss + F.cross_entropy(part.flatten(0, 1), place.repeat(len(hidden)))
                guesses = [part.detach().argmax(-1) for part in logits]
        shift, scale = (model.scale_shift_table + time.unsqueeze(1)).chunk(2, 1)
        out = model.proj_out(model.norm_out(hidden) * (1 + scale) + shift)
        half = GRID // 2
        out = out.view(-1, FRAMES, half, half, 1, 2, 2, CHANNELS).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return out.reshape(-1, CHANNELS, FRAMES, GRID, GRID), loss, guesses


def noise_levels(count: int, generator: torch.Generator) -> torch.Tensor:
    """Stratified noise levels [count]: three in four logit-normal, one in four uniform, then shifted."""
    uniform = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    level = torch.sigmoid(torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)))
    level = torch.where(torch.rand(count, generator=generator) < 0.25, uniform, level)
    return SHIFT * level / (1 + (SHIFT - 1) * level)


@torch.no_grad()
def sample(
    trainee: Trainee, texts: list[str], generator: torch.Generator, steps: int = 8, guidance: float = 2.0
) -> Any:
    """Latents by Euler steps on the collapsed text: a quick look while training."""
    count, device = len(texts), next(trainee.parameters()).device
    latents = torch.randn(count, CHANNELS, FRAMES, GRID, GRID, generator=generator).to(device)
    level = torch.linspace(1, 0, steps + 1)
    sigmas = (SHIFT * level / (1 + (SHIFT - 1) * level)).to(device)
    for now, after in itertools.pairwise(sigmas.unbind()):
        velocity, _, _ = trainee(latents, now.expand(count), texts)
        empty, _, _ = trainee(latents, now.expand(count), [""] * count)
        latents = latents + (after - now) * (empty + guidance * (velocity - empty))
    return latents
