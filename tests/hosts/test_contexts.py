"""`inject` in threads, in any order of opening and closing, and on shared transformers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading

import pytest
import torch
from wanvideo_activation_editor.patching.hosts.diffusers import capture, inject

from .conftest import Sampler, hook_count, make_transformer, prompt_embeds


def run_async(coroutine):
    """asyncio.run in a thread of its own: playwright leaves a loop that runs in the one of the tests."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def in_thread(function):
    """The result or the exception of `function` in a thread of its own."""
    found = []

    def run():
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_contexts_close_in_any_order(sampler, main, other):
    third = prompt_embeds(3)
    with inject(sampler.pipe, third, "2:0.5"):
        only_third = sampler(main)
    first, second = inject(sampler.pipe, other, "1-3:0.5"), inject(sampler.pipe, third, "2:0.5")
    plain = sampler(main)
    first.__enter__()
    second.__enter__()
    assert not torch.equal(sampler(main), only_third)
    first.__exit__(None, None, None)
    assert torch.equal(sampler(main), only_third)
    second.__exit__(None, None, None)
    assert torch.equal(sampler(main), plain) and hook_count(sampler.pipe.transformer) == 0
    assert "cache_context" not in vars(sampler.pipe.transformer)


def test_a_context_opened_again_acts_again(sampler, main, other):
    with inject(sampler.pipe, other):
        wanted = sampler(main)
    assert not torch.equal(wanted, sampler(main))
    for _ in range(2):
        with inject(sampler.pipe, other):
            assert torch.equal(sampler(main), wanted)


def test_two_threads_with_two_pipelines_do_not_meet(main, other):
    samplers = [Sampler(make_transformer(seed=seed)) for seed in (0, 1)]
    wanted = [s(other) for s in samplers]
    barrier = threading.Barrier(2)

    def run(s):
        with inject(s.pipe, other):
            barrier.wait()
            return s(main)

    found = [None, None]
    threads = [threading.Thread(target=lambda i=i, s=s: found.__setitem__(i, run(s))) for i, s in enumerate(samplers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))


@pytest.mark.parametrize("nested", [True, False], ids=["last in, first out", "first in, first out"])
def test_overlapping_contexts_of_models_that_are_compiled_whole_leave_torch_compiling(main, other, nested):
    torch._dynamo.reset()
    compiled = 0

    def backend(graph, inputs):
        nonlocal compiled
        compiled += 1
        return graph.forward

    samplers = [Sampler(make_transformer(3, seed=seed)) for seed in (0, 1)]
    plain, wanted = [s(main) for s in samplers], [s(other) for s in samplers]
    for sampler in samplers:
        sampler.pipe.transformer = torch.compile(sampler.pipe.transformer, backend=backend)
    first, second = (inject(s.pipe, other, "all") for s in samplers)
    first.__enter__()
    second.__enter__()
    assert all(map(torch.equal, (s(main) for s in samplers), wanted))
    (second if nested else first).__exit__(None, None, None)
    left = 0 if nested else 1
    assert torch.equal(samplers[left](main), wanted[left])
    assert torch.equal(samplers[1 - left](main), plain[1 - left])
    (first if nested else second).__exit__(None, None, None)
    assert compiled == 0
    assert all(map(torch.equal, (s(main) for s in samplers), plain)) and compiled > 0


def test_two_threads_with_models_that_are_compiled_whole_do_not_meet(main, other):
    torch._dynamo.reset()
    samplers = [Sampler(make_transformer(3, seed=seed)) for seed in (0, 1)]
    wanted, plain = [s(other) for s in samplers], [s(main) for s in samplers]
    for sampler in samplers:
        sampler.pipe.transformer.compile(backend="eager")
    barrier = threading.Barrier(2)

    def run(number):
        with inject(samplers[number].pipe, other, "all"):
            barrier.wait()
            edited = samplers[number](main)
            barrier.wait()
        return edited, samplers[number](main)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number, (edited, after) in enumerate(pool.map(run, range(2))):
            assert torch.equal(edited, wanted[number]) and torch.equal(after, plain[number])


