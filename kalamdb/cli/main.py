"""`kalam`: statements and live queries from a shell, a demo, and the page of settings.

Exit codes: 0 done · 1 the server refused · 2 wrong usage · 3 not signed in · 4 not reachable,
nothing was done · 5 the outcome is unknown. What went wrong is on stderr, results are on stdout.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.text import Text

from kalamdb.cli import render, settings_page, statements_page
from kalamdb.cli.cluster import cluster
from kalamdb.cli.connection import connected
from kalamdb.cli.demo import demo
from kalamdb.cli.render import Format
from kalamdb.cli.signing import DEFAULT_URL, Password, Shown, Token, Url, User, login_of
from kalamdb.cli.signing import run as run_async

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="KalamDB from a shell.", rich_markup_mode=None
)
app.command("demo")(demo)

app.add_typer(cluster, name="cluster")


@app.command("sql")
def sql(
    statement: Annotated[str, typer.Argument(help="SQL; - reads it from stdin")],
    *,
    params: Annotated[str | None, typer.Option(help="JSON array for $1, $2, …")] = None,
    namespace: Annotated[str | None, typer.Option(help="for names without one")] = None,
    request_id: Annotated[str | None, typer.Option(help="makes repeating it safe")] = None,
    url: Url = DEFAULT_URL,
    user: User = None,
    password: Password = None,
    token: Token = None,
    form: Shown = Format.TABLE,
) -> None:
    """Run statements and print their results."""
    text = sys.stdin.read() if statement == "-" else statement
    values = _params(params)
    login = login_of(url, user, password, token)

    async def run() -> None:
        async with connected(login) as connection:
            results = await connection.execute(text, values, namespace, request_id)
        render.show(Console(), results, form)

    run_async(run())


@app.command("live")
def live(
    query: Annotated[str, typer.Argument(help="a SELECT")],
    *,
    last_rows: Annotated[int | None, typer.Option(help="begin with the newest N rows")] = None,
    from_seq: Annotated[str | None, typer.Option(help="resume after this _seq")] = None,
    url: Url = DEFAULT_URL,
    user: User = None,
    password: Password = None,
    token: Token = None,
    form: Shown = Format.TABLE,
) -> None:
    """Print rows of a live query as they come, until Ctrl-C: + new, ~ changed, - gone."""
    if form is Format.CSV:
        raise typer.BadParameter("a live query prints text or json", param_hint="--format")
    login = login_of(url, user, password, token)
    console = Console()

    async def run() -> None:
        async with connected(login) as connection:
            async for message in connection.live(query, last_rows, from_seq):
                for mark, row in render.live_lines(message, form):
                    line = Text(f"{mark} ", style=render.MARK_STYLES[mark])
                    console.print(line.append(row, style="default"), soft_wrap=True)

    run_async(run())


@app.command("settings")
def settings() -> None:
    """Print the reference of all settings of a node, as Markdown."""
    print(settings_page.page(), end="")


@app.command("statements")
def statements() -> None:
    """Print the reference of all SQL statements, as Markdown."""
    print(statements_page.page(), end="")


@app.command("functions")
def functions() -> None:
    """Print the reference of all SQL functions, as Markdown."""
    from kalamdb.cli import functions_page  # it loads the query engine

    print(functions_page.page(), end="")


def _params(text: str | None) -> list[Any] | None:
    if text is None:
        return None
    try:
        values: Any = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(str(error), param_hint="--params") from error
    if not isinstance(values, list):
        raise typer.BadParameter("it must be a JSON array", param_hint="--params")
    return values  # pyright: ignore[reportUnknownVariableType]
