"""gunicorn's own way to run the exporter: gunicorn -c docker/exporter/gunicorn.conf.py "exporter.server:app()".

Everything stands in `exporter.server`, so that this and `python -m exporter serve` cannot differ.
"""

import os

from exporter.server import gunicorn_options
from exporter.settings import Settings

globals().update(gunicorn_options(Settings.from_env(os.environ)))
