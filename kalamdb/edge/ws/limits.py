"""The limits of the WebSocket edge as plain data; zero turns a rate or count limit off."""

from __future__ import annotations

from dataclasses import dataclass, field

from kalamdb.feed.subscription import FeedLimits


@dataclass(frozen=True, slots=True)
class WsLimits:
    """What a socket may cost.

    - `auth_timeout_s`: without header authentication, until the authenticate message.
    - `client_timeout_s`: silence after which a socket is closed, looked at every
      `heartbeat_interval_s`.
    - `buffer_max_bytes`: what may wait in memory for a socket. Beyond it the subscriptions of the
      socket read from the change log, as the client drains it; when the client takes nothing in for
      `slow_consumer_timeout_s` it is closed, with its cursors behind what it has not read, and cut
      off when it does not get so far within `close_timeout_s`.
    - `messages_per_s`, `messages_burst`: client messages, next_batch excepted (the server paces
      it). Each one above is answered with an error and not read.
    """

    auth_timeout_s: float = 3.0
    client_timeout_s: float = 10.0
    heartbeat_interval_s: float = 5.0
    close_timeout_s: float = 2.0
    position_interval_s: float = 60.0
    slow_consumer_timeout_s: float = 5.0
    connections: int = 100_000
    subscriptions_per_connection: int = 100
    subscriptions_per_user: int = 1000
    messages_per_s: float = 50.0
    messages_burst: int = 500
    message_max_bytes: int = 1 << 20
    buffer_max_bytes: int = 1 << 20
    batch_rows_default: int = 1000
    batch_rows_max: int = 10_000
    feed: FeedLimits = field(default_factory=FeedLimits)
