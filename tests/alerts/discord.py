"""A webhook shaped like Discord's: it takes what Discord takes, refuses what Discord refuses, and keeps the messages.

Limits from Discord's documentation of webhooks and embeds: content of 2000 characters, 10 embeds, a title of 256, a
description of 4096, 25 fields, 6000 characters in all embeds; a message needs content or an embed, and links are
absolute. A message that is taken is answered with 204.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from testbed.faults import FaultProxy, Reply, Request, status

CONTENT: Final = 2000
EMBEDS: Final = 10
TITLE: Final = 256
DESCRIPTION: Final = 4096
FIELDS: Final = 25
ALL_EMBEDS: Final = 6000
_PATH: Final = re.compile(r"^/api/webhooks/(\w+)/[\w-]+$")


@dataclass(frozen=True)
class Message:
    """A message that Discord would have shown.

    Attributes:
        at: when it came, on the monotonic clock.
        channel: the part of the webhook's path that names it.
    """

    at: float
    channel: str
    title: str
    text: str

    @property
    def resolved(self) -> bool:
        """Whether it reports the end of something."""
        return "✅ resolved" in self.title


def refusal(content: Any) -> str | None:
    """Why Discord would answer 400; None when it would not."""
    if not isinstance(content, Mapping):
        return "not a JSON object"
    embeds = content.get("embeds") or []
    texts = [str(embed.get(key) or "") for embed in embeds for key in ("title", "description")]
    if not content.get("content") and not any(texts):
        return "Cannot send an empty message"
    if len(content.get("content") or "") > CONTENT:
        return f"content: must be {CONTENT} or fewer in length"
    if len(embeds) > EMBEDS:
        return f"embeds: must be {EMBEDS} or fewer in length"
    for embed in embeds:
        if len(embed.get("title") or "") > TITLE:
            return f"embeds.title: must be {TITLE} or fewer in length"
        if len(embed.get("description") or "") > DESCRIPTION:
            return f"embeds.description: must be {DESCRIPTION} or fewer in length"
        if len(embed.get("fields") or []) > FIELDS:
            return f"embeds.fields: must be {FIELDS} or fewer in length"
        if embed.get("url") and not re.match(r"https?://[^/\s]+", embed["url"]):
            return "embeds.url: Not a well formed URL."
    return f"embeds: must be {ALL_EMBEDS} or fewer in length" if sum(map(len, texts)) > ALL_EMBEDS else None


class Discord:
    """The endpoint, as a context manager. `webhook(channel)` is an address to give to Alertmanager."""

    def __init__(self) -> None:
        self.proxy = FaultProxy(script=self._answer)
        self.messages: list[Message] = []
        self.refused: list[str] = []
        self._arrival = threading.Condition()

    def __enter__(self) -> "Discord":
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.close()

    def webhook(self, channel: str) -> str:
        """The address of one channel's webhook."""
        return f"{self.proxy.url}/api/webhooks/{channel}/token"

    def limit_rate(self, seconds: float, times: int = 1) -> None:
        """Answer the next requests with 429, as Discord does."""
        body = {"message": "You are being rate limited.", "retry_after": seconds, "global": False}
        self.proxy.add(status(429, body, headers={"Retry-After": str(seconds)}), times=times)

    def wait_for(self, wanted: Callable[[Message], bool], within: float, since: float = 0.0) -> Message:
        """The first message of this kind that came after `since`, once there is one."""

        def found() -> Message | None:
            return next((message for message in self.messages if message.at > since and wanted(message)), None)

        with self._arrival:
            message = self._arrival.wait_for(found, within)
        assert message, f"no such message in {within} s; there were {[m.title for m in self.messages]}, {self.refused}"
        return message

    def _answer(self, request: Request) -> Reply:
        found = _PATH.match(request.path)
        if request.method != "POST" or not found:
            return Reply(404, b'{"message": "Unknown Webhook", "code": 10015}')
        try:
            content = request.json()
            problem = refusal(content)
        except ValueError:
            problem = "The request body contains invalid JSON."
        if problem:
            self.refused.append(problem)
            return Reply(400, json.dumps({"message": problem, "code": 50035}).encode())
        embed = (content.get("embeds") or [{}])[0]
        text = "\n".join(filter(None, [content.get("content"), embed.get("description")]))
        with self._arrival:
            self.messages.append(Message(time.monotonic(), found[1], embed.get("title", ""), text))
            self._arrival.notify_all()
        return Reply(204)
