"""What the parts of one session share: settings, items, open leases, and the effects they ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from voice.core.conversation import Conversation, Entry
from voice.core.effects import CancelJob, Effect, FeedJob, OpenJob, SaveItem, Send, SetTimer
from voice.core.jobs import Feed, Job, Stage
from voice.core.kept_audio import KeptAudio
from voice.core.leases import Lease
from voice.core.notices import Notices, no_notices
from voice.core.settings import SessionConfig, Settings
from voice.core.usage import Allowance

LEASE_CHECK_S = 0.1


class Context:
    def __init__(self, config: SessionConfig, ids: Callable[[str], str], notices: Notices = no_notices):
        self.config, self.notices = config, notices
        self.healthy: Callable[[tuple[str, str, str]], bool] = lambda engine: True  # the shell knows which (stage, engine, model) are down
        self.settings = Settings(config)
        self.conversation = Conversation(config.max_items, config.max_text_chars)
        self.conversation_id = f"conv_{config.session_id.removeprefix('sess_')}"  # one for one: a client may resume by either
        self.kept_audio = KeptAudio()
        self.ids = ids
        self.now = 0.0
        self.paused = False  # sound waits: nobody listens, and no more can be kept
        self.effects: list[Effect] = []
        self.leases: dict[str, Lease] = {}
        self.requests = Allowance(config.responses_per_minute)
        self.tokens = Allowance(config.tokens_per_minute)
        self.leases_due = 0.0  # when the shell should call the timer "leases"; later than that, it was the shell that slept
        self.unbilled_audio_ms = 0  # transcribed, not yet in a RecordTurn
        self.wasted: dict[str, int] = {}  # meters of work the client never gets, not yet in a RecordTurn

    def take(self) -> list[Effect]:
        effects, self.effects = self.effects, []
        return effects

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def send(self, type: str, **fields: Any) -> None:
        self.effects.append(Send({"type": type, "event_id": self.ids("event"), **fields}))

    def save(self, entry: Entry, *, deleted: bool = False) -> None:
        item = entry.item
        previous = None if deleted else self.conversation.previous_of(item["id"])
        self.do(SaveItem(dict(item), previous, deleted))

    def waste(self, **meters: int) -> None:
        """Work that came to nothing: measured, never billed."""
        for name, amount in meters.items():
            if amount > 0:
                self.wasted[name] = self.wasted.get(name, 0) + amount

    def take_wasted(self) -> dict[str, int]:
        wasted, self.wasted = self.wasted, {}
        return wasted

    # Jobs

    def open_job(self, stage: Stage, owner: str, deadline_ms: int, params: dict[str, Any], feeds: tuple[Feed, ...] = (),
                 worker_deadline_ms: int | None = None, ahead: bool = False) -> Lease:  # fmt: skip
        """Open a job of the session's engine for `stage`; `deadline_ms` counts from now. `ahead`: it may come to nothing."""
        config = self.config
        (engine, model), refused = self._choose(stage)
        job = Job(self.ids("job"), 1, stage, config.session_id, engine, model, worker_deadline_ms or deadline_ms, params)
        lease = Lease(job, owner, self.now, self.now + deadline_ms / 1000, self.now + config.start_deadline_ms / 1000,
                      self.now + config.wait_deadline_ms / 1000, feeds=list(feeds))  # fmt: skip
        self.leases[job.id] = lease
        if len(self.leases) == 1:
            self.watch_leases()
        self.do(OpenJob(job, feeds, ahead, refused=refused))
        return lease

    def _choose(self, stage: Stage) -> tuple[tuple[str, str], bool]:
        """(engine and model for a job; are both the session's own and its fallback down?)"""
        own = self.settings.engine(str(stage))
        if self.healthy((str(stage), *own)):
            return own, False
        other = self._fallback(stage, own)
        return (other or own), other is None

    def _fallback(self, stage: Stage, now: tuple[str, str]) -> tuple[str, str] | None:
        other = tuple(self.config.fallbacks.get(str(stage), ()))
        return other if len(other) == 2 and other != now and self.healthy((str(stage), *other)) else None

    def can_fall_back(self, lease: Lease) -> bool:
        return tuple(self.config.fallbacks.get(str(lease.job.stage), ())) not in ((), (lease.job.engine, lease.job.model))

    def fall_back(self, lease: Lease, feeds: tuple[Feed, ...], **params: Any) -> bool:
        """The work goes to the fallback of its stage. False where there is none, or it is the one that failed."""
        other = self._fallback(lease.job.stage, (lease.job.engine, lease.job.model))
        return other is not None and self.reopen(lease, feeds, to=other, **params)

    def watch_leases(self) -> None:
        """Look at the leases again in a moment, while there are any."""
        if self.leases:
            self.leases_due = self.now + LEASE_CHECK_S
            self.do(SetTimer("leases", self.leases_due))

    def feed(self, lease: Lease, feed: Feed, keep: bool = True) -> None:
        """`keep` it for a second attempt."""
        if keep:
            lease.feeds.append(feed)
        self.do(FeedJob(lease.job, feed))

    def end_lease(self, lease: Lease | None, cancel: str = "") -> None:
        """From now on its chunks are dropped; `cancel` names why the worker should stop too."""
        if lease is None or self.leases.pop(lease.job.id, None) is None:
            return
        lease.end()
        if cancel:
            self.do(CancelJob(lease.job, cancel))

    def reopen(self, lease: Lease, feeds: tuple[Feed, ...], keep: bool = True, to: tuple[str, str] | None = None, **params: Any) -> bool:
        """The next attempt of a lost job. False when it had its chances already."""
        config = self.config
        job = lease.reopen(self.now, config.start_deadline_ms / 1000, config.wait_deadline_ms / 1000, to, **params)
        if job is None:
            return False
        lease.feeds = list(feeds) if keep else []
        self.do(OpenJob(job, feeds))
        return True

    def open_again(self, old: Lease, deadline_ms: int, feeds: tuple[Feed, ...] = (), **params: Any) -> Lease:
        """The work of a lease that another process held, as a new job: the old one's chunks go elsewhere."""
        config = self.config
        job = replace(old.job, id=self.ids("job"), attempt=1, params={**old.job.params, **params})
        lease = Lease(job, old.owner, self.now, self.now + deadline_ms / 1000, self.now + config.start_deadline_ms / 1000,
                      self.now + config.wait_deadline_ms / 1000, feeds=list(feeds))  # fmt: skip
        self.leases[job.id] = lease
        if len(self.leases) == 1:
            self.watch_leases()
        self.do(OpenJob(job, feeds, counted=True))
        return lease
