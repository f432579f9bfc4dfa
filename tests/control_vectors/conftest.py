"""Control vectors with chosen values."""

from __future__ import annotations

import pytest
import torch
from wanvideo_activation_editor.vectors import ControlVector


def make_vector(seed=0, blocks=(1, 3), levels=(0.2, 0.8), width=32, k=1, transport=True, **more) -> ControlVector:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    b, n = len(blocks), len(levels)
    return ControlVector(
        site=more.pop("site", "attention"),
        blocks=blocks,
        levels=levels,
        directions=torch.linalg.qr(draw(b, n, width, k)).Q.transpose(-1, -2).contiguous(),
        scale=draw(b, n).abs() + 0.5,
        neutral=draw(b, n, k),
        positive=draw(b, n, k),
        separability=torch.rand(b, generator=generator),
        transport_scale=draw(b, n, width).exp() if transport else None,
        transport_shift=draw(b, n, width) if transport else None,
        block_count=more.pop("block_count", 4),
        **{"model_name": "tiny", "identity": "diffusers:1", "origin": f"seed {seed}", **more},
    )


@pytest.fixture
def vector() -> ControlVector:
    return make_vector()
