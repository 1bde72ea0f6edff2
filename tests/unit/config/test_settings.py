"""Settings: what is read from where, what is refused, and that the page about them is current."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from kalamdb.cli import settings_page
from kalamdb.config import InvalidSettings, Settings, described, knobs
from kalamdb.lib.settings import read, read_command_line

GOOD_SECRET = "kJ83hsLq02nVx7Tz5bWmQ91rPfYc64Ae"
ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "settings.md"


def test_defaults() -> None:
    assert read({}, {"PATH": "/bin"}) == Settings()


def test_flags_are_stronger_than_variables_and_those_than_the_file(tmp_path: Path) -> None:
    file = tmp_path / "kalamdb.toml"
    file.write_text(
        'durability = "os"\n[server]\nhttp = "1.1.1.1:1"\nrpc = "1.1.1.1:2"\nnode_id = 3\n'
        '[http]\ncors_origins = ["https://a.example", "https://b.example"]\n'
        "[limits]\nquery_timeout_s = 5\n"
    )
    environment = {"KALAMDB_SERVER_RPC": "2.2.2.2:2", "KALAMDB_SERVER_HTTP": "2.2.2.2:1"}
    settings = read({"server.http": "3.3.3.3:1"}, environment, file)
    assert settings.server.http == "3.3.3.3:1"
    assert settings.server.rpc == "2.2.2.2:2"
    assert settings.server.node_id == 3
    assert settings.durability == "os"
    assert settings.limits.query_timeout_s == 5.0
    assert settings.http.cors_origins == ("https://a.example", "https://b.example")


def test_command_line(tmp_path: Path) -> None:
    file = tmp_path / "kalamdb.toml"
    file.write_text("[cluster]\ngroups = 4\n")
    arguments = ["--data", "d", "--node-id", "7", "--set", "log.level=debug", "--set", "a.b"]
    with pytest.raises(InvalidSettings, match="KEY=VALUE"):
        read_command_line("kalamdb-server", arguments, {})
    settings = read_command_line("kalamdb-server", arguments[:-2], {"KALAMDB_CONFIG": str(file)})
    assert (settings.server.data, settings.server.node_id) == ("d", 7)
    assert (settings.log.level, settings.cluster.groups) == ("debug", 4)
    with pytest.raises(OSError, match="absent"):
        read_command_line("kalamdb-server", ["--config", str(tmp_path / "absent")], {})


def test_values_as_variables() -> None:
    settings = read(
        {},
        {
            "KALAMDB_RATE_LIMIT_ENABLED": "Off",
            "KALAMDB_JWT_SECRET": GOOD_SECRET,
            "KALAMDB_ROOT_PASSWORD": "",
            "KALAMDB_HTTP_CORS_ORIGINS": "https://a.example, https://b.example,",
            "KALAMDB_LIMITS_MAX_BODY_BYTES": "20000000",
        },
    )
    assert settings.rate_limit.enabled is False
    assert settings.auth.root_password is None
    assert settings.http.cors_origins == ("https://a.example", "https://b.example")
    assert settings.limits.max_body_bytes == 20_000_000


REFUSED: list[tuple[Mapping[str, str], str]] = [
    ({"KALAMDB_JWT_SECRT": GOOD_SECRET}, "KALAMDB_JWT_SECRET"),
    ({"KALAMDB_NODE_ID": "0"}, "at least 1"),
    ({"KALAMDB_NODE_ID": "one"}, "whole number"),
    ({"KALAMDB_DURABILITY": "maybe"}, "fsync, os"),
    ({"KALAMDB_RATE_LIMIT_ENABLED": "perhaps"}, "true or false"),
    ({"KALAMDB_SERVER_HTTP": "8080"}, "HOST:PORT"),
    ({"KALAMDB_SERVER_HTTP": "host:99999"}, "HOST:PORT"),
    ({"KALAMDB_LIMITS_QUERY_TIMEOUT_S": "nan"}, "at least"),
    ({"KALAMDB_HTTP_TRUSTED_PROXIES": "10.0.0.0/8,here"}, "here"),
    ({"KALAMDB_JWT_SECRET": "short"}, "at least 32"),
    ({"KALAMDB_JWT_SECRET": "ab" * 30}, "too few characters"),
    ({"KALAMDB_JWT_SECRET": "CHANGE_ME_in_production_0123456789abc"}, "placeholder"),
    ({"KALAMDB_SERVER_RPC": "127.0.0.1:8080"}, "server.http"),
    ({"KALAMDB_AUTH_PASSWORD_LENGTH_MIN": "200", "KALAMDB_AUTH_PASSWORD_LENGTH_MAX": "100"}, "max"),
]


@pytest.mark.parametrize(("environment", "words"), REFUSED)
def test_refused_with_a_word_of_help(environment: Mapping[str, str], words: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        read({}, environment)
    assert words in str(caught.value)


def test_a_refused_secret_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "kalamdb.toml"
    file.write_text("[auth]\njwt_secret = 123454321\n")
    with pytest.raises(InvalidSettings) as mistyped:
        read({}, {}, file)
    assert "123454321" not in str(mistyped.value)
    for name in ("KALAMDB_JWT_SECRET", "KALAMDB_CLUSTER_SECRET"):
        with pytest.raises(InvalidSettings) as caught:
            read({}, {name: "tell-nobody"})
        assert "tell-nobody" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[server]\nhttps = "x"\n', "did you mean server.http?"),
        ("[server]\nhttp = 8080\n", "a text"),
        ("[server]\nnode_id = true\n", "a whole number"),
        ("[server]\nnode_id = 1.0\n", "a whole number"),
        ("[http]\ncors_origins = [1]\n", "a list of texts"),
        ("[websocket\n", "file"),
        ("server = 1\n", "no such setting"),
        ("[log]\nlevel = {a = 1}\n", "a text"),
    ],
)
def test_refused_file(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "kalamdb.toml"
    file.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        read({}, {}, file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "KALAMDB_SERVICE_HOST",
        "KALAMDB_SERVICE_PORT_HTTP",
        "KALAMDB_PORT",
        "KALAMDB_PORT_8080_TCP_ADDR",
        "KALAMDB_ROUTER_SERVICE_PORT",
        "KALAMDB_CONFIG",
    ],
)
def test_variables_of_the_surroundings_are_left_alone(name: str) -> None:
    assert read({}, {name: "tcp://10.0.0.1:8080"}) == Settings()


def test_secrets_are_masked() -> None:
    settings = read({}, {"KALAMDB_JWT_SECRET": GOOD_SECRET, "KALAMDB_ROOT_PASSWORD": "hush-hush"})
    shown = described(settings)
    assert shown["auth.jwt_secret"] == "***"
    assert shown["cluster.secret"] is None
    assert GOOD_SECRET not in str(shown)
    assert "hush-hush" not in str(shown)


def test_every_setting_has_a_variable_of_its_own() -> None:
    variables = [knob.variable for knob in knobs()]
    assert len(set(variables)) == len(variables)


def test_the_defaults_pass_their_own_checks() -> None:
    flags = {
        knob.key: ",".join(knob.default) if isinstance(knob.default, tuple) else str(knob.default)
        for knob in knobs()
        if knob.default is not None and knob.default != ()
    }
    assert read(flags, {}) == Settings()


# A cluster of one member has no use for these; its other members will.
UNREAD = {"server.rpc", "cluster.secret"}


def test_every_setting_is_read_somewhere() -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("kalamdb", "cluster")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("config.py", "settings_page.py")
    )
    unread = {knob.key for knob in knobs() if not re.search(_reading(knob.key), code)}
    assert unread - UNREAD == set()


def _reading(key: str) -> str:
    return rf"\b\w*\.{key.rpartition('.')[2]}\b"


def test_renamed_keys_name_settings_that_exist() -> None:
    known = {knob.key for knob in knobs()}
    for entry in settings_page.LEGACY:
        if entry.fate is settings_page.Fate.RENAMED:
            assert entry.instead.split("`")[1] in known, entry
        if entry.fate is settings_page.Fate.KEPT:
            assert set(entry.keys.split()) <= known, entry


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page.page(), (
        "run: .venv/bin/kalam settings > docs/reference/settings.md"
    )


def test_a_result_fits_into_the_room_of_all_results() -> None:
    flags = {"limits.max_result_bytes": "300000000"}
    with pytest.raises(InvalidSettings, match="held_results_bytes"):
        read(flags, {})
    assert read({**flags, "limits.held_results_bytes": "300000000"}, {}).limits
