"""Sizes of a video, in pixels, latents and tokens."""

from __future__ import annotations

from dataclasses import dataclass

Grid = tuple[int, int, int]
"""Extent along frames, height and width, in tokens or latents."""


def format_grid(grid: Grid) -> str:
    """`21 x 30 x 52 (frames x height x width)`."""
    return " x ".join(map(str, grid)) + " (frames x height x width)"


CHANNELS_5B = 48
"""Of the latents of Wan 2.2 5B."""


@dataclass(frozen=True)
class Size:
    """Of a video: width and height in pixels, and frames. Defaults are Wan's 480p at 81 frames."""

    width: int = 832
    height: int = 480
    frames: int = 81

    def latent(self, channels: int) -> Grid:
        """Frames, height and width of its latents; the VAE compresses 4 frames into one, after the first.

        Args:
            channels: of the latents; a VAE of 48 compresses 16 pixels into one, others 8.
        """
        downscale = 16 if channels == CHANNELS_5B else 8
        return (self.frames - 1) // 4 + 1, self.height // downscale, self.width // downscale
