"""A realtime session that survives a lost line, with OpenAI's own Python client (pip install "openai[realtime]>=3.54").

    OPENAI_BASE_URL=http://localhost:25000/v1 OPENAI_API_KEY=vv_… python examples/resume_with_openai.py

The gateway keeps the session for two minutes. `on_reconnecting` only has to say which session it was and which event came last;
the gateway sends what was missed, in order, and the answer goes on where it broke off.
"""

from __future__ import annotations

import asyncio

from openai import AsyncOpenAI


class Memory:
    """What a client must remember to come back."""

    session_id = last_event_id = ""

    def note(self, event) -> None:
        if event.type == "session.created":
            self.session_id = event.session.id
        self.last_event_id = event.event_id

    def come_back(self, reconnecting) -> dict:
        print(f"\n[line lost: {reconnecting}; coming back]")
        return {"extra_query": {"session_id": self.session_id, "last_event_id": self.last_event_id}}


async def main() -> None:
    memory = Memory()
    async with AsyncOpenAI().realtime.connect(model="gpt-realtime", on_reconnecting=memory.come_back) as connection:
        await connection.conversation.item.create(item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "count to fifty"}]})
        await connection.response.create()
        async for event in connection:
            memory.note(event)
            if event.type == "response.output_audio_transcript.delta":
                print(event.delta, end="", flush=True)
            elif event.type == "response.done":
                print(f"\n[{event.response.status}]")
                return


if __name__ == "__main__":
    asyncio.run(main())
