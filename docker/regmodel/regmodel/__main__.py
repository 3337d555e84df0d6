"""`python -m regmodel`: serve the API. One process: it owns the models' folder."""

import argparse
import logging
import os
import sys

# One thread for each training or prediction, unless it is said otherwise: on a busy machine the threads of one mostly
# wait for each other. To be set before NumPy and scikit-learn are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import uvicorn

from regmodel.app import create_app
from regmodel.settings import BadSettings, Settings


def main() -> int:
    """Parse the command line and serve until SIGTERM or Ctrl-C. Exit status 2 for settings that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m regmodel", description="The RegModel API.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = Settings.from_environment(os.environ)
    except BadSettings as error:
        print(f"error: the settings cannot be used:\n{error}", file=sys.stderr)  # noqa: T201 -- a command line's output
        return 2
    uvicorn.run(create_app(settings), host=options.host, port=options.port, log_config=None, access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
