"""Options that every command with a connection has, and running it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from kalamdb.cli.connection import Login, Refused
from kalamdb.cli.render import Format

Url = Annotated[str, typer.Option(envvar="KALAM_URL", help="address of a node")]
User = Annotated[str | None, typer.Option(envvar="KALAM_USER", help="who signs in")]
Password = Annotated[str | None, typer.Option(envvar="KALAM_PASSWORD", help="asked for if absent")]
Token = Annotated[str | None, typer.Option(envvar="KALAM_TOKEN", help="instead of user, password")]
Shown = Annotated[Format, typer.Option("--format", help="how rows are printed")]
DEFAULT_URL = "http://127.0.0.1:8080"


def login_of(url: str, user: str | None, password: str | None, token: str | None) -> Login:
    """Asks for a password that is missing. Raises BadParameter."""
    if token is not None:
        return Login(url, token=token)
    if user is None:
        raise typer.BadParameter("say who signs in: --user, or --token", param_hint="--user")
    if password is None:
        password = typer.prompt(f"password of {user}", hide_input=True, err=True)
    return Login(url, user=user, password=password)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Ends the program with the exit code of what the server said."""
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(work)
    except Refused as refused:
        Console(stderr=True).print(Text(str(refused), style="red"), soft_wrap=True)
        raise typer.Exit(refused.exit_code) from refused
