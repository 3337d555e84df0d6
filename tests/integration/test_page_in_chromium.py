"""The page at `/` in Debian's Chromium: on a desk and on a phone, in light and dark, without JavaScript."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from testbed.browser import Browser
from testbed.exporter import RunningExporter
from testbed.many_models import MODEL_COLUMN, models_catalogue
from testbed.process import free_port

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844, "phone": True}
SMALL_PHONE = {"width": 320, "height": 568, "phone": True}
LONG = "W" * 200
"""A label value that is as long as the exporter lets one be, and has no place where a line could break."""

TOO_WIDE = """
return [...document.querySelectorAll('body *')]
  .filter(e => { const box = e.getBoundingClientRect(); return box.left < -0.5 || box.right > innerWidth + 0.5; })
  .map(e => e.outerHTML.slice(0, 200));
"""
"""The elements that stick out of the window at its sides."""

CONTRASTS = """
const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
  .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
const numbers = color => color.match(/[0-9.]+/g).map(Number);
const behind = e => {
  for (; e; e = e.parentElement) {
    const color = numbers(getComputedStyle(e).backgroundColor);
    if (color.length === 3) return color;
  }
  throw new Error('no background');
};
return [...document.querySelectorAll('body, body *')]
  .filter(e => [...e.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
  .map(e => {
    const pair = [luminance(numbers(getComputedStyle(e).color)), luminance(behind(e))].sort((a, b) => b - a);
    return [(pair[0] + 0.05) / (pair[1] + 0.05), e.outerHTML.slice(0, 200)];
  });
"""
"""The contrast of each element with text to what is behind it, by WCAG 2's formula, from 1 to 21."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an exporter with nothing configured."""
    with RunningExporter(tmp_path_factory.mktemp("sample")) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        yield exporter.url


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an exporter with a long label value, columns that are missing, and an Airflow that is down."""
    folder = tmp_path_factory.mktemp("odd")
    names = [LONG, "<b>bold</b>", *(f"model_{number}" for number in range(20))]
    at = datetime.now(UTC).isoformat()
    lines = [json.dumps({"timestamp": at, MODEL_COLUMN: name, "value_0": 1.5}) for name in names]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    environment = {
        "AUDIT_URL": "log.jsonl",
        "EXPORTER_CATALOG": str(models_catalogue(folder / "catalogue.yaml")),
        "AIRFLOW_BASE_URL": f"http://127.0.0.1:{free_port()}/{LONG}",
        "AIRFLOW_USERNAME": "monitor",
        "AIRFLOW_PASSWORD": "planted",
    }
    with RunningExporter(folder, environment) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        exporter.wait_for("mlops_exporter_source_up", 0, source="airflow")
        yield exporter.url


@pytest.fixture(params=["sample", "odd"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param)) + "/"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("window", [DESK, PHONE, SMALL_PHONE], ids=["desk", "phone", "small phone"])
def test_nothing_sticks_out_and_every_text_can_be_read(browser: Browser, url: str, window: dict, dark: bool):
    browser.open(url, **window, dark=dark)
    content = browser.command("Page.getLayoutMetrics", {})["cssContentSize"]
    assert content["width"] <= window["width"]
    assert content["height"] > window["height"], "the page has been laid out"
    assert browser.run(TOO_WIDE) == []
    contrasts = browser.run(CONTRASTS)
    assert len(contrasts) > 50
    assert [found for found in contrasts if found[0] < 4.5] == []
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in background.removeprefix("rgb(").rstrip(")").split(","))
    assert (brightness < 3 * 64) if dark else (brightness > 3 * 192)


def test_the_page_keeps_its_own_policy_and_needs_nothing_else(browser: Browser, url: str):
    browser.messages()
    browser.open(url, **DESK)
    assert [message for message in browser.messages() if "favicon" not in message] == []
    assert browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)") == []


def test_the_policy_would_stop_what_got_into_the_page(browser: Browser, sample: str):
    browser.open(f"{sample}/", **DESK)
    browser.run("""
        const script = document.createElement('script');
        script.textContent = 'window.planted = 1';
        document.body.append(script);
        document.body.insertAdjacentHTML('beforeend', '<p id=styled style="width: 7px">x</p>');
    """)
    assert browser.run("return [window.planted ?? null, document.getElementById('styled').style.width]") == [None, ""]


def test_the_page_looks_the_same_without_javascript(browser: Browser, sample: str):
    """The height of what is laid out is that with JavaScript, and the screenshot is of that size."""
    browser.open(f"{sample}/", **PHONE)
    before = browser.command("Page.getLayoutMetrics", {})["cssContentSize"]
    browser.scripts("off")
    try:
        browser.open(f"{sample}/", **PHONE)
        after = browser.command("Page.getLayoutMetrics", {})["cssContentSize"]
    finally:
        browser.scripts("on")
    assert after["width"] == before["width"]
    assert after["height"] == pytest.approx(before["height"], abs=60), "a word of an age may have become longer"
