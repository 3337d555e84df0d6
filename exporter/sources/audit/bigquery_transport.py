"""The transport of everything that Google's client sends: under a deadline, with answers that are bounded."""

from typing import Any

import requests

from exporter.errors import BadData
from exporter.sources.boundary import measure
from exporter.sources.deadlines import DeadlineAdapter


class BoundedAdapter(DeadlineAdapter):
    """Refuses an answer that Google's client would make too many objects of: 30 KB can unfold to gigabytes."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send one request and read its whole answer before the deadline. See `DeadlineAdapter.send`.

        Raises:
            BadData: the answer has too many values, or is nested too deep.
        """
        response = super().send(request, *args, **kwargs)
        try:
            measure(response.content)
        except ValueError as error:
            raise BadData(f"BigQuery's endpoint sent an answer with {error}, which was refused.") from error
        return response
