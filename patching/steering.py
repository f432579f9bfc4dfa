"""Operations along the directions of a concept (concepts.py).

Each has a signed `amount`, which multiplies the strengths per block; at 0 the tensor stays as it is, bit for bit. They
compute in float32 and round once, at the end. s below is amount times strength, u the concept's unit direction, x a
token, <x, u> its projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch

from .concepts import Concept, Reading, unpack
from .operations import OPERATIONS, Operation
from .sources import SOURCES, Gives
from .strengths import is_within
from .wan_model import WanModel

Unit = Literal["relative", "absolute"]
LIMIT = 100.0


@dataclass(frozen=True)
class Steering:
    """What the operations share.

    Args:
        amount: signed factor of the strengths.

    Raises:
        ValueError: it is not a finite number of at most 100 in size.
    """

    amount: float = 1.0

    takes: ClassVar[Gives] = "concept"
    name: ClassVar[str] = ""
    directions: ClassVar[int | None] = 1  # that it needs; None for any number
    needs_transport: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not is_within(self.amount, -LIMIT, LIMIT):
            raise ValueError(f"{self.name}: the strength must be a number of at most {LIMIT:g}, not {self.amount!r}.")
        object.__setattr__(self, "amount", float(self.amount))  # of a tensor or array of one number

    def check_source(self, source: Any) -> None:
        """Raise ValueError unless the concept has what the operation reads."""
        concept: Concept = source if isinstance(source, Concept) else source.concept
        if self.directions is not None and concept.count != self.directions:
            raise ValueError(
                f"The operation {self.name} needs {self.directions} direction{'s' * (self.directions > 1)}, but "
                f"{concept.title} has {concept.count}."
            )
        if self.needs_transport and not concept.has_transport:
            raise ValueError(f"{concept.title} was fitted without a transport. Fit it with method transport.")

    def __call__(self, x: torch.Tensor, value: torch.Tensor, strength: float) -> torch.Tensor:
        s = self.amount * strength
        return x if s == 0.0 else self.change(x.float(), unpack(value), s).to(x.dtype)

    def change(self, x: torch.Tensor, at: Reading, s: float) -> torch.Tensor:
        """x after the operation, both float32 [rows, tokens, channels]."""
        raise NotImplementedError


@dataclass(frozen=True)
class AddVector(Steering):
    """x + s rho u.

    Source: activation addition (Turner et al. 2023), CASteer (2503.09630).

    Args:
        unit: what s counts in: `relative`, rho is the mean norm of a token at the block and noise level where the
            concept was fitted; `absolute`, rho is 1.
    """

    unit: Unit = "relative"

    name: ClassVar[str] = "add"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, not {self.unit!r}.")

    def change(self, x: torch.Tensor, at: Reading, s: float) -> torch.Tensor:
        direction = at.directions[0] * (s * at.scale if self.unit == "relative" else s)
        return x + direction


@dataclass(frozen=True)
class Ablate(Steering):
    """x - s q u with q = <x, u> - n: at s = 1 the concept is at its neutral level n, that of the negative prompts.

    With several directions each is ablated. Source: CASteer (2503.09630), with the neutral level in place of 0.

    Args:
        one_sided: leave tokens below the neutral level as they are (q is at least 0).
        to_zero: n is 0.
    """

    one_sided: bool = True
    to_zero: bool = False

    name: ClassVar[str] = "ablate"
    directions: ClassVar[int | None] = None

    def change(self, x: torch.Tensor, at: Reading, s: float) -> torch.Tensor:
        excess = x @ at.directions.T - (0.0 if self.to_zero else at.neutral)
        return x - s * (excess.clamp_min(0.0) if self.one_sided else excess) @ at.directions


@dataclass(frozen=True)
class SetPoint(Steering):
    """Sets <x, u> to a level between neutral n and positive p.

    For s up to 1 in size, |s| is how much of the way to p, or for s < 0 to its mirror image 2 n - p, a token
    goes; beyond, every token is set to n + s (p - n).
    """

    name: ClassVar[str] = "set_point"
    directions: ClassVar[int | None] = None

    def change(self, x: torch.Tensor, at: Reading, s: float) -> torch.Tensor:
        level = at.neutral + math.copysign(max(abs(s), 1.0), s) * (at.positive - at.neutral)
        return x + min(abs(s), 1.0) * (level - x @ at.directions.T) @ at.directions


@dataclass(frozen=True)
class Rotate(Steering):
    """Turns each token towards u by s times an angle, at most onto it (away from it for s < 0), and scales its norm.

    A token of norm 0, or parallel to u, has no plane to turn in and keeps its direction. Source: 2606.06735.

    Args:
        angle: in degrees, 0 to 180.
        radius: factor of the norm at |s| of 1 and beyond; 1 keeps it.
    """

    angle: float = 20.0
    radius: float = 1.0

    name: ClassVar[str] = "rotate"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_within(self.angle, 0.0, 180.0):
            raise ValueError(f"angle must lie in 0 to 180 degrees, not {self.angle!r}.")
        if not is_within(self.radius, 0.0, 10.0) or self.radius == 0.0:
            raise ValueError(f"radius must be above 0 and at most 10, not {self.radius!r}.")

    def change(self, x: torch.Tensor, at: Reading, s: float) -> torch.Tensor:
        u = at.directions[0]
        along = (x @ u)[..., None]
        rest = torch.addcmul(x, along, u, value=-1.0)
        across = torch.linalg.vector_norm(rest, dim=-1, keepdim=True)
        norm = torch.hypot(along, across)
        # Two angles: arccos of a cosine near 1 would lose half of the digits.
        now = torch.atan2(across, along)
        then = (now - s * math.radians(self.angle)).clamp(0.0, math.pi)
        turns = across > 1e-6 * norm
        radius = 1.0 + min(abs(s), 1.0) * (self.radius - 1.0)
        rest_factor = radius * torch.where(turns, norm * torch.sin(then) / across.clamp_min(1e-30), 1.0)
        return torch.addcmul(rest_factor * rest, radius * torch.where(turns, norm * torch.cos(then), along), u)


@dataclass(frozen=True)
class Transport(Steering):
    """x + s ((a - 1) x + b), channel by channel: at s = 1 tokens have the positive prompts' means and spreads.

    Source: AcT (2410.23054), with the map between two Gaussians.
    """

    name: ClassVar[str] = "transport"
    directions: ClassVar[int | None] = None
    needs_transport: ClassVar[bool] = True

    def change(self, x: torch.Tensor, at: Reading, s: float) -> torch.Tensor:
        return x + s * ((at.transport_scale - 1.0) * x + at.transport_shift)


@dataclass(frozen=True)
class Turn(Steering):
    """Rotates the plane of two directions, from the first to the second, by s times an angle.

    What lies outside of the plane, and every norm, stays; -s undoes it.

    Args:
        angle: in degrees, -180 to 180; None for the angle between the two, which turns the first onto the second.
    """

    angle: float | None = None

    name: ClassVar[str] = "turn"
    directions: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.angle is not None and not is_within(self.angle, -180.0, 180.0):
            raise ValueError(f"angle must lie in -180 to 180 degrees, not {self.angle!r}.")

    def change(self, x: torch.Tensor, at: Reading, s: float) -> torch.Tensor:
        first, second = torch.nn.functional.normalize(at.directions[0], dim=-1), at.directions[1]
        along = first @ second
        rest = second - along * first
        across: torch.Tensor = torch.linalg.vector_norm(rest)
        other = rest / across.clamp_min(1e-30)
        angle = torch.atan2(across, along) if self.angle is None else torch.full_like(along, math.radians(self.angle))
        angle = angle * (across > 1e-6)  # parallel ones span no plane
        cosine, sine = torch.cos(s * angle), torch.sin(s * angle)
        one, two = (x @ first)[..., None], (x @ other)[..., None]
        return x + (cosine - 1.0) * (one * first + two * other) + sine * (one * other - two * first)


STEERING: dict[str, type[Steering]] = {cls.name: cls for cls in (AddVector, Ablate, SetPoint, Rotate, Transport, Turn)}
"""Operations by the names that people use."""

OPERATIONS.update({cls.__name__: cls for cls in (AddVector, Ablate, SetPoint, Rotate, Transport, Turn)})


@dataclass(frozen=True, eq=False)
class ChangedText:
    """The main prompt with its text embeddings changed along a concept, before the model projects them.

    Its value is what the block would read with that prompt; so it is blended in, by block.

    Args:
        concept: directions in the space of the text embeddings; of site `context`, one block and one level.
        operation: what is done with the embeddings of the prompt's tokens. Padding is left alone.
    """

    concept: Concept
    operation: Operation

    gives: ClassVar[Gives] = "state"
    sites: ClassVar[tuple[str, ...]] = ("context",)
    title: ClassVar[str] = "a control vector of the text"

    def __post_init__(self) -> None:
        if self.concept.site != "context":
            raise ValueError(f"{self.concept.title} is of site {self.concept.site}, not of the text.")
        if not isinstance(self.operation, Steering):
            raise ValueError(f"The operation {self.operation.name} does not act along a control vector.")
        self.operation.check_source(self.concept)

    def check(self, model: WanModel, site: str, edit: str) -> None:
        if self.concept.width != model.text_width:
            raise ValueError(
                f"{edit}: {self.concept.title} is {self.concept.width} wide, but {model.name} projects text of width "
                f"{model.text_width}. Fit it with the text encoder that belongs to this model (UMT5-XXL)."
            )

    def describe(self) -> dict[str, Any]:
        return {**self.concept.describe(), "operation": self.operation.name}

    def change_text(self, text: torch.Tensor) -> torch.Tensor:
        """Text embeddings [rows, tokens, width] with those of tokens, which are not 0, changed."""
        packed = self.concept.at(self.concept.tensor(0).to(text.device), 1.0)
        changed = self.operation(text, packed, 1.0)
        return torch.where((text != 0).any(dim=-1, keepdim=True), changed, text)


SOURCES["ChangedText"] = ChangedText
