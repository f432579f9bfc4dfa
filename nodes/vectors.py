"""Nodes for embedding arithmetic: differences, sums, interpolation."""

from __future__ import annotations

import functools
from typing import Any

from comfy_api.latest import io

from ..embeddings.arithmetic import ARITHMETIC_OPERATIONS, combine, difference_vector
from ..embeddings.interpolation import METHODS, interpolate, positions
from ..embeddings.promptwise import promptwise, read_truncated, title, write_text_embeds
from ..embeddings.sequence import read_sequence, write_sequence
from .recording import recorded
from .sockets import CATEGORY, embeds_input, embeds_template, errors_named, operand_inputs, schema, store_in_db_input

FAMILY = f"{CATEGORY}/Embeddings"


class WanVideoVectorDifference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        return schema(
            node_id="WanVideoVectorDifference",
            display_name="WanVideo Vector Difference",
            category=FAMILY,
            description="The direction from prompt B to prompt A: scale * (A - B), token by token.",
            inputs=[
                io.MatchType.Input(
                    "text_embeds_a", template=embeds, tooltip="Prompt A. The result keeps its other data."
                ),
                embeds_input("text_embeds_b", "Prompt B, subtracted from A. Shorter prompts are padded with zeros."),
                io.Boolean.Input("normalize", default=False, tooltip="Give every token of A - B unit length (L2)."),
                io.Float.Input(
                    "scale", default=1.0, min=-10.0, max=10.0, step=0.01, tooltip="Factor on the result; -1 is B - A."
                ),
                store_in_db_input(),
            ],
            outputs=[io.MatchType.Output(template=embeds, id="difference_vector", display_name="difference_vector")],
        )

    @classmethod
    def execute(
        cls, text_embeds_a: Any, text_embeds_b: Any, normalize: bool, scale: float, store_in_db: bool = True
    ) -> io.NodeOutput:
        settings = {"normalize": normalize, "scale": scale}
        with (
            errors_named("WanVideo Vector Difference"),
            recorded("difference", "WanVideoVectorDifference", store_in_db, **settings) as record,
        ):
            a = read_truncated(text_embeds_a, "text_embeds_a")
            b = read_truncated(text_embeds_b, "text_embeds_b")
            function = functools.partial(difference_vector, normalize=normalize, scale=scale)
            prompts = promptwise(function, {"text_embeds_a": a, "text_embeds_b": b})
            text = f"{title(a, 'text_embeds_a')} - {title(b, 'text_embeds_b')}"
            if normalize or scale != 1.0:
                text = f"{f'{scale:g} * ' if scale != 1.0 else ''}{'unit' if normalize else ''}({text})"
            result = write_text_embeds(text_embeds_a, prompts, text)
            record.input("text_embeds_a", text_embeds_a)
            record.input("text_embeds_b", text_embeds_b, weight=-1.0)
            record.result(result, text)
            return io.NodeOutput(result)


