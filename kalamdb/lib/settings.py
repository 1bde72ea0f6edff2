"""How settings are read: TOML under `KALAMDB_*` variables under flags.

Keeps: every value is checked where it came from; an unknown key is an error that names the nearest
known one; nothing is ignored silently. What is wrong with a secret is said without showing it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from kalamdb.config import (
    ENVIRONMENT_PREFIX,
    InvalidSettings,
    Knob,
    Settings,
    address,
    knobs,
)

# Variables of ours that are no settings: where the file is, and what tools use to find the server.
_OTHER_VARIABLES = frozenset({"KALAMDB_CONFIG", "KALAMDB_SERVER"})
# Kubernetes and Docker set these for a service whose name begins with "kalamdb".
_SERVICE_VARIABLE = re.compile(r"^KALAMDB_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT(_\d+_\w+)?|NAME)$")


def read(
    flags: Mapping[str, str], environment: Mapping[str, str], file: Path | None = None
) -> Settings:
    """The settings in force. `flags` are by dotted name, as text.

    Raises: InvalidSettings for the first unknown key or bad value; OSError: no such file.
    """
    known = {knob.key: knob for knob in knobs()}
    values: dict[str, Any] = {}
    if file is not None:
        values |= _from_toml(file, known)
    values |= _from_environment(environment, known)
    for key, text in flags.items():
        knob = known.get(key)
        if knob is None:
            raise InvalidSettings("command line", key, _unknown(key, known))
        source = f"command line {knob.facts['flag'] or '--set'}"
        values[key] = _checked(knob, _parsed(knob, text, source), source)
    return _consistent(_assembled(Settings, values, ""))


def read_command_line(
    program: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> Settings:
    """`read` for a program: its flags, `--set key=value` for every other setting, `--config FILE`.

    Exits by itself for --help and for flags that do not exist, as argparse does.
    """
    parser = argparse.ArgumentParser(program, description="A KalamDB node.", allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="settings as TOML (KALAMDB_CONFIG)")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="any setting, repeatable"
    )
    flagged = [knob for knob in knobs() if knob.facts["flag"]]
    for knob in flagged:
        parser.add_argument(
            knob.facts["flag"],
            dest=knob.key,
            metavar="VALUE",
            help=f"{knob.facts['doc']} (default {knob.default})",
            # A switch needs no value: `--join` is `--join true`.
            nargs="?" if isinstance(knob.default, bool) else None,  # pyright: ignore[reportArgumentType]
            const="true" if isinstance(knob.default, bool) else None,
        )
    given = vars(parser.parse_args(arguments))
    flags: dict[str, str] = {}
    for pair in cast(list[str], given["set"]):
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidSettings("command line --set", pair, "write KEY=VALUE")
        flags[key.strip()] = value
    flags |= {knob.key: given[knob.key] for knob in flagged if given[knob.key] is not None}
    file = given["config"] or environment.get("KALAMDB_CONFIG")
    return read(flags, environment, Path(file) if file else None)


def _from_toml(file: Path, known: Mapping[str, Knob]) -> dict[str, Any]:
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(str(file), "file", str(error)) from error
    values: dict[str, Any] = {}
    for key, value in _flattened(tree, "", known):
        knob = known.get(key)
        if knob is None:
            raise InvalidSettings(str(file), key, _unknown(key, known))
        values[key] = _checked(knob, _typed(knob, value, str(file)), str(file))
    return values


def _flattened(
    tree: Mapping[str, Any], path: str, known: Mapping[str, Knob]
) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and f"{path}{name}" not in known:
            yield from _flattened(cast(dict[str, Any], value), f"{path}{name}.", known)
        else:
            yield f"{path}{name}", value


def _from_environment(environment: Mapping[str, str], known: Mapping[str, Knob]) -> dict[str, Any]:
    by_variable = {knob.variable: knob for knob in known.values()}
    values: dict[str, Any] = {}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in _OTHER_VARIABLES:
            continue
        knob = by_variable.get(name)
        if knob is not None:
            values[knob.key] = _checked(knob, _parsed(knob, text, "environment"), "environment")
        elif not _SERVICE_VARIABLE.match(name):
            raise InvalidSettings("environment", name, _unknown(name, by_variable))
    return values


def _unknown(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.4)
    return "no such setting" + (f"; did you mean {near[0]}?" if near else "")


_WORDS = {"true": True, "yes": True, "on": True, "1": True} | {
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def _bare_kind(kind: Any) -> tuple[Any, bool]:
    """int | None → (int, True)."""
    if isinstance(kind, types.UnionType):
        inner = [part for part in typing.get_args(kind) if part is not type(None)]
        return inner[0], True
    return kind, False


def _parsed(knob: Knob, text: str, source: str) -> Any:
    """Text of a flag or a variable as the field's type; an empty one is None where None may be."""
    kind, optional = _bare_kind(knob.kind)
    if optional and not text:
        return None
    try:
        if kind is bool:
            return _WORDS[text.strip().lower()]
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except (ValueError, KeyError):
        raise _mistyped(knob, text, source) from None
    if kind is str:
        return text
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _typed(knob: Knob, value: Any, source: str) -> Any:
    """A TOML value as the field's type; nothing is converted but whole numbers to fractions."""
    kind, _ = _bare_kind(knob.kind)
    if kind is float and type(value) is int:
        return float(value)
    if typing.get_origin(kind) is tuple:
        items: list[Any] = cast(list[Any], value) if isinstance(value, list) else [None]
        if all(isinstance(item, str) for item in items):
            return tuple(items)
    elif type(value) is kind:
        return value
    raise _mistyped(knob, value, source)


