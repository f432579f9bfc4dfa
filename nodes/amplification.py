"""WanVideo Embedding Amplifier."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..embeddings.amplification import AMPLIFICATION_MODES, METRICS, Amplified, amplify
from ..embeddings.difference import mean_difference
from ..embeddings.promptwise import promptwise, read_truncated, title, write_text_embeds
from .recording import recorded
from .shown import difference_table, told_tables
from .sockets import CATEGORY, embeds_input, embeds_template, errors_named, shown_schema, store_in_db_input


class WanVideoEmbeddingAmplifier(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        return shown_schema(
            node_id="WanVideoEmbeddingAmplifier",
            display_name="WanVideo Embedding Amplifier",
            category=f"{CATEGORY}/Embeddings",
            description="Moves the injected prompt until it differs from the main prompt by the target, "
            "with the norms of its tokens kept.",
            inputs=[
                embeds_input("main_embeds", "The main prompt, from which the injection shall differ."),
                io.MatchType.Input("injection_embeds", template=embeds, tooltip="The prompt that is moved."),
                io.Float.Input(
                    "target_difference",
                    default=60.0,
                    min=30.0,
                    max=90.0,
                    step=0.5,
                    tooltip="Difference from the main prompt, in percent of the metric, over real tokens.",
                ),
                io.Combo.Input(
                    "amplification_mode",
                    options=list(AMPLIFICATION_MODES),
                    default="push_apart",
                    tooltip="push_apart: along injection - main. maximize_diff: only in the 30% of dimensions where "
                    "that varies most. orthogonalize: along the part that is orthogonal to main.",
                ),
                io.Combo.Input(
                    "metric",
                    options=list(METRICS),
                    default="changed_share",
                    optional=True,
                    tooltip="changed_share: elements that differ by more than 0.01. relative_l2: norm of the "
                    "difference over the norm of main. cosine: 100 * (1 - mean token cosine).",
                ),
                store_in_db_input(),
            ],
            outputs=[
                io.MatchType.Output(template=embeds, id="amplified_injection", display_name="amplified_injection"),
                io.String.Output(id="info", display_name="info"),
            ],
        )

    @classmethod
    def execute(
        cls,
        main_embeds: Any,
        injection_embeds: Any,
        target_difference: float,
        amplification_mode: str,
        metric: str = "changed_share",
        store_in_db: bool = True,
    ) -> io.NodeOutput:
        settings = {"target_difference": target_difference, "mode": amplification_mode, "metric": metric}
        with (
            errors_named("WanVideo Embedding Amplifier"),
            recorded("amplification", "WanVideoEmbeddingAmplifier", store_in_db, **settings) as record,
        ):
            main = read_truncated(main_embeds, "main_embeds")
            injection = read_truncated(injection_embeds, "injection_embeds")
            results: list[Amplified] = []

            def amplified(inner: Any, outer: Any) -> Any:
                results.append(amplify(outer, inner, target_difference, amplification_mode, metric))  # type: ignore[arg-type]
                return results[-1].embedding

            prompts = promptwise(amplified, {"injection_embeds": injection, "main_embeds": main})
            lines = [f"Target {target_difference:g}% ({metric}), {amplification_mode}"]
            lines += [_line(i, r, len(results), target_difference) for i, r in enumerate(results, 1)]
            before = mean_difference(main.detached().prompts, injection.detached().prompts)
            after = mean_difference(main.detached().prompts, [p.cpu() for p in prompts])
            told = told_tables(difference_table(lines[0], [("before", before), ("after", after)]))
            lines += [f"Before: {before}", f"After: {after}"]
            record.input("main_embeds", main_embeds)
            record.input("injection_embeds", injection_embeds)
            if all(r.scale is None for r in results):
                record.result(injection_embeds)
                return io.NodeOutput(injection_embeds, "\n".join(lines), ui=told)
            text = f"{title(injection, 'injection_embeds')}, {amplification_mode} to {target_difference:g}% ({metric})"
            result = write_text_embeds(injection_embeds, prompts, text)
            record.result(result, text)
            return io.NodeOutput(result, "\n".join(lines), ui=told)


def _line(number: int, result: Amplified, count: int, target: float) -> str:
    prompt = f"Prompt {number}: " if count > 1 else ""
    if result.scale is None:
        return f"{prompt}already at the target ({result.before:.2f}%), returned unchanged"
    moved = "moved towards the main prompt" if result.before > target else "moved away from the main prompt"
    return f"{prompt}{result.before:.2f}% before, {result.after:.2f}% after, {moved}, scale {result.scale:.4g}"


NODES = [WanVideoEmbeddingAmplifier]
