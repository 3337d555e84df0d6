"""What a bug may cost: the step in which it shows. The step is left out, counted, named in `/health`, logged once, and
tried again at the next turn."""

import contextlib
import logging
from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)


class Guard:
    """Runs the steps of the refresh loop and keeps account of those that fail on a bug.

    Attributes:
        errors: how often a step has failed.
    """

    def __init__(self) -> None:
        self.errors = 0
        self._failing: dict[str, str] = {}

    @property
    def failing(self) -> Mapping[str, str]:
        """Steps that failed when they were last tried, and how, in words that quote no data."""
        return dict(self._failing)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step. Whatever is raised inside ends here."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- that is what a guard is for
            self.failed(name, error)
        else:
            self.worked(name)

    def failed(self, name: str, error: BaseException) -> None:
        """Account for a step that failed."""
        self.errors += 1
        described = f"bug in the exporter ({type(error).__name__}); the log has the traceback"
        if self._failing.get(name) != described:
            log.error("%s failed on a bug; everything else goes on", name, exc_info=error)
        self._failing[name] = described

    def worked(self, name: str) -> None:
        """Account for a step that worked."""
        if self._failing.pop(name, None) is not None:
            log.info("%s works again", name)
