"""`kalam cluster …`: the CLUSTER statements from a shell, and moves as bars until they have ended.

Everything goes through SQL on whatever node or router `--url` names. Exit codes as of `kalam`; with
`--wait` the command ends once nothing is on its way any more and the node is where it should be.
"""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from kalamdb.cli import render
from kalamdb.cli.connection import EXIT_UNAVAILABLE, Login, Refused, connected
from kalamdb.cli.render import Format
from kalamdb.cli.signing import DEFAULT_URL, Password, Shown, Token, Url, User, login_of, run

LOOK_S = 0.5
QUIET_LOOKS = 3  # so often nothing is on its way: then nothing comes
MOVES = (
    "SELECT kind, group_id, slot, source, target, state, keys_done, keys_total, bytes_done,"
    " bytes_total, eta_seconds FROM system.cluster_moves ORDER BY kind, group_id, slot, target"
)
STATES = "SELECT node_id, status, members FROM system.cluster WHERE node_id = $1"

cluster = typer.Typer(no_args_is_help=True, help="Nodes, members and leaders.")

Wait = Annotated[bool, typer.Option("--wait", help="until it is done, with a bar for each move")]
NodeId = Annotated[int, typer.Argument(help="a node's id")]
GroupId = Annotated[int | None, typer.Argument(help="a group; all without one")]


@dataclass(frozen=True, slots=True)
class Way:
    """How to get there, and how to print what comes back."""

    login: Login
    form: Format


