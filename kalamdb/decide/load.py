"""How much a sequencer may hold, and how much it does."""

from __future__ import annotations

from dataclasses import dataclass

from kalamdb.model.command import STATEMENT_EFFECTS_MAX_BYTES


@dataclass(frozen=True, slots=True)
class SequencerLimits:
    commands_max: int = 50_000  # decided and not applied
    queue_bytes_max: int = 64 << 20  # encoded and not taken
    effects_bytes_max: int = STATEMENT_EFFECTS_MAX_BYTES
    chains_max: int = 100_000
    request_ids_max: int = 250_000  # of one tenant


@dataclass(frozen=True, slots=True)
class SequencerStatistics:
    term: int
    ready: bool
    queued: int
    queued_bytes: int
    in_flight: int
    overlay_keys: int
    verdicts: int
    decided: int
    refused: int
