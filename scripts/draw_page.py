"""Take the picture of the page at / for the README: the exporter with nothing configured, in Debian's Chromium.

python scripts/draw_page.py                      to docs/img/page.png
python scripts/draw_page.py --into folder        to another folder
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from testbed.browser import Browser  # noqa: E402 -- the path has to be set first
from testbed.exporter import RunningExporter  # noqa: E402


def main() -> None:
    """Draw the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "img", help="where the picture goes")
    into = parser.parse_args().into
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with RunningExporter(folder) as exporter, Browser(folder / "browser") as browser:
            exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
            browser.open(f"{exporter.url}/", width=1100, height=840)
            (into / "page.png").write_bytes(browser.screenshot(whole=False))


if __name__ == "__main__":
    main()
