"""Runs the command line in the test's process, which spares a process's start and imports."""

import contextlib
import io
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

from exporter.__main__ import main


def run(folder: Path, *arguments: str, **environment: str) -> CompletedProcess[str]:
    """What `python -m exporter` does in a folder, with these environment variables alone."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, {"PATH": os.environ["PATH"], **environment}, clear=True),
        _all_is_put_back(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main(arguments)
        except SystemExit as left:  # by argparse
            code = int(left.code or 0)
    out.seek(0)
    return CompletedProcess(arguments, code, out.read(), err.getvalue())


@contextlib.contextmanager
def _all_is_put_back() -> Iterator[None]:
    """Logging and signals, which a command configures for its process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for number, handler in signals.items():
            signal.signal(number, handler)
