"""Whatever a client sends: a typed error or a legal close, and every other session goes on."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
import wave
from datetime import timedelta

import numpy as np
import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from apps.apikeys.models import ApiKey
from apps.apikeys.services import api_key_issue, api_key_revoke
from apps.common.actors import SYSTEM
from apps.conversations.models import Item
from apps.tenants.context import in_public, in_tenant
from apps.tenants.services import tenant_suspend
from tests.e2e.client import Client
from voice.gateway.talk import TalkError, read_wav



async def refused(url: str, **arguments) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url, open_timeout=20, **arguments):
            pass
    response = caught.value.response
    return response.status_code, json.loads(response.body)["error"]["code"]


async def test_handshakes_without_a_good_key(stack, caller):
    _, good = caller
    url = stack.realtime
    assert await refused(url) == (401, "missing_api_key")
    assert await refused(url, additional_headers={"Authorization": "Bearer vv_wrong"}) == (401, "invalid_api_key")
    assert await refused(url, additional_headers={"Authorization": f"Bearer {good[:-1]}x"}) == (401, "invalid_api_key")
    assert await refused(f"{url}?access_token=nonsense") == (401, "invalid_api_key")


async def test_the_key_may_come_by_header_subprotocol_or_query(stack, caller):
    _, good = caller
    for url, arguments in (
        (stack.realtime, {"additional_headers": {"Authorization": f"Bearer {good}"}}),
        (stack.realtime, {"subprotocols": ["realtime", f"openai-insecure-api-key.{good}"]}),
        (f"{stack.realtime}?access_token={good}", {}),
    ):
        async with connect(url, open_timeout=20, **arguments) as socket:
            assert json.loads(await socket.recv())["type"] == "session.created"
            assert socket.subprotocol == ("realtime" if "subprotocols" in arguments else None)


async def test_revoked_expired_and_suspended(stack):
    tenant, secret = await asyncio.to_thread(stack.new_tenant, "ended")
    header = {"Authorization": f"Bearer {secret}"}
    expired = (await in_public(lambda: api_key_issue(tenant=tenant, name="old", expires_at=timezone.now() - timedelta(days=1), actor=SYSTEM)))[1]
    weak = (await in_public(lambda: api_key_issue(tenant=tenant, name="weak", scopes=("usage:read",), actor=SYSTEM)))[1]
    assert await refused(stack.realtime, additional_headers={"Authorization": f"Bearer {expired}"}) == (401, "invalid_api_key")
    assert await refused(stack.realtime, additional_headers={"Authorization": f"Bearer {weak}"}) == (403, "insufficient_scope")
    async with Client(stack.realtime, secret) as client:
        key = await in_public(lambda: ApiKey.objects.get(tenant=tenant, name="test"))
        began = time.monotonic()
        await in_public(api_key_revoke, key=key, actor=SYSTEM)
        assert (await client.error())["code"] == "invalid_api_key"
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
        assert closed.value.rcvd.code == 1008 and time.monotonic() - began < 5
    assert await refused(stack.realtime, additional_headers=header) == (401, "invalid_api_key")
    fresh = (await in_public(lambda: api_key_issue(tenant=tenant, name="new", actor=SYSTEM)))[1]
    async with Client(stack.realtime, fresh) as client:
        await in_public(tenant_suspend, tenant=tenant, reason="unpaid", actor=SYSTEM)
        assert (await client.error())["code"] == "account_deactivated"
    assert await refused(stack.realtime, additional_headers={"Authorization": f"Bearer {fresh}"}) == (403, "account_deactivated")


async def test_binary_frames_close_1003(dial):
    async with dial() as client:
        await client.socket.send(b"\0\1\2")
        assert (await client.error())["code"] == "invalid_json"
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
        assert closed.value.rcvd.code == 1003


@pytest.mark.parametrize(("frame", "code", "param"), [
    ("{", "invalid_json", None), ("", "invalid_json", None), ("[1]", "invalid_type", None), ("null", "invalid_type", None),
    ('{"type": "nope", "event_id": "e1"}', "invalid_value", "type"), ('{"event_id": "e1"}', "missing_required_parameter", "type"),
    ('{"type": "input_audio_buffer.append", "event_id": "e1"}', "missing_required_parameter", "audio"),
    ('{"type": "input_audio_buffer.append", "audio": 5}', "invalid_type", "audio"),
    ('{"type": "input_audio_buffer.append", "audio": "***"}', "invalid_value", "audio"),
    ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "invalid_value", "audio"),
    ('{"type": "response.create", "response": "x"}', "invalid_type", "response"),
    ('{"type": "session.update", "session": {"max_output_tokens": -1}}', "invalid_value", "session.max_output_tokens"),
    ('{"type": "x", "type": 5}', "invalid_type", "type"), ('{"type": {}}', "invalid_type", "type"), ('{"type": ["x"]}', "invalid_type", "type"),
])  # fmt: skip
async def test_bad_frames_get_a_typed_error_and_the_session_goes_on(dial, frame, code, param):
    async with dial() as client:
        await client.socket.send(frame)
        error = await client.error()
        assert (error["code"], error["param"]) == (code, param), error
        assert error["event_id"] == ("e1" if '"e1"' in frame else None)
        await client.type("hello", output_modalities=["text"])
        assert (await client.answer())["status"] == "completed"


async def test_a_15_mib_frame_is_taken_and_a_22_mib_frame_closes_1009(dial):
    async with dial() as client:
        await client.append(bytes(11 * 2**20))  # 14.7 MiB of base64, almost four minutes of silence
        await client.type("hello", output_modalities=["text"])
        assert (await client.answer())["status"] == "completed"
        with pytest.raises(ConnectionClosed) as closed:
            await client.socket.send("x" * (22 * 2**20))
            while True:
                await client.next()
        assert 1009 in (closed.value.rcvd.code if closed.value.rcvd else 0, closed.value.sent.code if closed.value.sent else 0)


async def test_a_client_that_never_reads_is_cut_and_the_others_go_on(stack, caller, dial):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(stack.ws_url.rsplit(":", 1)[1]), limit=1024)
    key = base64.b64encode(random.Random(1).randbytes(16)).decode()
    writer.write((f"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                  f"Sec-WebSocket-Version: 13\r\nAuthorization: Bearer {caller[1]}\r\n\r\n").encode())  # fmt: skip
    await writer.drain()
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)

    def frame(text: str) -> bytes:
        raw = text.encode()
        return bytes([0x81]) + (bytes([0x80 | len(raw)]) if len(raw) < 126 else bytes([0xFE]) + len(raw).to_bytes(2, "big")) + bytes(4) + raw

    ask = frame(json.dumps({"type": "session.update", "session": {"instructions": "y" * 1000}}))
    cut = False
    async with dial() as other:
        began = time.monotonic()
        try:
            while time.monotonic() - began < 60:  # each answer holds the whole session: megabytes nobody reads
                writer.write(ask * 50)
                await asyncio.wait_for(writer.drain(), 30)
        except (ConnectionError, TimeoutError):
            pass
        while time.monotonic() - began < 60 and not cut:  # what was under way, then the end
            try:
                cut = not await asyncio.wait_for(reader.read(2**20), 20)
            except ConnectionError:
                cut = True
        await other.type("hello", output_modalities=["text"])
        assert (await other.answer())["status"] == "completed"
    writer.transport.abort()
    assert cut


async def test_behind_small_events_of_a_client_whose_line_is_full_its_speech_is_heard(caller, dial):
    async with dial() as client:
        session_id = client.events[0]["session"]["id"]
        await client.send("conversation.item.create", item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * 30000}]})
        item_id = (await client.wait("conversation.item.done"))["item"]["id"]
        client.socket.transport.pause_reading()
        for _ in range(60):  # 1.8 MB that it does not take
            await client.send("conversation.item.retrieve", item_id=item_id)
        await client.speak("samples/question.wav")
        until = time.monotonic() + 10
        while not (heard := await in_tenant(caller[0], _items_kept, session_id) > 1) and time.monotonic() < until:
            await asyncio.sleep(0.2)
        client.socket.transport.resume_reading()
        assert heard
        assert (await client.answer())["status"] == "completed"


def _items_kept(session_id: str) -> int:
    return Item.objects.filter(session_id=session_id, role="user").count()


async def test_fifty_times_real_time_is_taken_without_hurting_others(dial):
    pcm = read_wav("samples/question.wav") + bytes(48000)
    async with dial() as flood, dial() as other:
        async def pour():
            for _ in range(40):
                for at in range(0, len(pcm), 1920):
                    await flood.append(pcm[at : at + 1920])
                    await asyncio.sleep(0.04 / 50)

        pouring = asyncio.create_task(pour())
        waits = []
        for _ in range(10):
            began = time.monotonic()
            await other.send("conversation.item.retrieve", item_id="nothing")
            await other.error()
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.1)
        pouring.cancel()
        assert sorted(waits)[len(waits) // 2] < 0.2


@pytest.mark.parametrize("kind", ["silence", "noise", "clipping"])
async def test_audio_without_words(dial, kind):
    rng = np.random.default_rng(3)
    samples = {"silence": np.zeros(48000), "noise": rng.normal(0, 0.02, 48000), "clipping": np.sign(np.sin(np.arange(48000) / 20))}[kind]
    pcm = (samples * 32767).astype("<i2").tobytes()
    async with dial() as client:
        await client.send("session.update", session={"audio": {"input": {"turn_detection": None, "transcription": {"model": "whisper-1"}}}})
        await client.append(pcm)
        await client.send("input_audio_buffer.commit")
        done = await client.wait("conversation.item.input_audio_transcription.completed")
        if kind == "silence":
            assert done["transcript"] == ""
        await client.type("hello", output_modalities=["text"])
        assert (await client.answer())["status"] == "completed"


def write(path, width=2, channels=1, rate=24000, seconds=0.5):
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(bytes(int(seconds * rate) * width * channels))
    return path


@pytest.mark.parametrize(("width", "channels", "rate"), [(2, 2, 24000), (2, 1, 8000), (1, 1, 44100), (3, 2, 48000), (4, 1, 16000)])
def test_talk_reads_any_pcm_wav(tmp_path, width, channels, rate):
    assert abs(len(read_wav(write(tmp_path / "a.wav", width, channels, rate))) - 24000) <= 4


def test_talk_names_what_is_wrong_with_a_file(tmp_path):
    (tmp_path / "text.wav").write_text("not a wav at all")
    for path, words in ((tmp_path / "none.wav", "no such file"), (tmp_path / "text.wav", "ffmpeg"), (write(tmp_path / "e.wav", seconds=0), "no audio")):
        with pytest.raises(TalkError, match=words):
            read_wav(path)


async def test_no_secret_is_in_the_logs(stack, caller):
    _, good = caller
    async with connect(f"{stack.realtime}?access_token={good}", open_timeout=20) as socket:
        await socket.recv()
    assert await sync_to_async(stack.logs)() and good not in "".join(p.read_text(errors="replace") for p in stack.folder.glob("*.log"))
