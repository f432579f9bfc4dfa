"""Nodes that choose blocks and strengths, and nodes that show them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..patching.plot import as_comfy_image, bar_plot
from ..patching.strengths import DEFAULT_BLOCK_COUNT, PATTERNS, PRESETS, Explicit, Pattern, as_block_strengths
from ..patching.views import bar_chart, strength_summary
from .sockets import CATEGORY, BlockStrengthsType, errors_named, schema

BLOCKS = range(DEFAULT_BLOCK_COUNT)


class WanVideoBlockActivationBuilder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WanVideoBlockActivationBuilder",
            display_name="WanVideo Block Activation Builder",
            category=f"{CATEGORY}/Blocks",
            description="Chooses blocks by preset, or one by one with the preset custom.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=["custom", *PRESETS],
                    default="custom",
                    tooltip="A named preset fits models of any block count and wins over the switches below.",
                ),
                *(
                    io.Boolean.Input(
                        f"block_{i}",
                        default=False,
                        optional=True,
                        tooltip=f"Edit block {i}, when the preset is custom.",
                    )
                    for i in BLOCKS
                ),
            ],
            outputs=[io.String.Output(id="block_activations", display_name="block_activations")],
        )

    @classmethod
    def execute(cls, preset: str, **toggles: bool | None) -> io.NodeOutput:
        if preset != "custom":
            return io.NodeOutput(preset)
        return io.NodeOutput("".join("1" if toggles.get(f"block_{i}") else "0" for i in BLOCKS))


class WanVideoBlockStrengthBuilder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WanVideoBlockStrengthBuilder",
            display_name="WanVideo Block Strength Builder",
            category=f"{CATEGORY}/Blocks",
            description="Gives every block its own strength, by a curve or one by one with the pattern custom.",
            inputs=[
                io.Combo.Input(
                    "pattern",
                    options=["custom", *PATTERNS],
                    default="custom",
                    tooltip="A named curve fits models of any block count and wins over the block strengths below.",
                ),
                io.Float.Input(
                    "base_strength",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Strength at the top of the curve.",
                ),
                io.Int.Input(
                    "peak_block", default=20, min=0, max=39, optional=True, tooltip="Centre of the Gaussian curves."
                ),
                io.Float.Input(
                    "spread",
                    default=5.0,
                    min=0.5,
                    max=20.0,
                    step=0.1,
                    optional=True,
                    tooltip="Standard deviation of the Gaussian curves, in blocks.",
                ),
                io.Int.Input(
                    "step_size",
                    default=5,
                    min=1,
                    max=20,
                    optional=True,
                    tooltip="Run length of the stepped curve, in blocks.",
                ),
                *(
                    io.Float.Input(
                        f"block_{i}_strength",
                        default=0.0,
                        min=0.0,
                        max=1.0,
                        step=0.01,
                        optional=True,
                        tooltip=f"Strength of block {i}, when the pattern is custom.",
                    )
                    for i in BLOCKS
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    optional=True,
                    control_after_generate=False,
                    tooltip="Seed of the random curve.",
                ),
            ],
            outputs=[
                BlockStrengthsType.Output(id="block_strengths", display_name="block_strengths"),
                io.String.Output(id="strength_visualization", display_name="strength_visualization"),
            ],
        )

    @classmethod
    def execute(
        cls,
        pattern: str,
        base_strength: float,
        peak_block: int = 20,
        spread: float = 5.0,
        step_size: int = 5,
        seed: int = 0,
        **strengths: float | None,
    ) -> io.NodeOutput:
        with errors_named("WanVideo Block Strength Builder"):
            built = (
                Explicit(tuple(strengths.get(f"block_{i}_strength") or 0.0 for i in BLOCKS))
                if pattern == "custom"
                else Pattern(pattern, base_strength, peak_block, spread, step_size, seed)
            )
        return io.NodeOutput(built, bar_chart(built.resolve(DEFAULT_BLOCK_COUNT)))


class WanVideoStrengthVisualizer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WanVideoStrengthVisualizer",
            display_name="WanVideo Strength Visualizer",
            category=f"{CATEGORY}/Blocks",
            description="Draws block strengths as a chart, in text and as an image.",
            is_output_node=True,
            inputs=[
                BlockStrengthsType.Input("block_strengths", tooltip="From WanVideo Block Strength Builder."),
                io.Boolean.Input("show_numbers", default=True, tooltip="Write the strength of every block."),
                io.Int.Input("graph_height", default=10, min=5, max=20, tooltip="Lines of the text chart."),
                io.Int.Input(
                    "block_count",
                    default=DEFAULT_BLOCK_COUNT,
                    min=1,
                    max=100,
                    optional=True,
                    tooltip="Blocks of the model that the curve is drawn for: 30 for 1.3B and 5B, 40 for 14B.",
                ),
            ],
            outputs=[
                io.String.Output(id="text_visualization", display_name="text_visualization"),
                io.Image.Output(id="graph_image", display_name="graph_image"),
            ],
        )

    @classmethod
    def execute(
        cls, block_strengths: Any, show_numbers: bool, graph_height: int, block_count: int = DEFAULT_BLOCK_COUNT
    ) -> io.NodeOutput:
        with errors_named("WanVideo Strength Visualizer"):
            strengths = as_block_strengths(block_strengths).resolve(block_count)
        image = as_comfy_image(bar_plot(strengths, strength_summary(strengths), show_numbers))
        chart = bar_chart(strengths, graph_height, show_numbers)
        return io.NodeOutput(chart, image, ui=ui.PreviewImage(image, cls=cls))


NODES = [WanVideoBlockActivationBuilder, WanVideoBlockStrengthBuilder, WanVideoStrengthVisualizer]
