"""What this release writes is what was frozen, and what was frozen reads as it was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest

from cluster.raft.wal_format import HEADER_BYTES, parse_header, segment_name
from kalamdb.errors import Corruption, KalamError
from kalamdb.model import codec, keys
from kalamdb.model.ids import GroupId
from kalamdb.model.types import ColumnType
from kalamdb.store.hot import HotSettings, HotStore
from kalamdb.store.recovery import DataDirectory
from tests.compat.case import BYTES, Case, frozen
from tests.compat.key_cases import VALUES
from tests.compat.log_cases import HEADER, UUID, FixedIds, directory_files
from tests.compat.record import THEMES

ALL = [(theme, case) for theme, cases in THEMES.items() for case in cases()]
CASES = [pytest.param(theme, case, id=f"{theme}-{case.name}") for theme, case in ALL]
VERSIONED = [
    pytest.param(theme, case, id=f"{theme}-{case.name}")
    for theme, case in ALL
    if case.version_at is not None
]


@pytest.mark.parametrize(("theme", "case"), CASES)
def test_bytes(theme: str, case: Case) -> None:
    raw = frozen(theme)[case.name]
    assert case.made.hex() == raw.hex()
    assert case.read(raw) == case.value


@pytest.mark.parametrize(("theme", "case"), VERSIONED)
def test_a_newer_version_is_refused(theme: str, case: Case) -> None:
    raw = bytearray(frozen(theme)[case.name])
    assert case.version_at is not None
    raw[case.version_at] = 0x7F
    with pytest.raises(codec.UnknownVersion):
        case.read(bytes(raw))


def test_everything_frozen_has_a_case() -> None:
    known = {theme: {case.name for case in cases()} for theme, cases in THEMES.items()}
    known["directory"] = {"format", "run", "run after a clean stop"}
    kept = {path.stem: set(frozen(path.stem)) for path in BYTES.glob("*.json")}
    assert kept == known


@pytest.mark.parametrize("column", [pytest.param(c, id=c.sql) for c, _ in VALUES])
def test_frozen_keys_are_in_the_order_of_their_values(column: ColumnType) -> None:
    values = next(values for known, values in VALUES if known is column)
    texts = frozen("values")
    raw = [texts[f"{column.sql} {value!r}"] for value in values]
    assert raw == sorted(raw)
    assert len(set(raw)) == len(raw)


def test_no_two_families_share_a_number() -> None:
    raw = [value for name, value in frozen("names").items() if name.startswith("Family.")]
    assert len(set(raw)) == len(raw) == len(keys.Family)


# ---- the shared log ------------------------------------------------------------------------------


def test_a_segment_of_a_newer_format_is_refused() -> None:
    raw = bytearray(frozen("log")["segment header"])
    assert len(raw) == HEADER_BYTES
    raw[8] += 1
    with pytest.raises(Corruption, match="format version 2"):
        parse_header(segment_name(HEADER.number), bytes(raw), UUID)


# ---- the data directory --------------------------------------------------------------------------


def test_files_of_the_data_directory(tmp_path: Path) -> None:
    assert directory_files(tmp_path / "data") == frozen("directory")


def test_which_incarnation_of_a_group_is_current(tmp_path: Path) -> None:
    """LevelDB: group FFFF, incarnation 0, then the group → version, incarnation."""

    def fatal(error: KalamError) -> NoReturn:
        raise error

    hot = HotStore.open(tmp_path / "hot", HotSettings(), fatal)
    hot.flip(GroupId(5), 0x01020304)
    assert list(hot.db.iterator()) == [
        (bytes.fromhex("ffff 00000000 0005"), bytes.fromhex("01 01020304"))
    ]
    assert hot.incarnation(GroupId(5)) == 0x01020304
    hot.close()


def test_a_frozen_directory_is_opened(tmp_path: Path) -> None:
    _write_frozen(tmp_path)
    directory = _open(tmp_path)
    made = json.loads(frozen("directory")["format"])
    identity = directory.identity
    assert (identity.cluster_id, identity.node_uuid, identity.node_id) == (
        made["cluster_id"],
        made["node_uuid"],
        made["node_id"],
    )
    assert (tmp_path / "format").read_bytes() == frozen("directory")["format"]
    directory.close(clean=True)


def test_a_directory_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    _write_frozen(tmp_path)
    content = json.loads((tmp_path / "format").read_bytes())
    content["format"] += 1
    (tmp_path / "format").write_text(json.dumps(content))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(Corruption, match="format 2 is not known"):
        _open(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"}
    assert after == before


def _write_frozen(path: Path) -> None:
    for name, raw in frozen("directory").items():
        if " " not in name:
            (path / name).write_bytes(raw)


def _open(path: Path) -> DataDirectory:
    return DataDirectory.open(path, node_id=1, cluster_id=None, ids=FixedIds(), boot_id="b-2")
