"""Celery's transport over Redis, made to outlive a Redis that goes away.

kombu 5.7.0 lets its exceptions through to Celery's consumer, which ends the worker: a message acknowledged after its connection was closed
(AttributeError in `QoS.ack`: the channel has lost its connection), and messages in hand that cannot be given back (`QoS.restore_unacked`).

`InHand` is for workers whose messages need no safe-keeping (transport option `ack_emulation: False`): their sessions hand lost work out again
(voice/core/leases.py), and each job costs Redis four commands less. `Kept` is for all others.
"""

from __future__ import annotations

import logging
from collections import deque

from kombu.transport import TRANSPORT_ALIASES, redis, virtual

log = logging.getLogger("config.broker")
_classes = redis.get_redis_error_classes()
ERRORS = (*_classes.connection_errors, *_classes.channel_errors, AttributeError)  # the last: the connection is closed already
LATE = 1000  # acknowledgements remembered while Redis is away


class InHand(virtual.QoS):
    """Messages a worker has fetched and not begun: only this process knows of them."""

    def restore_unacked(self) -> list:
        """Put them back. What Redis does not take is dropped and not, as kombu does, written to a file: it holds what people said."""
        self._flush()
        waiting = self._delivered
        try:
            while waiting:
                self.channel._restore(waiting[next(reversed(waiting))])
                waiting.popitem()
        except ERRORS as error:
            log.warning("%d messages could not be given back (%s)", len(waiting), type(error).__name__)
            waiting.clear()
        return []


class Kept(redis.QoS):
    """Messages in hand are kept in Redis, too, and come again after `visibility_timeout` if this process dies."""

    late: deque[str] = deque(maxlen=LATE)  # of all connections: done, but Redis does not know it yet

    def append(self, message, delivery_tag) -> None:
        super().append(message, delivery_tag)
        while self.late:
            tag = self.late.popleft()
            try:
                self._remove_from_indices(tag).execute()
            except ERRORS:
                self.late.append(tag)
                return

    def ack(self, delivery_tag) -> None:
        try:
            super().ack(delivery_tag)
        except ERRORS:
            self.late.append(delivery_tag)
            virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client=None) -> None:
        try:
            super().restore_unacked(client)
        except ERRORS as error:
            log.warning("%d messages stay in Redis until they come again (%s)", len(self._delivered), type(error).__name__)
            self._delivered.clear()


class _Choosing:
    QoS = Kept

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not self.ack_emulation:
            self.QoS = InHand


class Channel(_Choosing, redis.Channel):
    pass


class SentinelChannel(_Choosing, redis.SentinelChannel):
    pass


class Transport(redis.Transport):
    Channel = Channel


class SentinelTransport(redis.SentinelTransport):
    Channel = SentinelChannel


def install() -> None:
    """From now on Celery's URLs of Redis mean these."""
    TRANSPORT_ALIASES.update(redis="config.broker:Transport", rediss="config.broker:Transport", sentinel="config.broker:SentinelTransport")
