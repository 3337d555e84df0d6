"""Debian's Chromium, driven by chromedriver over WebDriver's HTTP protocol (https://www.w3.org/TR/webdriver2/)."""

import base64
from pathlib import Path
from typing import Any, Literal

import requests

from testbed.debian import program
from testbed.process import ServerProcess, free_port, http_ready

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


class Browser:
    """One headless window, with an empty profile.

    Args:
        folder: where the profile and the driver's log go.
    """

    def __init__(self, folder: Path) -> None:
        self._profile = folder / "profile"
        self._chromium = program("chromium")
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._driver = ServerProcess(
            [program("chromedriver"), f"--port={port}"],
            log=folder / "chromedriver.log",
            ready=http_ready(f"{self._url}/status"),
            ready_within=60,
        )
        self._http = requests.Session()
        self._http.trust_env = False

    def __enter__(self) -> "Browser":
        self._driver.start()
        arguments = [*ARGUMENTS, f"--user-data-dir={self._profile}"]
        wanted = {
            "goog:chromeOptions": {"binary": self._chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        try:
            made = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._driver.stop()
            raise
        self._url += f"/session/{made['sessionId']}"
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._http.delete(self._url, timeout=30)
        finally:
            self._http.close()
            self._driver.stop()

    def open(self, url: str, *, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Load a page in a viewport of this size (CSS pixels), with the user's preference for light or dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setDeviceMetricsOverride", metrics)
        self.command("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._post("/url", {"url": url})

    def scripts(self, state: Literal["on", "off"]) -> None:
        """Whether pages that are loaded from now on run JavaScript."""
        self.command("Emulation.setScriptExecutionDisabled", {"value": state == "off"})

    def run(self, script: str) -> Any:
        """What a function body in JavaScript returns, run in the page by the driver."""
        return self._post("/execute/sync", {"script": script, "args": []})

    def messages(self) -> list[str]:
        """What the browser's console says since this was last asked, such as breaches of the page's policy."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def screenshot(self, *, whole: bool) -> bytes:
        """The viewport, or the whole page, as PNG."""
        found = self.command("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        return base64.b64decode(found["data"])

    def command(self, name: str, parameters: dict[str, Any]) -> Any:
        """One command of Chrome's DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""
        return self._post("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(self._url + path, json=body, timeout=60)
        content = answer.json()["value"]
        assert answer.status_code == 200, content
        return content
