"""So many a turn of the loop, in their order."""

from __future__ import annotations

import asyncio

from voice.gateway.turnstile import Turnstile


async def turns_of(stile: Turnstile, names: list[str]) -> list[list[str]]:
    """Who passed in each turn of the loop when all come at once."""
    passed: list[list[str]] = [[]]

    async def come(name: str) -> None:
        if not stile.free():
            await stile.wait()
        passed[-1].append(name)

    def mark() -> None:
        passed.append([])
        asyncio.get_running_loop().call_soon(mark)

    asyncio.get_running_loop().call_soon(mark)
    await asyncio.gather(*(come(name) for name in names))
    return [turn for turn in passed if turn]


async def test_as_many_as_may_pass_a_turn_and_in_their_order():
    names = [str(n) for n in range(10)]
    turns = await turns_of(Turnstile(3), names)
    assert sum(turns, []) == names and [len(turn) for turn in turns] == [3, 3, 3, 1]


async def test_who_gives_up_waiting_holds_up_nobody():
    stile = Turnstile(1)
    assert stile.free() and not stile.free()
    gone, last = asyncio.create_task(stile.wait()), asyncio.create_task(stile.wait())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(last, 1)
    await asyncio.sleep(0)
    assert stile.free()
