"""So many a turn of the loop, or a second, in their order."""

from __future__ import annotations

import asyncio

from voice.gateway.turnstile import Sluice, Turnstile


async def turns_of(stile: Turnstile, names: list[str]) -> list[list[str]]:
    """Who passed in each turn of the loop when all come at once."""
    passed: list[list[str]] = [[]]

    def come(name: str) -> None:
        if stile.free():
            passed[-1].append(name)
        else:
            stile.call(lambda: passed[-1].append(name))

    def mark() -> None:
        passed.append([])
        asyncio.get_running_loop().call_soon(mark)

    asyncio.get_running_loop().call_soon(mark)
    await asyncio.sleep(0)
    for name in names:
        come(name)
    await asyncio.sleep(0.05)
    return [turn for turn in passed if turn]


async def test_as_many_as_may_pass_a_turn_and_in_their_order():
    names = [str(n) for n in range(10)]
    turns = await turns_of(Turnstile(3), names)
    assert sum(turns, []) == names and [len(turn) for turn in turns] == [3, 3, 3, 1]


async def test_what_comes_at_once_is_let_in_by_its_size_and_in_its_order():
    sluice, passed = Sluice(bytes_per_s=1e6, longest_s=0.1), []
    loop = asyncio.get_running_loop()

    async def come(number: int, size: int) -> None:
        await sluice.wait(size)
        passed.append((number, loop.time()))

    await asyncio.wait_for(asyncio.gather(*(come(n, 10_000) for n in range(5)), come(5, 10**9), come(6, 1)), 5)
    assert [n for n, _ in passed] == list(range(7))
    gaps = [b - a for (_, a), (_, b) in zip(passed, passed[1:], strict=False)]
    assert min(gaps[:5]) >= 0.0095 and gaps[5] >= 0.095  # and however large one is, the next waits longest_s at most


async def test_who_leaves_the_sluice_holds_up_nobody():
    sluice = Sluice(bytes_per_s=1e6, longest_s=0.1)
    await sluice.wait(50_000)
    gone, last = asyncio.create_task(sluice.wait(10**9)), asyncio.create_task(sluice.wait(1))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(last, 1)