def test_a_call_in_a_thread_that_did_not_open_the_context_is_refused(sampler, main, other):
    with inject(sampler.pipe, other):
        error = in_thread(lambda: sampler(main))
        assert torch.equal(sampler(main), sampler(other))
    assert isinstance(error, RuntimeError) and "thread or task other than the one that opened" in str(error)
    assert torch.is_tensor(in_thread(lambda: sampler(main)))


@pytest.mark.parametrize("first_closes_first", [True, False])
def test_overlapping_contexts_of_two_tasks_are_right_or_refused_and_leave_nothing(
    sampler, main, other, first_closes_first
):
    """Task A opens, B opens, both sample, then they close in either order."""
    plain, third = sampler(main), prompt_embeds(3)
    wanted = {}
    for name, prompt in (("a", other), ("b", third)):
        with inject(sampler.pipe, prompt, "1-2:0.5"):
            wanted[name] = sampler(main)
    found = {}

    async def task(name, prompt, opened, may_sample, may_close):
        try:
            with inject(sampler.pipe, prompt, "1-2:0.5"):
                opened.set()
                await may_sample.wait()
                found[name] = sampler(main)
                await may_close.wait()
        except RuntimeError as error:
            opened.set()
            found[name] = error

    async def run():
        events = {key: asyncio.Event() for key in ("a opened", "b opened", "sample", "close a", "close b")}
        a = asyncio.create_task(task("a", other, events["a opened"], events["sample"], events["close a"]))
        await events["a opened"].wait()
        b = asyncio.create_task(task("b", third, events["b opened"], events["sample"], events["close b"]))
        await events["b opened"].wait()
        events["sample"].set()
        await asyncio.sleep(0)
        for name, waiting in (("a", a), ("b", b)) if first_closes_first else (("b", b), ("a", a)):
            events[f"close {name}"].set()
            await waiting

    run_async(run())
    for name, result in found.items():
        if isinstance(result, RuntimeError):
            assert "task" in str(result)
        else:
            assert torch.equal(result, wanted[name])
    assert found.keys() == {"a", "b"}
    assert hook_count(sampler.pipe.transformer) == 0
    assert torch.equal(sampler(main), plain)


def test_tasks_that_take_turns_each_get_their_own_edit(sampler, main, other):
    wanted = []
    for prompt in (other, prompt_embeds(3)):
        with inject(sampler.pipe, prompt, "1-2:0.5"):
            wanted.append(sampler(main))

    async def one(prompt, turn):
        async with turn:
            with inject(sampler.pipe, prompt, "1-2:0.5"):
                await asyncio.sleep(0)
                return sampler(main)

    async def both():
        turn = asyncio.Lock()
        return await asyncio.gather(one(other, turn), one(prompt_embeds(3), turn))

    assert all(map(torch.equal, run_async(both()), wanted))


def test_a_transformer_is_not_opened_while_another_thread_calls_it(sampler, main, other):
    errors = []

    def open_in_a_thread(*_):
        errors.append(in_thread(lambda: inject(sampler.pipe, other).__enter__()))

    with inject(sampler.pipe, other):
        with sampler.pipe.transformer.blocks[2].register_forward_hook(open_in_a_thread):
            edited = sampler(main, steps=1, guidance=1.0)
        assert torch.equal(edited, sampler(other, steps=1, guidance=1.0))
    assert "Another thread is calling this WanTransformer3DModel" in str(errors[0])
    assert hook_count(sampler.pipe.transformer) == 0


def test_an_error_in_a_call_leaves_the_context_usable(sampler, main, other):
    def fail(*_):
        raise OSError("in a block")

    with inject(sampler.pipe, other):
        with sampler.pipe.transformer.blocks[2].register_forward_hook(fail), pytest.raises(OSError, match="in a block"):
            sampler(main)
        assert torch.equal(sampler(main), sampler(other))


