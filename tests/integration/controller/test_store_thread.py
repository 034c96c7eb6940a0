# SPDX-License-Identifier: Apache-2.0
"""The one thread in which the store is called: order, errors, cancellation, the end."""

import threading

import anyio
import pytest

from firstkit.services.store_thread import StoreThread

pytestmark = pytest.mark.anyio


async def test_calls_run_one_after_another_in_one_thread_beside_the_loop() -> None:
    threads: set[str] = set()
    order: list[int] = []
    at_once = threading.Lock()

    def work(number: int) -> int:
        assert at_once.acquire(blocking=False)
        threads.add(threading.current_thread().name)
        order.append(number)
        at_once.release()
        return number * number

    async with StoreThread("kept") as thread:
        results: dict[int, int] = {}

        async def call(number: int) -> None:
            results[number] = await thread.call(work, number)

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(call, number)
    assert results == {number: number * number for number in range(50)}
    assert sorted(order) == list(range(50))
    assert len(threads) == 1
    assert threads.pop().startswith("kept")


async def test_what_a_call_raises_is_raised_where_it_was_asked() -> None:
    def fail() -> None:
        raise KeyError("gone")

    async with StoreThread() as thread:
        with pytest.raises(KeyError, match="gone"):
            await thread.call(fail)
        assert await thread.call(int, "7") == 7


async def test_a_cancelled_call_is_done_nevertheless_and_the_next_one_follows_it() -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        begun.set()
        assert go_on.wait(20)
        done.append("slow")

    async with StoreThread() as thread:
        async with anyio.create_task_group() as group:
            group.start_soon(thread.call, slow)
            await anyio.to_thread.run_sync(begun.wait, 20)
            group.cancel_scope.cancel()
        assert done == []
        go_on.set()
        await thread.call(done.append, "next")
    assert done == ["slow", "next"]


async def test_the_end_waits_for_a_call_under_way_without_standing_in_its_way() -> None:
    """The call ends by waking the loop: a loop that waited for the thread would wait for ever."""
    begun, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        begun.set()
        assert go_on.wait(20)
        done.append("slow")

    with anyio.fail_after(20):
        async with StoreThread() as thread:
            async with anyio.create_task_group() as group:
                group.start_soon(thread.call, slow)
                await anyio.to_thread.run_sync(begun.wait, 20)
                group.cancel_scope.cancel()
            threading.Timer(0.05, go_on.set).start()
    assert done == ["slow"]


async def test_what_was_cancelled_before_its_turn_is_not_done_at_the_end() -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        begun.set()
        assert go_on.wait(20)

    with anyio.fail_after(20):
        async with StoreThread() as thread:
            async with anyio.create_task_group() as group:
                group.start_soon(thread.call, slow)
                await anyio.to_thread.run_sync(begun.wait, 20)
                group.start_soon(lambda: thread.call(done.append, "later"))
                await anyio.sleep(0.01)
                group.cancel_scope.cancel()
            threading.Timer(0.05, go_on.set).start()
    assert done in ([], ["later"])
