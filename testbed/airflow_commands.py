"""Airflow's command line, kept ready: one process imports Airflow once and forks a child for each command.

Run by an engine's own interpreter: `python -P airflow_commands.py SOCKET`. A client connects to the Unix socket, sends
one line of JSON, `{"arguments": ["dags", "test", ...], "output": "FILE"}`, and receives the command's exit status as a
line of JSON. What the command prints goes into the file. A connection that ends without a status says that the child
died. The `dags test` of a new interpreter spends nine tenths of its time on imports and on building its API.
"""

import asyncio
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
from typing import Any


def main(path: str) -> None:
    """Import Airflow, then serve until the process is killed."""
    prepare()
    # Children inherit what is there now: no thread, no open connection to the database, no garbage. AnyIO tells its
    # worker threads to stop when the event loop ends and does not wait for them.
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in others:
        thread.join(timeout=30)
    if alive := [thread.name for thread in others if thread.is_alive()]:
        raise RuntimeError(f"threads do not survive a fork: {alive}")
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes children that have ended
    with socket.socket(socket.AF_UNIX) as listener:
        # Bound under another name and renamed: the path appears when connections are accepted.
        listener.bind(f"{path}.new")
        listener.listen()
        os.rename(f"{path}.new", path)  # noqa: PTH104
        while True:
            connection, _ = listener.accept()
            with connection:
                if not os.fork():
                    serve(connection)


def prepare() -> None:
    """What every command would do anew: imports, database mappers, and the API that `dags test` of Airflow 3 asks."""
    importlib.import_module("airflow.__main__")
    importlib.import_module("airflow.cli.commands.dag_command")
    from airflow import settings
    from sqlalchemy.orm import configure_mappers

    for name in ("airflow.operators.python", "airflow.providers.standard.operators.python", "duckdb", "numpy"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    configure_mappers()
    with contextlib.suppress(ModuleNotFoundError):  # Airflow 2 has no such thing
        supervisor = importlib.import_module("airflow.sdk.execution_time.supervisor")
        asyncio.run(build(supervisor.in_process_api_server().app))
    settings.engine.dispose()


async def build(app: Any) -> None:
    """Answer one request: the application makes its routes at the first."""
    import httpx

    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as client:
        (await client.get("http://in-process/health")).raise_for_status()


def serve(connection: socket.socket) -> None:
    """In the child: run the command that the client asks for, send its status, and end."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request = json.loads(connection.makefile("rb").readline())
        with open(request["output"], "wb") as output:  # noqa: PTH123
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        status = run(request["arguments"])
        connection.sendall(b"%d\n" % status)
    finally:
        os._exit(status)


def run(arguments: list[str]) -> int:
    """Run a command to its end and give the status that its process would end with."""
    from airflow.__main__ import main as airflow

    sys.argv = ["airflow", *arguments]
    try:
        airflow()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)  # noqa: T201
            return 1
        return end.code or 0
    except BaseException:  # noqa: BLE001  (whatever it is, the command's output says it)
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    main(sys.argv[1])