def _signed(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of every command that has a connection; its first parameter is
    the `Way` they make.
    """

    def asked(**values: Any) -> None:
        login = login_of(*(values.pop(name) for name in ("url", "user", "password", "token")))
        command(Way(login, values.pop("form")), **values)

    hints = typing.get_type_hints(command, include_extras=True)
    own = list(inspect.signature(command).parameters.values())[1:]
    found = [each.replace(annotation=hints[each.name]) for each in own]
    found.sort(key=lambda each: each.kind)
    found += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _OPTIONS.items()
    ]
    asked.__signature__ = inspect.Signature(found)  # pyright: ignore[reportFunctionMemberAccess]
    asked.__annotations__ = {each.name: each.annotation for each in found}
    asked.__doc__, asked.__name__ = command.__doc__, command.__name__
    return asked


_OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "url": (Url, DEFAULT_URL),
    "user": (User, None),
    "password": (Password, None),
    "token": (Token, None),
    "form": (Shown, Format.TABLE),
}


@cluster.command("list")
@_signed
def list_nodes(way: Way) -> None:
    """The nodes of the cluster."""
    _carry_out(way, "CLUSTER LIST")


@cluster.command("status")
@_signed
def status(way: Way) -> None:
    """The groups, their members and leaders."""
    _carry_out(way, "CLUSTER STATUS")


@cluster.command("join")
@_signed
def join(
    way: Way,
    node: NodeId,
    rpc: Annotated[str, typer.Argument(help="HOST:PORT at which the other nodes reach it")],
    *,
    wait: Wait = False,
) -> None:
    """Let a node join; then start it."""
    done = Settled(node, lambda state, members: state == "active")
    _carry_out(way, f"CLUSTER JOIN {node} {_quoted(rpc)}", done if wait else None)


@cluster.command("leave")
@_signed
def leave(way: Way, node: NodeId, *, wait: Wait = False) -> None:
    """Move leaders and members away from a node."""
    done = Settled(node, lambda state, members: members == 0)
    _carry_out(way, f"CLUSTER LEAVE {node}", done if wait else None)


@cluster.command("remove")
@_signed
def remove(way: Way, node: NodeId) -> None:
    """Forget a node that holds nothing any more."""
    _carry_out(way, f"CLUSTER REMOVE {node}")


@cluster.command("replication")
@_signed
def replication(
    way: Way,
    voters: Annotated[int, typer.Argument(help="1, 3 or 5")],
    *,
    wait: Wait = False,
) -> None:
    """How many members a group is to have."""
    _carry_out(way, f"CLUSTER REPLICATION {voters}", Settled() if wait else None)


@cluster.command("transfer-leader")
@_signed
def transfer_leader(
    way: Way,
    group: Annotated[str, typer.Argument(help="a group, or all")],
    node: NodeId,
) -> None:
    """Let a node lead a group."""
    if group.lower() == "all":
        _carry_out(way, f"CLUSTER TRANSFER LEADER NODE {node}")
    elif group.isdecimal():
        _carry_out(way, f"CLUSTER TRANSFER LEADER GROUP {group} TO {node}")
    else:
        raise typer.BadParameter("a group's number, or all", param_hint="GROUP")


@cluster.command("stepdown")
@_signed
def stepdown(
    way: Way,
    node: Annotated[int | None, typer.Argument(help="a node; else who leads meta")] = None,
    *,
    group: Annotated[int | None, typer.Option(help="of this group only")] = None,
) -> None:
    """Hand what a node leads to other nodes."""
    if group is not None:
        if node is not None:
            raise typer.BadParameter("name a node or a group", param_hint="--group")
        _carry_out(way, f"CLUSTER STEPDOWN GROUP {group}")
    else:
        _carry_out(way, "CLUSTER STEPDOWN" + (f" NODE {node}" if node is not None else ""))


@cluster.command("rebalance")
@_signed
def rebalance(
    way: Way,
    *,
    leaders: Annotated[bool, typer.Option("--leaders", help="only those")] = False,
    wait: Wait = False,
) -> None:
    """Spread members, leaders and slots evenly."""
    text = "CLUSTER REBALANCE LEADERS" if leaders else "CLUSTER REBALANCE"
    _carry_out(way, text, Settled() if wait else None)


@cluster.command("move")
@_signed
def move(
    way: Way,
    slot: Annotated[str, typer.Argument(help="a slot's number, or a user's name")],
    group: Annotated[int, typer.Argument(help="where it goes")],
    *,
    wait: Wait = False,
) -> None:
    """Move a slot, or that of a user, to another group."""
    what = f"SLOT {slot}" if slot.isdecimal() else f"USER {_quoted(slot)}"
    _carry_out(way, f"CLUSTER MOVE {what} TO GROUP {group}", Settled() if wait else None)


@cluster.command("snapshot")
@_signed
def snapshot(way: Way, group: GroupId = None) -> None:
    """Sync the leaders' row stores and cut their logs."""
    _carry_out(way, "CLUSTER SNAPSHOT" + (f" GROUP {group}" if group is not None else ""))


@cluster.command("watch")
@_signed
def watch(way: Way) -> None:
    """Show what is on its way, until nothing is."""

    async def work() -> None:
        async with connected(way.login) as connection:
            await shown_until(connection.execute, Settled())

    run(work())


# ---- carrying out -------------------------------------------------------------------------------

Ask = Callable[
    [str, list[Any] | None, str | None, str | None], Awaitable[Sequence[Mapping[str, Any]]]
]
"""`Connection.execute`."""


@dataclass(frozen=True, slots=True)
class Settled:
    """When it is done: nothing is on its way, and `holds(status, members)` of the node."""

    node: int | None = None
    holds: Callable[[str, int], bool] = lambda state, members: True


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _carry_out(way: Way, text: str, until: Settled | None = None) -> None:
    async def work() -> None:
        async with connected(way.login) as connection:
            results = await connection.execute(text, None, None, None)
            render.show(Console(), results, way.form)
            _check(results)
            if until is not None:
                await shown_until(connection.execute, until)

    run(work())


def _check(results: Sequence[Mapping[str, Any]]) -> None:
    """A group that could not is a failure of the command. Raises Refused."""
    failed = 0
    for result in results:
        names = [column["name"] for column in result.get("schema", [])]
        if "success" in names:
            at = names.index("success")
            failed += sum(row[at] is False for row in result["rows"])
    if failed:
        groups = "1 group" if failed == 1 else f"{failed} groups"
        raise Refused(f"{groups} could not: see the column error", EXIT_UNAVAILABLE)


async def shown_until(
    ask: Ask,
    until: Settled,
    console: Console | None = None,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """A bar for each move. A node that cannot be asked for a moment is asked again."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
    )
    quiet = 0
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console or Console(stderr=True)) as progress:
        while quiet < QUIET_LOOKS:
            try:
                moves = _objects(await ask(MOVES, None, None, None))
                settled = await _is_settled(ask, until)
            except Refused as refused:
                if refused.exit_code != EXIT_UNAVAILABLE:
                    raise
            else:
                _draw(progress, bars, moves)
                quiet = quiet + 1 if settled and not moves else 0
            if quiet < QUIET_LOOKS:
                await pause(LOOK_S)


async def _is_settled(ask: Ask, until: Settled) -> bool:
    if until.node is None:
        return True
    rows = _objects(await ask(STATES, [until.node], None, None))
    return all(until.holds(row["status"], int(row["members"])) for row in rows)


def _objects(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", render.as_object(results[0]))


def _draw(progress: Progress, bars: dict[str, TaskID], moves: Sequence[Mapping[str, Any]]) -> None:
    """A move that is no longer told of has arrived."""
    told = {_named(move): move for move in moves}
    for name in bars.keys() - told.keys():
        task = bars.pop(name)
        total = next(each.total for each in progress.tasks if each.id == task)
        progress.update(task, total=total or 1, completed=total or 1, left="done")
    for name, move in told.items():
        part, whole = _amount(move)
        left = f"{move['state']}{_eta(move['eta_seconds'])}"
        if name not in bars:
            bars[name] = progress.add_task(name, total=whole or None, left=left)
        progress.update(bars[name], total=whole or None, completed=part, left=left)


def _named(move: Mapping[str, Any]) -> str:
    if move["kind"] == "slot":
        return f"slot {move['slot']} to group {move['target']}"
    return f"group {move['group_id']} to node {move['target']}"


def _amount(move: Mapping[str, Any]) -> tuple[int, int]:
    unit = "bytes" if int(move["bytes_total"]) else "keys"
    return int(move[f"{unit}_done"]), int(move[f"{unit}_total"])


def _eta(seconds: float | None) -> str:
    if seconds is None:
        return ""
    whole = round(seconds)
    return f", {whole} s left" if whole < 120 else f", {whole // 60} min left"
