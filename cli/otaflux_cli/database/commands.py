"""`otaflux db`: copy the database of a server, and put a copy back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from otaflux_cli.errors import WRONG_USAGE, UserError
from otaflux_cli.outputs import Output, OutputOption, print_json, remark
from otaflux_cli.places import DEFAULT_DATA

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

_T = TypeVar("_T")

app = typer.Typer(
    help="Copy the database that holds what devices did, and put a copy back.",
    no_args_is_help=True,
)

_FILE = "evidence.db"
_STANDALONE = "server"

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="OTAFLUX_EVIDENCE__DATABASE_URL",
        help="The database, sqlite:///FILE; instead of --data.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help=f"The data folder of standalone or of a server [default: {DEFAULT_DATA}].",
    ),
]


@app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(help="The new file for the copy.")],
    database: DatabaseOption = None,
    data: DataOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Copy the database to a new file, also while a server uses it.

    [bold]Examples[/bold]

        otaflux db backup otaflux-monday.db

        otaflux db backup /backup/otaflux.db --data /var/lib/otaflux

    It holds devices and what they did. Policies and manifests come from Git; status from
    Kubernetes, or for standalone from its own file in the data folder.
    """
    from otaflux_server.evidence import backups

    url = _url(database, data)
    _run(backups.backup(url, file))
    size = file.stat().st_size
    if output is Output.JSON:
        print_json({"file": str(file), "bytes": size})
        return
    typer.echo(f"Copied the database to {file} ({size} bytes).")
    remark(f"Put it back with: otaflux db restore {file}")


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(help="A copy that `otaflux db backup` made.")],
    database: DatabaseOption = None,
    data: DataOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put a copy back in the place of the database, while no server uses it.

    [bold]Examples[/bold]

        otaflux db restore otaflux-monday.db

        otaflux db restore /backup/otaflux.db --data /var/lib/otaflux

    What was there before is kept beside it. What the copy says of a device counts for the success
    of a ring only once the device was heard of again, so an old copy promotes nothing.
    """
    from otaflux_server.evidence import backups

    url = _target(database, data)
    kept = _run(backups.restore(url, file))
    if output is Output.JSON:
        print_json({"file": str(file), "replaced": None if kept is None else str(kept)})
        return
    typer.echo(f"Restored the database from {file}.")
    if kept is not None:
        typer.echo(f"What was there before: {kept}")
    remark(
        "Start the server. Devices count as updated once they are heard of again; until then "
        "rings wait."
    )


@app.command("mark-restored")
def mark_restored(
    database: DatabaseOption = None,
    data: DataOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say that a database was restored by other means (pg_restore), so that rings wait for it.

    [bold]Examples[/bold]

        otaflux db mark-restored --database postgresql://otaflux@db.example.com/otaflux

    `otaflux db restore` does it by itself. Servers read it when they start.
    """
    from otaflux_server.evidence import backups

    _run(backups.mark_restored(_url(database, data)))
    if output is Output.JSON:
        print_json({"restored": True})
        return
    typer.echo("Marked the database as restored.")
    remark("Start the servers. Devices count as updated once they are heard of again.")


def _url(database: str | None, data: Path | None) -> str:
    """Of the database that is there."""
    found = _given(database, data)
    if isinstance(found, str):
        return found
    file = _existing(found)
    if file is None:
        raise UserError(
            f"there is no {_FILE} in {found}",
            hint="Give the data folder of standalone or of a server (--data DIR), "
            "or --database URL.",
        )
    return _sqlite(file)


def _target(database: str | None, data: Path | None) -> str:
    """Of the database that is there, or will be: standalone's where nothing tells otherwise."""
    found = _given(database, data)
    if isinstance(found, str):
        return found
    if not found.is_dir():
        raise UserError(
            f"there is no folder {found}",
            hint="Give the data folder of standalone or of a server (--data DIR).",
        )
    file = _existing(found)
    if file is None:
        folder = found / _STANDALONE if (found / _STANDALONE).is_dir() else found
        file = folder / _FILE
    return _sqlite(file)


def _given(database: str | None, data: Path | None) -> str | Path:
    if data is not None:
        return data
    return database or DEFAULT_DATA


def _existing(folder: Path) -> Path | None:
    return next(
        (file for file in (folder / _STANDALONE / _FILE, folder / _FILE) if file.is_file()),
        None,
    )


def _sqlite(file: Path) -> str:
    return f"sqlite:///{file.absolute()}"


def _run(work: "Coroutine[Any, Any, _T]") -> _T:
    import asyncio

    from otaflux_server.evidence.backups import BackupNotSupported, DatabaseInUse, NoCopy
    from otaflux_server.evidence.databases import InvalidDatabaseUrl, StoreUnavailable

    try:
        return asyncio.run(work)
    except (BackupNotSupported, InvalidDatabaseUrl) as error:
        raise UserError(str(error), exit_code=WRONG_USAGE) from None
    except (FileExistsError, StoreUnavailable, DatabaseInUse, NoCopy) as error:
        raise UserError(str(error)) from None
