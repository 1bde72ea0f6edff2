"""The data directory: whose it is, which format it has, and how its last run ended.

    DIR/lock     held (flock) by the process that uses the directory
    DIR/format   JSON: format version, cluster id, node uuid, node id; made at first boot
    DIR/run      JSON: boot id of the run that is on, or of one that did not end; `clean` once it
    did DIR/hot/     LevelDB        DIR/log/     the replicated log

Start (core.md §11): lock, check the format, then look at how the last run ended. After a clean stop
or a kill within the same boot of the machine nothing written is lost. Otherwise the machine went
down: pages of LevelDB's log files may be missing, and they are cut to a prefix before LevelDB
opens.

Keeps: a directory of another node, another cluster or a newer format is refused, never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kalamdb.errors import Corruption, Unavailable
from kalamdb.lib.clock import Ids
from kalamdb.store.leveldb_log import Cut, cut_to_prefix

FORMAT_VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who owns a data directory. `node_uuid` is made with the directory: an empty disk is another
    node.
    """

    cluster_id: str
    node_uuid: str
    node_id: int


def machine_boot_id() -> str:
    """Names this boot of the machine; empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class DataDirectory:
    """An open, locked data directory."""

    def __init__(self, path: Path, lock: int, identity: Identity, boot_id: str) -> None:
        self.path = path
        self.identity = identity
        self.cut: Cut | None = None
        self._lock = lock
        self._boot_id = boot_id

    @property
    def hot_path(self) -> Path:
        return self.path / "hot"

    @property
    def log_path(self) -> Path:
        return self.path / "log"

    @staticmethod
    def open(
        path: Path, *, node_id: int, cluster_id: str | None, ids: Ids, boot_id: str | None = None
    ) -> DataDirectory:
        """Lock and check the directory, make it at first boot, mend it after an OS crash.

        `cluster_id` None takes the directory's own, or a new one. Raises: Unavailable when another
        process holds it; Corruption when it is another's, newer, or unreadable.
        """
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path / "lock")
        try:
            identity = _identity(path, node_id, cluster_id, ids)
            boot = machine_boot_id() if boot_id is None else boot_id
            directory = DataDirectory(path, lock, identity, boot)
            directory._begin_run()
        except BaseException:
            os.close(lock)
            raise
        return directory

    def _begin_run(self) -> None:
        for made in (self.hot_path, self.log_path):
            made.mkdir(exist_ok=True)
        if _lost_pages(_read(self.path / "run"), self._boot_id):
            self.cut = cut_to_prefix(self.hot_path)
        _write(self.path / "run", {"boot_id": self._boot_id, "clean": False})

    def close(self, *, clean: bool) -> None:
        """Release the directory. `clean`: all in it has been synced (HotStore.checkpoint)."""
        if clean:
            _write(self.path / "run", {"boot_id": self._boot_id, "clean": True})
        os.close(self._lock)


def _lost_pages(run: dict[str, Any] | None, boot_id: str) -> bool:
    """May pages that were written, but not synced, be gone?"""
    if run is None or run.get("clean") is True:
        return False
    return not boot_id or run.get("boot_id") != boot_id


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Unavailable(f"{path.parent} is in use by another process") from error
    return descriptor


def _identity(path: Path, node_id: int, cluster_id: str | None, ids: Ids) -> Identity:
    file = path / "format"
    found = _read(file)
    if found is None:
        if any(kept.name != "lock" and _holds_data(kept) for kept in path.iterdir()):
            raise Corruption(str(file), 0, "the directory holds data and no format file")
        made = Identity(cluster_id or str(ids.uuid4()), str(ids.uuid4()), node_id)
        _write(
            file,
            {
                "format": FORMAT_VERSION,
                "cluster_id": made.cluster_id,
                "node_uuid": made.node_uuid,
                "node_id": made.node_id,
            },
        )
        return made
    version = found.get("format")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        detail = f"format {version!r} is not known; this release reads up to {FORMAT_VERSION}"
        raise Corruption(str(file), 0, detail)
    try:
        kept = Identity(str(found["cluster_id"]), str(found["node_uuid"]), int(found["node_id"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Corruption(str(file), 0, "a field is missing or of a wrong type") from error
    if kept.node_id != node_id:
        raise Corruption(str(file), 0, f"it belongs to node {kept.node_id}, this is {node_id}")
    if cluster_id is not None and kept.cluster_id != cluster_id:
        detail = f"it belongs to cluster {kept.cluster_id}, this is {cluster_id}"
        raise Corruption(str(file), 0, detail)
    return kept


def _holds_data(path: Path) -> bool:
    return path.name in ("hot", "log") and any(path.iterdir())


def _read(file: Path) -> dict[str, Any] | None:
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        return None
    try:
        found = json.loads(raw)
    except ValueError as error:
        raise Corruption(str(file), 0, "it is not JSON") from error
    if not isinstance(found, dict):
        raise Corruption(str(file), 0, "it is not a JSON object")
    return cast("dict[str, Any]", found)


def _write(file: Path, content: dict[str, Any]) -> None:
    """Replace a file as a whole, on disk when this returns."""
    fresh = file.with_name(file.name + ".new")
    with fresh.open("wb") as out:
        out.write(json.dumps(content).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
    descriptor = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
