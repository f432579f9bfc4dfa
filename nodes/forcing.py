"""Nodes that act after the model's text projection: the booster and the direct injector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io

from ..embeddings.difference import mean_difference
from ..embeddings.text_embeds import MAX_TOKENS, TextEmbeds, pad_tokens, read_text_embeds
from ..patching.checks import check_prompt_count
from ..patching.edit import Window, stack_of
from ..patching.hosts import host_of
from ..patching.projection import project_text
from ..patching.sources import check_width
from ..patching.transforms import FORCE_MODES, Boost, ForceDifference
from .editor import add_edit, choose_blocks
from .shown import model_told
from .sockets import (
    CATEGORY,
    activations_input,
    block_strengths_input,
    check_texts,
    compared_prompts,
    embeds_input,
    errors_named,
    node_label,
    passed_on_sockets,
    shown_schema,
    transformer_options,
    window_and_branch_inputs,
    with_description,
)
from .store_values import fingerprint_of, stored_under

FAMILY = f"{CATEGORY}/Injection"


class WanVideoProjectionBooster(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return shown_schema(
            node_id="WanVideoProjectionBooster",
            display_name="WanVideo Projection Booster",
            category=FAMILY,
            description="Amplifies what every context edit of this model injects, after the model's text projection: "
            "main + boost_factor * (injection - main). Works before or after the editors.",
            inputs=[
                *passed_on.inputs,
                embeds_input("injection_embeds", "The prompt that an editor injects; its difference is reported."),
                io.Float.Input(
                    "boost_factor",
                    default=10.0,
                    min=1.0,
                    max=50.0,
                    step=0.1,
                    tooltip="Factor on the difference from the main prompt. 1 changes nothing.",
                ),
                io.Boolean.Input(
                    "preserve_norm",
                    default=True,
                    tooltip="Scale each token back to the norm of the injected one, so that only its direction moves.",
                ),
            ],
            outputs=[
                *passed_on.outputs,
                io.String.Output(id="info", display_name="info"),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, text_embeds: Any, injection_embeds: Any, boost_factor: float, preserve_norm: bool
    ) -> io.NodeOutput:
        with errors_named("WanVideo Projection Booster"):
            host = host_of(model)
            main, injection = _read_pair(model, text_embeds, injection_embeds)
            boost = Boost(boost_factor, preserve_norm)
            if boost_factor == 1.0:
                return io.NodeOutput(model, text_embeds, "A boost of 1 changes nothing: the model is passed on.")
            stack = stack_of(transformer_options(model)).transform(boost)
            count = sum(edit.site == "context" for edit in stack)
            lines = [
                f"{boost.name[0].upper()}{boost.name[1:]}: applies to every context edit of this model, "
                f"{count} so far" + ("" if count else "; an editor has to follow"),
                *_before_and_after(main, injection, boost, host.projection_weights(model)),
            ]
            edited, report = host.with_stack(model, stack), "\n".join(lines)
            return io.NodeOutput(edited, with_description(text_embeds, stack), report, ui={"text": (report,)})


def _read_pair(model: Any, text_embeds: Any, injection_embeds: Any) -> tuple[TextEmbeds, TextEmbeds]:
    """Main and injected prompts on the CPU, of the width that the model reads."""
    host = host_of(model)
    wan_model = host.wan_model(model)
    host.check_embeds(text_embeds)
    main = read_text_embeds(text_embeds, "text_embeds", host.MAX_PROMPT_TOKENS).detached()
    injection = read_text_embeds(
        injection_embeds, "injection_embeds", max((MAX_TOKENS, *main.given_lengths))
    ).detached()
    check_width(main, wan_model, "text_embeds is")
    check_width(injection, wan_model, "injection_embeds is")
    injected, prompts = len(injection.prompts), len(main.prompts)
    check_prompt_count(injected, prompts, f"injection_embeds has {injected} prompts, text_embeds {prompts}")
    return main, injection


def _before_and_after(
    main: TextEmbeds, injection: TextEmbeds, boost: Boost, weights: Mapping[str, torch.Tensor] | None
) -> list[str]:
    inner = _repeated(injection.prompts, len(main.prompts))
    lines = [f"Before projection: {mean_difference(main.prompts, inner)}"]
    if weights is None:
        return [
            *lines,
            "After projection: the weights can be read only while sampling (GGUF or scaled fp8); "
            "the log reports the figures at the first sampled step.",
        ]
    a, b, boosted = [], [], []
    for prompt, injected in zip(main.prompts, inner, strict=True):
        length = max(len(prompt), len(injected))
        x, y = (project_text(pad_tokens(p, length), weights) for p in (prompt, injected))
        a.append(x)
        b.append(y)
        boosted.append(boost(x, y, torch.ones(length, 1, dtype=torch.bool)))
    return [
        *lines,
        f"After projection: {mean_difference(a, b)}",
        f"After projection, boosted: {mean_difference(a, boosted)}",
    ]


def _repeated(prompts: tuple[torch.Tensor, ...], count: int) -> list[torch.Tensor]:
    """As many prompts as the main input has, each in the place where the runtime injects it."""
    return [prompts[i * len(prompts) // count] for i in range(count)]


def _check_different(main: tuple[torch.Tensor, ...], injection: tuple[torch.Tensor, ...], branch: str) -> None:
    """Raise ValueError where a prompt of this branch is the one that is injected into it."""
    for number, (prompt, injected) in enumerate(zip(main, _repeated(injection, len(main)), strict=True), 1):
        if mean_difference([prompt], [injected]).relative_l2 == 0:
            which = ", negative prompt" if branch == "uncond" else f", prompt {number}" if len(main) > 1 else ""
            raise ValueError(
                f"text_embeds and injection_embeds are identical{which}: there is no direction to move in. "
                "Inject a prompt that differs."
            )


class WanVideoDirectInjector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return shown_schema(
            node_id="WanVideoDirectInjector",
            display_name="WanVideo Direct Injector",
            category=FAMILY,
            description="Injects a prompt so that the text which the chosen blocks read differs from the main one by "
            "the target, measured after the model's text projection.",
            inputs=[
                *passed_on.inputs,
                io.String.Input(
                    "injection_prompt",
                    default="",
                    multiline=True,
                    tooltip="Name or text of a stored embedding; used when injection_embeds is not connected.",
                ),
                io.Float.Input(
                    "difference_target",
                    default=50.0,
                    min=10.0,
                    max=90.0,
                    step=0.5,
                    tooltip="Elements of real tokens that differ from the main prompt by more than 0.01, in percent.",
                ),
                io.Combo.Input(
                    "injection_mode",
                    options=list(FORCE_MODES),
                    default="blend",
                    tooltip="additive: main plus an equal step per token towards the injection. replace: the "
                    "injection, moved on by an equal step per token. blend: the mix of both that gives the target.",
                ),
                activations_input(),
                embeds_input("injection_embeds", "The second prompt, which gives the direction.", optional=True),
                block_strengths_input(),
                *window_and_branch_inputs(),
            ],
            outputs=[
                *passed_on.outputs,
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None) -> bool | str:
        return check_texts(block_activations)

    @classmethod
    def fingerprint_inputs(cls, injection_prompt: str = "", injection_embeds: Any = None, **kwargs: Any) -> Any:
        """Changes when another embedding is stored under the text."""
        return fingerprint_of(str(injection_prompt or ""))

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        injection_prompt: str,
        difference_target: float,
        injection_mode: str,
        block_activations: str,
        injection_embeds: Any = None,
        block_strengths: Any = None,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        branch: str = "cond",
    ) -> io.NodeOutput:
        name = "WanVideo Direct Injector"
        with errors_named(name):
            force = ForceDifference(injection_mode, difference_target / 100)  # type: ignore[arg-type]
            strengths = choose_blocks(block_activations, block_strengths)
            window = Window(start_percent, end_percent)
            if injection_embeds is None:
                injection_embeds = stored_under(injection_prompt, like=text_embeds)
            if injection_embeds is None:
                raise ValueError(
                    "there is no direction to inject. Connect injection_embeds (the second prompt's embeddings), or "
                    f"store an embedding under injection_prompt ({injection_prompt.strip()[:60]!r}) with WanVideo "
                    "Store Embedding."
                )
            main, injection = _read_pair(model, text_embeds, injection_embeds)
            for site in ("cond", "uncond") if branch == "both" else (branch,):
                _check_different(compared_prompts(main, site), injection.prompts, site)
            edited = add_edit(
                node_label(cls, name),
                model,
                text_embeds,
                injection_embeds,
                strengths,
                "off",
                window,
                branch,
                transforms=(force,),
            )
            return io.NodeOutput(*edited, ui=model_told(model, strengths))


NODES = [WanVideoProjectionBooster, WanVideoDirectInjector]
