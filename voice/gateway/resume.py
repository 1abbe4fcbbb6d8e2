"""Sessions taken up again (protocol section 9): in this process where it is alive here, else from Redis, whoever had it before.

And sessions nobody came back for: any gateway closes, bills and clears them away, so that a gateway that was killed leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Any

from channels.layers import get_channel_layer

from apps.common.errors import Overloaded, SessionNotFound, SessionResumeExpired
from voice.bus.sessions import Saved
from voice.core.effects import turn_of
from voice.core.input_audio import BYTES_PER_MS
from voice.core.session import Session
from voice.gateway import clock, metrics
from voice.gateway.auth import Handshake, Principal, former_principal
from voice.gateway.breakers import breakers
from voice.gateway.dispatch import Dispatch
from voice.gateway.ids import make_id
from voice.gateway.limits import Place, patrol
from voice.gateway.live import Live, lives
from voice.gateway.notices import shelf
from voice.gateway.recorder import ERRORS, GRACE_S, Recorder
from voice.gateway.store import turns_known
from voice.gateway.tape import play_again, recording

log = logging.getLogger("voice.resume")
SWEEP_S = 5.0
SWEEP_LOCK_S = 60


def wanted(handshake: Handshake) -> str | None:
    """The session a handshake wants to go on with; a conversation's id names its session."""
    named = handshake.query.get("session_id") or handshake.query.get("conversation_id")
    return f"sess_{named.removeprefix('conv_').removeprefix('sess_')}"[:64] if named else None


def about_of(principal: Principal, handshake: Handshake, agent, window_s: int) -> dict[str, Any]:
    """What whoever takes the session up must know beside its state."""
    tenant = principal.tenant
    return {
        "tenant_id": tenant.tenant_id, "schema": tenant.schema, "slug": tenant.slug, "key_id": principal.key_id,
        "secret": secret_of(principal, handshake), "agent_id": agent.agent_id, "agent_version": agent.version, "model": handshake.query.get("model", ""),
        "client": handshake.user_agent, "began": clock.now(), "window_s": window_s, "beta": handshake.beta,
    }  # fmt: skip


def secret_of(principal: Principal, handshake: Handshake) -> str:
    """Who has a short-lived secret may only take up sessions opened with it (its hash), a member those of their own (their id). "" for a key."""
    if principal.user_id:
        return principal.user_id
    return hashlib.sha256(handshake.secret.encode()).hexdigest() if principal.ephemeral else ""


async def find(session_id: str, principal: Principal, handshake: Handshake, place: Place, dispatch: Dispatch, recorder: Recorder) -> Live:
    """The session, running in this process. Raises SessionNotFound (unknown, or not theirs), SessionResumeExpired, Overloaded (Redis is away)."""
    live = lives.get(session_id)
    if live is not None and not live.over:
        _check(live.about, principal, handshake, session_id)
        return live
    began = clock.now()
    try:
        about, owner, until = await recorder.records.about(session_id)
        if about is None:
            if owner == principal.tenant.tenant_id:
                raise SessionResumeExpired("This session is over and cannot be resumed.")
            raise SessionNotFound("There is no such session to resume.")
        _check(about, principal, handshake, session_id)
        if until < clock.now() and until:
            raise SessionResumeExpired(f"This session could be resumed for {about['window_s']} s; that is over.")
        live = await _take_over(session_id, about, place, dispatch, recorder)
    except ERRORS as error:
        raise Overloaded("Sessions cannot be resumed at the moment; try again.", retry_after_s=2) from error
    metrics.RESTORE.observe(clock.now() - began)
    return live


def _check(about: dict[str, Any], principal: Principal, handshake: Handshake, session_id: str) -> None:
    if about["tenant_id"] != principal.tenant.tenant_id or principal.ephemeral and about["secret"] != secret_of(principal, handshake):
        raise SessionNotFound("There is no such session to resume.")


