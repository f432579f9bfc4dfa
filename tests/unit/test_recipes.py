"""Edit stacks as plain values and files."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.edit import Edit, EditStack, Window
from wanvideo_activation_editor.patching.mask import Box, Mask
from wanvideo_activation_editor.patching.operations import OPERATIONS, Add, Replace
from wanvideo_activation_editor.patching.plain import RECIPE, RecipeError, load_recipe, save_recipe
from wanvideo_activation_editor.patching.plain_file import VALUES, file_format
from wanvideo_activation_editor.patching.schedule import Schedule
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.sources import CapturedDifference, Direction, Prompt
from wanvideo_activation_editor.patching.tokens import parse_tokens
from wanvideo_activation_editor.patching.transforms import Boost, ForceDifference

from ..conftest import BRIEF

PACKAGE = Path(__file__).parents[2]


def rows(seed: int) -> torch.Tensor:
    return torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(seed)).bfloat16()


def full_stack() -> EditStack:
    """One of every source, operation, transform and kind of strengths."""
    prompt = read_text_embeds(rows(1))
    difference = CapturedDifference((rows(2), rows(3)), {1: 0, 2: 1}, (1, 2, 3), "after block 2", 0.5, "model")
    return EditStack(
        (
            Edit(prompt, parse_selection("1-3:0.4, late_blocks"), transforms=(Boost(2.0),), label="first"),
            Edit(prompt, parse_selection("even") * 0.5, "hidden", window=Window(0.1, 0.6), log_level="verbose"),
            Edit(
                prompt,
                parse_selection("4"),
                schedule=Schedule(((0.0, 0.5), (1.0, 1.0))),
                tokens=parse_tokens("real:0.5, 3-4"),
            ),
            Edit(prompt, parse_selection("5"), mask=Mask(torch.full((2, 3, 4), 0.5))),
            Edit(prompt, parse_selection("6"), mask=Box(right=0.5, last_frame=8)),
            Edit(Prompt(prompt), parse_selection("all"), "attention", Replace(), branch="both"),
            Edit(difference, parse_selection("1-2"), "hidden", Add(True, -2.0), branch="uncond"),
            Edit(Direction(torch.arange(8.0)), parse_selection("0"), "queries", reports_to=("7", "w")),
        ),
        (ForceDifference("blend", 0.5),),
    )


def same(a: EditStack, b: EditStack) -> bool:
    (values, tensors), (others, others_tensors) = a.to_plain(), b.to_plain()
    return values == others and all(
        t.dtype == others_tensors[k].dtype and torch.equal(t, others_tensors[k]) for k, t in tensors.items()
    )


def test_a_stack_is_the_same_through_values_files_and_pickle(tmp_path):
    stack = full_stack()
    save_recipe(tmp_path / "a.safetensors", stack)
    assert same(load_recipe(tmp_path / "a.safetensors"), stack)
    assert same(EditStack.from_plain(*stack.to_plain()), stack)
    assert same(pickle.loads(pickle.dumps(stack)), stack)  # noqa: S301
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_shared_tensors_are_kept_once():
    _, tensors = full_stack().to_plain()
    assert len(tensors) == 5  # one prompt, two differences, one direction, one mask


def test_where_progress_is_shown_is_no_part_of_a_recipe():
    assert "reports_to" not in json.dumps(full_stack().to_plain()[0])


def test_another_process_reads_it_under_another_module_name(tmp_path):
    save_recipe(tmp_path / "a.safetensors", full_stack())
    (tmp_path / "as_comfyui_names_it").symlink_to(PACKAGE)
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "from as_comfyui_names_it.patching.plain import load_recipe\n"
        "stack = load_recipe(sys.argv[1] + '/a.safetensors')\n"
        "assert type(stack).__module__.startswith('as_comfyui'), type(stack)\n"
        "print(json.dumps(stack.to_plain()[0]))"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout.splitlines()[-1]) == full_stack().to_plain()[0]


def test_an_operation_of_your_own_is_saved_once_it_is_registered(tmp_path, monkeypatch):
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Scale:
        factor: float = 2.0
        name = "scale"

        def __call__(self, x, value, strength):
            return x * self.factor

    stack = EditStack((Edit(Direction(torch.ones(4)), parse_selection("1"), operation=Scale(3.0)),))
    with pytest.raises(RecipeError, match="Scale has no plain form"):
        stack.to_plain()
    monkeypatch.setitem(OPERATIONS, "Scale", Scale)
    save_recipe(tmp_path / "a.safetensors", stack)
    assert load_recipe(tmp_path / "a.safetensors").edits[0].operation == Scale(3.0)


def places(value, at=()):
    """Where in nested JSON values something can be changed."""
    yield at
    if isinstance(value, dict | list):
        for k, v in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(v, (*at, k))


PLAIN, TENSORS = full_stack().to_plain()
PLACES = [p for p in places(PLAIN) if p]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["", "Blend", "cond", "tensor_0", "\ud800", "__class__"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["is", "tensor", "map", "deltas", "vector", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(
    max_examples=300 if BRIEF else 1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "delete", "add"]), JSON), min_size=1, max_size=3
    )
)
def test_a_file_with_changed_values_is_refused_or_loaded_as_it_says(tmp_path, changes):
    values = copy.deepcopy(PLAIN)
    for place, how, new in changes:
        holder = values
        try:
            for step in place[:-1]:
                holder = holder[step]
            if how == "set":
                holder[place[-1]] = new
            elif how == "delete":
                del holder[place[-1]]
            elif isinstance(holder, list):
                holder.append(new)
            else:
                holder["more"] = new
        except (KeyError, IndexError, TypeError):
            continue
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(TENSORS, {"format": file_format(RECIPE), VALUES: json.dumps(values)}))
    try:
        loaded = load_recipe(path)
    except RecipeError as error:
        assert str(error).isascii()
        return
    written, tensors = loaded.to_plain()
    assert contained(numbers_as_floats(values), numbers_as_floats(written))
    assert all(any(torch.equal(t, known) for known in TENSORS.values()) for t in tensors.values())


def numbers_as_floats(value):
    """Values as they compare: 1 is 1.0; tensors are renumbered; pairs of a map that repeat a key are one."""
    if isinstance(value, dict):
        if "tensor" in value:
            return "tensor"
        if isinstance(value.get("map"), list):
            return {"map": {json.dumps(numbers_as_floats(k)): numbers_as_floats(v) for k, v in value["map"]}}
        return {k: numbers_as_floats(v) for k, v in value.items()}
    if isinstance(value, list):
        return [numbers_as_floats(v) for v in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def contained(given_, read) -> bool:
    """Everything that the file says is in what was read; fields that it leaves out have their defaults."""
    if isinstance(given_, dict):
        return isinstance(read, dict) and all(
            k == "reports_to" or (k in read and contained(v, read[k])) for k, v in given_.items()
        )
    if isinstance(given_, list):
        return isinstance(read, list) and len(given_) == len(read) and all(map(contained, given_, read))
    if isinstance(given_, float) and isinstance(read, float) and math.isnan(given_):
        return math.isnan(read)
    return given_ == read


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused_or_a_stack(tmp_path, data):
    path = tmp_path / "a.safetensors"
    save_recipe(path, full_stack())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content), 6000) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, 7, 0]))])
    try:
        assert isinstance(load_recipe(path), EditStack)
    except RecipeError as error:
        assert str(error).isascii()


def test_other_files_are_named(tmp_path):
    other = tmp_path / "lora.safetensors"
    other.write_bytes(save({"a": torch.ones(2)}))
    with pytest.raises(RecipeError, match=r"lora\.safetensors is no recipe"):
        load_recipe(other)
    with pytest.raises(FileNotFoundError):
        load_recipe(tmp_path / "missing.safetensors")
