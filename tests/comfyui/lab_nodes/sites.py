"""An edit of any site, source and operation, as Python code would add it."""

from __future__ import annotations

import io
import random
import sys
from types import SimpleNamespace

import torch

from .probes import ANY, AnyInput


def pack(name: str):
    """A module of the pack, whatever ComfyUI calls it."""
    return next(m for key, m in list(sys.modules.items()) if key.endswith(f".patching.{name}"))


class Noise:
    """What a careless operation may return."""

    name = "noise"

    def __call__(self, x, value, strength):
        return 3 * torch.randn(x.shape, dtype=torch.float32).to(x)


class TestEdit(AnyInput):
    """Adds an edit at `site` and passes on the model and its embeds. Without embeds to inject it adds a direction."""

    RETURN_TYPES = (ANY, ANY)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "model": (ANY, {}),
                "text_embeds": (ANY, {}),
                "site": ("STRING", {}),
                "block_activations": ("STRING", {}),
                "operation": ("STRING", {}),
            },
            "optional": {"injection_embeds": (ANY, {}), "branch": ("STRING", {"default": "cond"})},
        }

    def run(self, model, text_embeds, site, block_activations, operation, injection_embeds=None, branch="cond"):
        edit, hosts, sources = pack("edit"), pack("hosts"), pack("sources")
        host = hosts.host_of(model)
        if injection_embeds is None:
            width = host.wan_model(model).width
            source = sources.Direction(torch.randn(width, generator=torch.Generator().manual_seed(5)))
        else:
            text = sys.modules[pack("edit").TextEmbeds.__module__]
            source = sources.prompt_at(site, text.read_text_embeds(injection_embeds, "injection_embeds").detached())
        added = edit.Edit(
            source,
            pack("selection").parse_selection(block_activations),
            site,
            Noise() if operation == "noise" else None,
            branch=branch,
        )
        stack = edit.stack_of(model.model_options.get("transformer_options")).append(added)
        return (host.with_stack(model, stack), text_embeds)


class TestWords(AnyInput):
    """The words of a prompt by ComfyUI's own tokenizer of Wan, on a vocabulary that is trained here."""

    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"prompt": ("STRING", {}), "phrase": ("STRING", {})}}

    def run(self, prompt, phrase):
        import sentencepiece
        from comfy.text_encoders.wan import WanT5Tokenizer

        words = [
            "a",
            "red",
            "fox",
            "redder",
            "than",
            "in",
            "the",
            "snow",
            "slow",
            "pan",
            "over",
            "cat",
            "walking",
            "through",
            "forest",
            "night",
            "blue",
            "moon",
        ]
        draw, file = random.Random(0), io.BytesIO()
        lines = [" ".join(draw.choices(words, k=8)) for _ in range(2000)]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, vocab_size=44, pad_id=0, eos_id=1, unk_id=2, bos_id=-1
        )
        model = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
        own = WanT5Tokenizer(tokenizer_data={"spiece_model": model})
        clip = SimpleNamespace(tokenizer=own, tokenize=own.tokenize_with_weights)
        found = pack("words").words_of(clip, prompt)
        real = [token for token, _ in own.tokenize_with_weights(prompt)["umt5xxl"][0] if token]
        spans = found.phrase(phrase)
        texts = ["".join(found.pieces[a : b + 1]) for a, b in spans]
        shown = {"words": [w for w, *_ in found.words], "texts": texts, "tokens": [len(found.pieces), len(real)]}
        return {"ui": shown, "result": (prompt,)}


SITE_NODES = (TestEdit, TestWords)