def _mistyped(knob: Knob, value: Any, source: str) -> InvalidSettings:
    kind, _ = _bare_kind(knob.kind)
    named = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    shown = "the value" if knob.facts["secret"] else repr(value)
    return InvalidSettings(source, knob.key, f"{shown} is not {named.get(kind, 'a list of texts')}")


def _checked(knob: Knob, value: Any, source: str) -> Any:
    if value is None:
        return None
    facts = knob.facts
    complaint = _out_of_bounds(value, facts)
    if complaint is None and facts["choices"] and value not in facts["choices"]:
        complaint = f"use one of {', '.join(facts['choices'])}"
    if complaint is None and facts["check"]:
        complaint = facts["check"](value)
    if complaint:
        raise InvalidSettings(source, knob.key, complaint)
    return value


def _out_of_bounds(value: Any, facts: Mapping[str, Any]) -> str | None:
    low, high = facts["low"], facts["high"]
    text = isinstance(value, str)
    size: Any = len(value) if text else value
    unit = "characters" if text else facts["unit"]
    # Written so that NaN is out of bounds.
    if low is not None and not size >= low:
        return f"at least {low} {unit} needed"
    if high is not None and not size <= high:
        return f"at most {high} {unit} allowed"
    return None


def _assembled(tree: Any, values: Mapping[str, Any], path: str) -> Any:
    hints = typing.get_type_hints(tree)
    given: dict[str, Any] = {}
    for item in dataclasses.fields(tree):
        key = f"{path}{item.name}"
        if dataclasses.is_dataclass(hints[item.name]):
            given[item.name] = _assembled(hints[item.name], values, f"{key}.")
        elif key in values:
            given[item.name] = values[key]
    return tree(**given)


def _consistent(settings: Settings) -> Settings:
    """What holds between settings."""
    auth, server, cluster = settings.auth, settings.server, settings.cluster
    if auth.oidc.enabled:
        for key, needed in (
            ("issuer", auth.oidc.issuer),
            ("audience", auth.oidc.audience or auth.oidc.client_id),
        ):
            if not needed:
                raise InvalidSettings("settings", f"auth.oidc.{key}", "is needed by auth.oidc")
        if auth.oidc.jwks_file and auth.oidc.jwks_uri:
            raise InvalidSettings("settings", "auth.oidc.jwks_uri", "is set beside jwks_file")
    elif not auth.local.enabled:
        raise InvalidSettings("settings", "auth.local.enabled", "is off, and auth.oidc is too")
    if auth.password_length_min > auth.password_length_max:
        raise InvalidSettings("settings", "auth.password_length_min", "is above the maximum")
    if server.http == server.rpc and address(server.http)[1] != 0:
        raise InvalidSettings("settings", "server.rpc", "is the address of server.http")
    if cluster.peers and cluster.secret is None:
        raise InvalidSettings("settings", "cluster.secret", "is needed by cluster.peers")
    tls = {"tls_cert": cluster.tls_cert, "tls_key": cluster.tls_key, "tls_ca": cluster.tls_ca}
    for key, path in tls.items():
        if path is None and any(tls.values()):
            raise InvalidSettings("settings", f"cluster.{key}", "is needed by the other of TLS")
    if settings.limits.max_result_bytes > settings.limits.held_results_bytes:
        raise InvalidSettings("settings", "limits.max_result_bytes", "is above held_results_bytes")
    if settings.limits.max_statement_bytes > settings.limits.max_body_bytes:
        raise InvalidSettings("settings", "limits.max_statement_bytes", "is above max_body_bytes")
    return settings
