"""The one message of a response, as far as it is written, spoken and sent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from voice.core.chunker import Chunker
from voice.core.conversation import Entry


@dataclass
class Message:
    """The spoken or written item of a response."""

    entry: Entry
    output_index: int
    chunker: Chunker = field(default_factory=Chunker)
    text: str = ""
    cut: int = 0  # characters already in sentences
    text_done: bool = False
    closed: bool = False
    # audio only
    fed: int = 0  # sentences given to the speech engine
    last_fed: bool = False
    sending: int = 0  # sentence whose audio goes out
    queue: deque[tuple[int, bytes]] = field(default_factory=deque)
    received: dict[int, int] = field(default_factory=dict)  # sentence -> bytes
    sent: dict[int, int] = field(default_factory=dict)  # sentence -> bytes
    skip: dict[int, int] = field(default_factory=dict)  # bytes of a sentence to drop after a second attempt