async def _take_over(session_id: str, about: dict[str, Any], place: Place, dispatch: Dispatch, recorder: Recorder) -> Live:
    await patrol.enter(place)
    live = None
    try:
        token = make_id("tok")
        saved = await recorder.records.take(session_id, token)
        if saved is None or "head" not in saved.fields:
            raise SessionResumeExpired("This session is over and cannot be resumed.")
        await _tell_former_holder(session_id, token)
        session = restored(saved, dispatch)
        live = Live(session, about, place, dispatch, recorder)
        live.record.adopt(saved, token)
        pcm = await _kept_speech(session, saved)
        live.ear.detector.skip_to(session.turns.buffer.end)
        written = await turns_known(place.principal.tenant, session_id, [turn_of(response.id) for response in session.responses()])
        heard = {u.lease.job.id: await recorder.records.heard(u.lease.job) for u in session.turns.pending.values() if u.lease}
    except BaseException:
        if live is not None:
            live.store.hand_over()
        await patrol.leave(place)
        raise
    live.run()
    live.wait_for_client()
    live.perform(session.revive(heard, clock.now(), written))
    await play_again(live, pcm)
    live.record.changed()
    return live


async def _kept_speech(session: Session, saved: Saved) -> bytes:
    """Audio that was not committed yet; the session's clock is set to where it begins, or without it to the last audio that came."""
    turns, heard = session.turns, int(saved.fields.get("heard", 0))
    by_hand = session.context.settings.turn_detection is None
    start, pcm = await recording().tapes.read(session.context.config.session_id) if turns.speaking or by_hand else (0, b"")
    wanted = max(turns.held_from, turns.speech_from_ms * BYTES_PER_MS if turns.speaking else 0)
    pcm = pcm[max(0, wanted - start) :]
    start = max(start, wanted)
    if pcm and (by_hand or start == wanted):
        turns.goes_on_at(start, again=True)
        return pcm
    turns.goes_on_at(max(heard, turns.buffer.end), again=False)
    return b""


def restored(saved: Saved, dispatch: Dispatch) -> Session:
    parts = {"config": saved.json("config"), "head": saved.json("head"), "items": saved.under("i:"), "params": saved.under("p:"),
             "progress": saved.json("progress") if "progress" in saved.fields else None}  # fmt: skip
    session = Session.restore(parts, make_id)
    session.context.notices = shelf.of(session.context.config, dispatch)
    return session


async def _tell_former_holder(session_id: str, token: str) -> None:
    """It may be alive: then it closes its connection now and not at its next write."""
    try:
        await get_channel_layer().group_send(f"session.{session_id}", {"type": "session.moved", "token": token})
    except ERRORS as error:
        log.warning("session %s: its former holder was not told (%s)", session_id, type(error).__name__)


def _tell_all(method: str, *arguments: Any) -> None:
    """Of what is amiss (voice/gateway/health.py): every session of this process."""
    for live in list(lives.values()):
        getattr(live.health, method)(*arguments)


class Sweep:
    """Sessions whose window is over and whose gateway does not say any more that it holds them."""

    def __init__(self) -> None:
        self._task: asyncio.Task | None = None

    def start(self, dispatch: Dispatch, recorder: Recorder) -> None:
        if self._task is None:
            breakers().listeners.append(lambda engine, state: _tell_all("engine_changed", engine, state))
            recorder.listeners.append(lambda away: _tell_all("store_changed", away))
            patrol.listeners.append(lambda away: _tell_all("ledger_changed", away))
            self._task = asyncio.create_task(self._walk(dispatch, recorder), name="sweep")

    async def _walk(self, dispatch: Dispatch, recorder: Recorder) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                for session_id in await recorder.records.abandoned(clock.now()):
                    if session_id not in lives and await recorder.records.claim_abandoned(session_id, SWEEP_LOCK_S):
                        await self._clear(session_id, dispatch, recorder)
            except ERRORS as error:
                log.warning("sweep: redis is away (%s)", type(error).__name__)
            except Exception:  # one broken session must not stop the clearing of all
                log.exception("sweep")

    async def _clear(self, session_id: str, dispatch: Dispatch, recorder: Recorder) -> None:
        about, _, until = await recorder.records.about(session_id)
        token = make_id("tok")
        saved = await recorder.records.take(session_id, token) if about else None
        if saved is None or "head" not in saved.fields:
            return await recorder.records.forget(session_id, token, "")
        place = Place(session_id, former_principal(about), ())
        live = Live(restored(saved, dispatch), about, place, dispatch, recorder)
        live.record.adopt(saved, token)
        live.run()
        log.info("session %s: nobody came back", session_id)
        await live.finish("resume_expired", seen_at=until - about["window_s"] - GRACE_S)


sweep = Sweep()
