"""Which block carries what of an edit: a value with shares, effects and motion per block and noise level.

`block_map` (of the package) measures one. Shares say how much of the whole edit's change of the model's output a block
brings about alone; effects how large its change is, whatever its direction; motion how much of it differs between
frames. Each is a mean over seeds with a 95 % interval.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..patching.strengths import Explicit, check_strength
from .intervals import Array, bootstrap_interval, rank_correlation

if TYPE_CHECKING:
    from PIL import Image

FORMAT = 1
QUANTITIES = ("share", "effect", "motion")
PER_BLOCK = QUANTITIES
PER_CALL = ("whole_effect", "whole_motion", "random_effect", "random_share", "random_motion")


@dataclass(frozen=True, eq=False)
class BlockMap:
    """What one edit does in each block of one model, at several noise levels.

    Args:
        samples: `effect`, `share` and `motion` [seeds, levels, blocks], NaN for blocks that were not measured; and
            `whole_effect`, `whole_motion` (the edit in all measured blocks), `random_effect`, `random_share`,
            `random_motion` (a random direction of equal norm in all of them) [seeds, levels].
        noise_levels: that were measured, 1 to 0.
        seeds: one per first index of the samples.
        edit: the edit as plain values.
        model_name, identity: of the model; the identity is empty where it is unavailable.
        method: how the shares were measured: `forks` or `integrated_gradients`.
        pairs: prompt pairs whose mean each sample is.
        finished: per block, the relative L2 change of the finished latents with the edit in that block throughout,
            one value per seed; empty without `verify`.

    Raises:
        ValueError: samples of shapes that do not fit together.
    """

    samples: Mapping[str, Array]
    noise_levels: tuple[float, ...]
    seeds: tuple[int, ...]
    edit: Mapping[str, Any] = field(default_factory=dict)
    model_name: str = ""
    identity: str = ""
    method: str = "forks"
    pairs: int = 1
    finished: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lines = len(self.seeds), len(self.noise_levels)
        shape = (*lines, np.shape(self.samples.get("share", ()))[-1] if "share" in self.samples else 0)
        for name in (*PER_BLOCK, *PER_CALL):
            wanted = shape if name in PER_BLOCK else lines
            if name not in self.samples or np.shape(self.samples[name]) != wanted or 0 in wanted:
                got = list(np.shape(self.samples[name])) if name in self.samples else "nothing"
                raise ValueError(f"Block map: {name} is {got}, but has to be {list(wanted)}.")

    @property
    def block_count(self) -> int:
        return int(self.samples["share"].shape[-1])

    @property
    def blocks(self) -> list[int]:
        """Blocks that were measured."""
        return [int(i) for i in np.flatnonzero(~np.isnan(self.samples["share"][0, 0]))]

    def _mean(self, name: str) -> Array:
        mean: Array = self.samples[name].mean(axis=0)
        return mean

    @property
    def effect(self) -> Array:
        """|v_i - v| / |v| [levels, blocks]: how far the block alone moves the model's output."""
        return self._mean("effect")

    @property
    def share(self) -> Array:
        """<v_i - v, D> / <D, D> [levels, blocks], D the change by all blocks: 1 is all of it, below 0 is against it."""
        return self._mean("share")

    @property
    def motion(self) -> Array:
        """Part of the energy of v_i - v that differs between frames [levels, blocks]."""
        return self._mean("motion")

    @property
    def interaction(self) -> Array:
        """1 - sum of the shares [levels]: what blocks do only together; below 0 where they do the same twice."""
        rest: Array = 1 - np.nansum(self.share, axis=-1)
        return rest

    @functools.cached_property
    def intervals(self) -> dict[str, Array]:
        """95 % intervals [2, levels, blocks] of effect, share and motion, and [2, levels] of interaction; NaN for one
        seed."""
        found = {name: bootstrap_interval(self.samples[name]) for name in PER_BLOCK}
        return {**found, "interaction": bootstrap_interval(1 - np.nansum(self.samples["share"], axis=-1))}

    @functools.cached_property
    def controls(self) -> dict[str, dict[str, Array]]:
        """What to compare blocks with: per control and quantity [3, levels], the mean and the ends of a 95 % interval.

        `all_blocks`: the edit in all of them. `random_direction`: in all of them a random direction of the norm that
        the edit's own change has there. `random_blocks`: a block drawn at random; its interval holds 95 % of draws.
        """
        ones = np.ones_like(self.samples["whole_effect"])
        sets = {
            "all_blocks": {
                "effect": self.samples["whole_effect"],
                "share": ones,
                "motion": self.samples["whole_motion"],
            },
            "random_direction": {name: self.samples[f"random_{name}"] for name in PER_BLOCK},
        }
        found = {
            control: {name: np.stack([s.mean(axis=0), *bootstrap_interval(s)]) for name, s in of_control.items()}
            for control, of_control in sets.items()
        }
        return {**found, "random_blocks": {name: self.random_blocks(1, name) for name in PER_BLOCK}}

    def random_blocks(self, count: int, quantity: str = "share") -> Array:
        """Sum of the shares (mean of effect or motion) of `count` measured blocks drawn at random, [3, levels]: the
        mean of 4,000 draws, and the ends of the range that holds 95 % of them.

        Raises:
            ValueError: more blocks than were measured.
        """
        blocks = self.blocks
        if not 1 <= count <= len(blocks):
            raise ValueError(f"{count} random blocks were asked for, but {len(blocks)} were measured.")
        draws = np.random.default_rng(0).permuted(np.tile(blocks, (4000, 1)), axis=1)[:, :count]
        values = getattr(self, quantity)[:, draws]  # [levels, draws, count]
        of_draw = values.sum(axis=-1) if quantity == "share" else values.mean(axis=-1)
        return np.stack([of_draw.mean(axis=-1), *np.percentile(of_draw, [2.5, 97.5], axis=-1)])

    @property
    def rank_correlation(self) -> float:
        """Spearman's correlation of the mean effect with the change of the finished latents, over the verified blocks;
        NaN without `verify`."""
        if len(self.finished) < 2:
            return math.nan
        blocks = list(self.finished)
        ends = np.array([np.mean(self.finished[i]) for i in blocks])
        name = "share" if self.method == "integrated_gradients" else "effect"
        return rank_correlation(getattr(self, name).mean(axis=0)[blocks], ends)

    def order(self, quantity: str = "share") -> list[int]:
        """Measured blocks by the mean of a quantity over noise levels, largest first.

        Raises:
            ValueError: the quantity is none, or was not measured (integrated gradients give shares alone).
        """
        if quantity not in QUANTITIES:
            raise ValueError(f"quantity must be one of {', '.join(QUANTITIES)}, not {quantity!r}.")
        mean = getattr(self, quantity).mean(axis=0)
        if np.isnan(mean[self.blocks]).any():
            raise ValueError(f"{quantity} was not measured with method {self.method}. Use share.")
        return sorted(self.blocks, key=lambda i: (-mean[i], i))

    def top(self, count: int, quantity: str = "share", strength: float = 1.0) -> Explicit:
        """Strengths that select the `count` blocks with the largest mean of a quantity, each at `strength`.

        Raises:
            ValueError: see `order`; a count below 0; a strength outside 0..1.
        """
        if count < 0:
            raise ValueError(f"top: {count} blocks were asked for; give 0 or more.")
        check_strength(strength)
        chosen = set(self.order(quantity)[:count])
        return Explicit(tuple(strength if i in chosen else 0.0 for i in range(self.block_count)))

    def report(self, quantity: str = "share", top: int = 6) -> str:
        """A table of the blocks with the largest mean of a quantity, the controls, and what they come to."""
        from .tables import report

        return report(self, quantity, top)

    def plot(self, quantity: str = "share") -> Image.Image:
        """A heat map blocks x noise levels, with the mean over levels and its interval below."""
        from .plot import heat_map

        return heat_map(self, quantity)

    def __repr__(self) -> str:
        from .tables import summary

        return summary(self)

    def _repr_html_(self) -> str:
        return as_html(self.plot(), self.report())

    def to_plain(self) -> dict[str, Any]:
        """The map as JSON values; `from_plain` reads them."""
        return {
            "block_map": FORMAT,
            "samples": {name: _listed(np.asarray(values)) for name, values in self.samples.items()},
            "noise_levels": list(self.noise_levels),
            "seeds": list(self.seeds),
            "edit": dict(self.edit),
            "model_name": self.model_name,
            "identity": self.identity,
            "method": self.method,
            "pairs": self.pairs,
            "finished": {str(block): list(values) for block, values in self.finished.items()},
        }

    @classmethod
    def from_plain(cls, values: Any) -> BlockMap:
        """The map that `to_plain` gave.

        Raises:
            ValueError: the values are not those of a block map.
        """
        if not isinstance(values, Mapping) or values.get("block_map") != FORMAT:
            raise ValueError(f"This is no block map of format {FORMAT}. Measure it again.")
        try:
            return cls(
                samples={
                    name: np.array(_numbers(values["samples"][name]), dtype=np.float64)
                    for name in (*PER_BLOCK, *PER_CALL)
                },
                noise_levels=tuple(float(x) for x in values["noise_levels"]),
                seeds=tuple(int(x) for x in values["seeds"]),
                edit=dict(values["edit"]),
                model_name=str(values["model_name"]),
                identity=str(values["identity"]),
                method=str(values["method"]),
                pairs=int(values["pairs"]),
                finished={int(block): tuple(map(float, v)) for block, v in values["finished"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"The values of this block map are damaged: {error}. Measure it again.") from error


def as_html(picture: Image.Image, text: str) -> str:
    """For notebooks."""
    held = io.BytesIO()
    picture.save(held, "PNG")
    encoded = base64.b64encode(held.getvalue()).decode()
    return f'<img src="data:image/png;base64,{encoded}"><pre>{html.escape(text)}</pre>'


def _listed(values: Array) -> Any:
    """Nested lists with None for NaN, which JSON does not have."""
    if values.ndim:
        return [_listed(part) for part in values]
    return None if math.isnan(values) else float(values)


def _numbers(values: Any) -> Any:
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [_numbers(part) for part in values]
    return math.nan if values is None else float(values)


def check_map(value: Any, name: str) -> BlockMap:
    """The value of a BLOCK_MAP input.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, BlockMap):
        raise TypeError(f"{name}: expected BLOCK_MAP from WanVideo Block Map, got {type(value).__name__}.")
    return value