def test_a_transformer_of_two_pipelines_is_edited_by_both(main, other):
    transformer = make_transformer()
    a, b = Sampler(transformer), Sampler(transformer)
    third = prompt_embeds(3)
    with inject(a.pipe, other, "1:0.5"), inject(a.pipe, third, "2:0.5"):
        wanted = a(main)
    with inject(a.pipe, other, "1:0.5"), inject(b.pipe, third, "2:0.5"):
        assert torch.equal(a(main), wanted) and torch.equal(b(main), wanted)
    assert not torch.equal(a(main), wanted)


def test_a_window_by_the_wrong_pipelines_schedule_is_refused(main, other):
    transformer = make_transformer()
    a, b = Sampler(transformer, steps=2), Sampler(transformer, steps=9)
    a.pipe.scheduler.set_timesteps(2)
    with inject(a.pipe, other, window=(0, 0.5)), pytest.raises(ValueError, match="another pipeline shares"):
        b(main)


def test_a_failed_opening_leaves_nothing(main, other, monkeypatch):
    sampler = Sampler(make_transformer(), make_transformer(seed=5), steps=4)

    def fail(*_, **__):
        raise MemoryError

    for block in sampler.pipe.transformer_2.blocks:
        monkeypatch.setattr(block, "register_forward_pre_hook", fail)
    with pytest.raises(MemoryError), contextlib.ExitStack() as exits:
        exits.enter_context(inject(sampler.pipe, other))
    assert hook_count(sampler.pipe.transformer) == hook_count(sampler.pipe.transformer_2) == 0


def test_a_transformer_is_not_opened_inside_of_its_own_call(sampler, main, other):
    """Its hooks would be taken off and put on in the middle of the call."""
    errors = []

    def open_here(*_):
        with pytest.raises(RuntimeError, match="A call of this WanTransformer3DModel"):
            inject(sampler.pipe, other).__enter__()
        errors.append(1)

    with inject(sampler.pipe, other):
        with sampler.pipe.transformer.blocks[2].register_forward_hook(open_here):
            edited = sampler(main, steps=1)
        assert errors and torch.equal(edited, sampler(other, steps=1))


def test_an_error_while_opening_leaves_the_outer_context_in_force(sampler, main, other, monkeypatch):
    with inject(sampler.pipe, other):
        wanted = sampler(main)
        with monkeypatch.context() as patch:
            patch.setattr("wanvideo_activation_editor.patching.runtime.Run.extend", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                inject(sampler.pipe, other, 1).__enter__()
        assert torch.equal(sampler(main), wanted)
    assert not torch.equal(sampler(main), wanted)


def test_a_schedule_that_was_never_set_is_no_schedule(main, other):
    transformer = make_transformer()
    a, b = Sampler(transformer), Sampler(transformer)
    with inject(a.pipe, other, window=(0, 0.5)), pytest.raises(ValueError, match="has no steps"):
        b(main)


def test_one_transformer_in_both_places_is_edited_once(main, other):
    transformer = make_transformer()
    sampler, single = Sampler(transformer, transformer, steps=4), Sampler(make_transformer(), None, steps=4)
    single.pipe.scheduler = sampler.pipe.scheduler
    with inject(sampler.pipe, other, "1-3:0.5"), inject(single.pipe, other, "1-3:0.5"):
        assert torch.equal(sampler(main), single(main))


def test_a_capture_inside_of_a_context_does_not_lock_out_other_threads(sampler, main, other):
    with inject(sampler.pipe, other):
        capture(sampler.pipe, main, 2, latents=torch.randn(1, 4, 2, 4, 4))
        error = in_thread(lambda: sampler(main))
    assert "other than the one that opened" in str(error)
