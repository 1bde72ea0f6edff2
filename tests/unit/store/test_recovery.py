"""The data directory: one owner, one format, the right conclusion from how the last run ended."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from kalamdb.errors import Corruption, Unavailable
from kalamdb.lib.clock import SystemIds
from kalamdb.store import recovery
from kalamdb.store.recovery import DataDirectory


def opened(path: Path, **changes: object) -> DataDirectory:
    given = {"node_id": 1, "cluster_id": None, "boot_id": "boot-1"} | changes
    return DataDirectory.open(path, ids=SystemIds(), **given)  # type: ignore[arg-type]


def run_once(path: Path, *, clean: bool, boot_id: str = "boot-1") -> DataDirectory:
    directory = opened(path, boot_id=boot_id)
    directory.close(clean=clean)
    return directory


def test_first_boot_makes_an_identity_that_stays(tmp_path: Path) -> None:
    first = run_once(tmp_path / "d", clean=True).identity
    again = run_once(tmp_path / "d", clean=True).identity
    assert first == again
    assert first.node_id == 1
    assert first.cluster_id != first.node_uuid


def test_given_cluster_id_is_kept_and_checked(tmp_path: Path) -> None:
    opened(tmp_path, cluster_id="c").close(clean=True)
    opened(tmp_path, cluster_id="c").close(clean=True)
    assert opened(tmp_path).identity.cluster_id == "c"


@pytest.mark.parametrize("changes", [{"cluster_id": "other"}, {"node_id": 2}])
def test_directory_of_another_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    opened(tmp_path, cluster_id="c").close(clean=True)
    with pytest.raises(Corruption):
        opened(tmp_path, **changes)
    opened(tmp_path, cluster_id="c").close(clean=True)  # the lock was let go


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"format": 2}', b'{"format": "1"}', b'{"format": 1}']
)
def test_newer_or_damaged_format_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "format").write_bytes(content)
    with pytest.raises(Corruption):
        opened(tmp_path)


def test_data_without_a_format_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hot").mkdir()
    (tmp_path / "hot" / "CURRENT").write_bytes(b"")
    with pytest.raises(Corruption):
        opened(tmp_path)


def hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:  # type: ignore[name-defined]
    opened(path)
    ready.set()
    ready.wait(0)
    multiprocessing.Event().wait(30)


def test_directory_in_use_is_refused(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    ready = spawn.Event()
    owner = spawn.Process(target=hold, args=(tmp_path, ready))
    owner.start()
    try:
        assert ready.wait(10)
        with pytest.raises(Unavailable):
            opened(tmp_path)
    finally:
        owner.kill()
        owner.join()
    opened(tmp_path).close(clean=True)


@pytest.mark.parametrize(
    ("clean", "boot_id", "cut"),
    [
        (True, "boot-1", False),
        (True, "boot-2", False),
        (False, "boot-1", False),  # kill -9
        (False, "boot-2", True),  # the machine went down
        (False, "", True),  # nobody knows
    ],
)
def test_logs_are_cut_only_when_pages_may_be_lost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clean: bool,
    boot_id: str,
    cut: bool,
) -> None:
    run_once(tmp_path, clean=clean)
    cuts: list[Path] = []
    monkeypatch.setattr(recovery, "cut_to_prefix", cuts.append)
    run_once(tmp_path, clean=True, boot_id=boot_id)
    assert cuts == ([tmp_path / "hot"] if cut else [])


def test_run_that_is_on_is_never_marked_clean(tmp_path: Path) -> None:
    run_once(tmp_path, clean=True)
    directory = opened(tmp_path)
    assert json.loads((tmp_path / "run").read_bytes()) == {"boot_id": "boot-1", "clean": False}
    directory.close(clean=False)
