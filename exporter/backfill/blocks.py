"""Prometheus' own tool, which turns a file of OpenMetrics into a block."""

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

from exporter.backfill.grid import BLOCK_SECONDS
from exporter.errors import ConfigError, OutputError

TIMEOUT_SECONDS: Final = 600.0
"""For one block. A file of a few hundred thousand samples takes seconds."""
RESERVED_BYTES: Final = 512 * 2**20
"""What promtool reserves while it writes a block, and gives back: the largest file of chunks (Prometheus'
tsdb/chunks/chunks.go, DefaultChunkSegmentSize). Without so much free space it fails."""
_INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM)


def find_promtool() -> str:
    """Path of promtool.

    Raises:
        ConfigError: it is not installed.
    """
    path = shutil.which("promtool")
    if path is None:
        raise ConfigError(
            ["--promtool: there is no promtool on the PATH. It comes with Prometheus (Debian: apt install prometheus)"]
        )
    return path


def make_block(promtool: str, file: Path, blocks: Path) -> None:
    """Make the file's block in the folder `blocks`.

    Without the flag for the block's length, which promtool 2.42 has and does not list, it makes blocks of 2 h and reads
    the whole file again for each of them.

    Raises:
        OutputError: promtool failed; with what it said last.
    """
    length = f"--max-block-duration={BLOCK_SECONDS // 3600}h"
    command = [promtool, "tsdb", "create-blocks-from", length, "--quiet", "openmetrics", str(file), str(blocks)]
    # An interrupt in the middle of Popen would leave promtool running, with nobody who knows of it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 -- arguments are ours
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
                output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
            except BaseException:
                # Ended for certain before the caller removes what it was writing.
                process.kill()
                process.wait()
                raise
    except subprocess.TimeoutExpired as error:
        raise OutputError(f"promtool did not end within {TIMEOUT_SECONDS:g} s on {file.name}") from error
    except OSError as error:
        raise OutputError(f"promtool cannot be run: {error.strerror}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
    if process.returncode != 0:
        said = (errors.strip() or output.strip() or f"exit code {process.returncode}").splitlines()[-1]
        raise OutputError(f"promtool made no block of {file.name}: {said[:300]}")