class WanVideoVectorArithmetic(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        operands = operand_inputs(embeds_input, ": a prompt or a difference of prompts.")
        return schema(
            node_id="WanVideoVectorArithmetic",
            display_name="WanVideo Vector Arithmetic",
            category=FAMILY,
            description="Combines up to four prompts token by token.",
            inputs=[
                io.MatchType.Input("base_embeds", template=embeds, tooltip="The result keeps the base's other data."),
                io.Combo.Input(
                    "operation",
                    options=list(ARITHMETIC_OPERATIONS),
                    default="add",
                    tooltip="add: base + weight * operand. weighted_sum: that, divided by 1 + the weights' magnitudes. "
                    "multiply: element by element. normalize: the sum, with tokens of unit length.",
                ),
                *operands,
                store_in_db_input(),
            ],
            outputs=[io.MatchType.Output(template=embeds, id="result_embeds", display_name="result_embeds")],
        )

    @classmethod
    def execute(
        cls,
        base_embeds: Any,
        operation: str,
        operand_1: Any = None,
        weight_1: float = 1.0,
        operand_2: Any = None,
        weight_2: float = 1.0,
        operand_3: Any = None,
        weight_3: float = 1.0,
        store_in_db: bool = True,
    ) -> io.NodeOutput:
        with (
            errors_named("WanVideo Vector Arithmetic"),
            recorded("arithmetic", "WanVideoVectorArithmetic", store_in_db, operation=operation) as record,
        ):
            given = {"operand_1": (operand_1, weight_1), "operand_2": (operand_2, weight_2)}
            given["operand_3"] = (operand_3, weight_3)
            connected = {name: pair for name, pair in given.items() if pair[0] is not None}
            inputs = {"base_embeds": read_truncated(base_embeds, "base_embeds")}
            for name, (value, _) in connected.items():
                inputs[name] = read_truncated(value, name)
            weights = [weight for _, weight in connected.values()]
            prompts = promptwise(lambda base, *rest: combine(operation, base, rest, weights), inputs)  # type: ignore[arg-type]
            text = _formula(operation, [title(e, name) for name, e in inputs.items()], weights)
            result = write_text_embeds(base_embeds, prompts, text)
            record.input("base_embeds", base_embeds)
            for name, (value, weight) in connected.items():
                record.input(name, value, weight)
            record.result(result, text)
            return io.NodeOutput(result)


def _formula(operation: str, names: list[str], weights: list[float]) -> str:
    factors = [name if abs(w) == 1.0 else f"{abs(w):g} * {name}" for name, w in zip(names[1:], weights, strict=True)]
    if operation == "multiply":
        return " x ".join([names[0], *(f"-{f}" if w < 0 else f for f, w in zip(factors, weights, strict=True))])
    total = names[0] + "".join(f" {'-' if w < 0 else '+'} {f}" for f, w in zip(factors, weights, strict=True))
    if operation == "weighted_sum":
        return f"({total}) / {1 + sum(map(abs, weights)):g}"
    return f"unit({total})" if operation == "normalize" else total


class WanVideoVectorInterpolation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        return schema(
            node_id="WanVideoVectorInterpolation",
            display_name="WanVideo Vector Interpolation (slerp)",
            category=FAMILY,
            description="Steps from one prompt to another. The wrapper's samplers play them over the frames; "
            "with CONDITIONING they follow one another over sampling.",
            inputs=[
                io.MatchType.Input("start_embeds", template=embeds, tooltip="The first prompt."),
                embeds_input("end_embeds", "The last prompt."),
                io.Int.Input("steps", default=5, min=2, max=20, tooltip="Number of prompts in the sequence."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="linear",
                    tooltip="linear: along the line. spherical: along the arc, token by token. "
                    "cubic: along the line, slow at both ends.",
                ),
                io.Boolean.Input(
                    "include_endpoints",
                    default=True,
                    tooltip="On: the first and last step are the two prompts. Off: all steps lie between them.",
                ),
                store_in_db_input(),
            ],
            outputs=[
                io.MatchType.Output(template=embeds, id="interpolated_sequence", display_name="interpolated_sequence")
            ],
        )

    @classmethod
    def execute(
        cls,
        start_embeds: Any,
        end_embeds: Any,
        steps: int,
        method: str,
        include_endpoints: bool,
        store_in_db: bool = True,
    ) -> io.NodeOutput:
        settings = {"steps": steps, "method": method, "include_endpoints": include_endpoints}
        with (
            errors_named("WanVideo Vector Interpolation"),
            recorded("interpolation", "WanVideoVectorInterpolation", store_in_db, **settings) as record,
        ):
            start = read_truncated(start_embeds, "start_embeds")
            end = read_truncated(end_embeds, "end_embeds")
            sequences: list[Any] = []  # one per prompt

            def collect(a: Any, b: Any) -> Any:
                sequences.append(interpolate(a, b, steps, method, include_endpoints))  # type: ignore[arg-type]
                return a

            promptwise(collect, {"start_embeds": start, "end_embeds": end})
            names = title(start, "start_embeds"), title(end, "end_embeds")
            texts = [f"{method}({names[0]}, {names[1]}, {t:.3g})" for t in positions(steps, include_endpoints)]
            whole = f"{names[0]} to {names[1]} in {steps} steps ({method})"
            result = write_sequence(start_embeds, list(zip(*sequences, strict=True)), texts, whole)
            record.input("start_embeds", start_embeds)
            record.input("end_embeds", end_embeds)
            record.result(result, whole)
            return io.NodeOutput(result)


class WanVideoSequenceSelect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        return schema(
            node_id="WanVideoSequenceSelect",
            display_name="WanVideo Sequence Select",
            category=FAMILY,
            description="One step of a sequence, and all steps as a list that runs the following nodes once per step.",
            inputs=[
                io.MatchType.Input("sequence", template=embeds, tooltip="Output of WanVideo Vector Interpolation."),
                io.Int.Input("step", default=0, min=0, max=19, tooltip="Number of the step; the first is 0."),
            ],
            outputs=[
                io.MatchType.Output(template=embeds, id="text_embeds", display_name="text_embeds"),
                io.MatchType.Output(template=embeds, id="all_steps", display_name="all_steps", is_output_list=True),
            ],
        )

    @classmethod
    def execute(cls, sequence: Any, step: int) -> io.NodeOutput:
        with errors_named("WanVideo Sequence Select"):
            steps = read_sequence(sequence)
            if not 0 <= step < len(steps):
                raise ValueError(f"step is {step}, but the sequence has {len(steps)} steps (0 to {len(steps) - 1}).")
            return io.NodeOutput(steps[step], steps)


NODES = [WanVideoVectorDifference, WanVideoVectorArithmetic, WanVideoVectorInterpolation, WanVideoSequenceSelect]
