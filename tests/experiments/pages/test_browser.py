"""The pages in a real browser, where there is one."""

import base64
import hashlib
import html
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiments import figures, report
from tests.experiments.pages.runs import CLASSES, NASTY, run, values

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

# Let into the page by its checksum: sorts, measures, looks at what was loaded, and tells the frame
# around the page, whose title --dump-dom shows.
PROBE = """
const table = document.querySelector("#runs table.sort");
const heads = [...table.tHead.rows[0].cells];
const column = heads.findIndex((head) => head.textContent === "seed");
const read = () => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent);
const before = read();
heads[column].querySelector("button").click();
const up = read();
const sorted = heads[column].getAttribute("aria-sort");
heads[column].querySelector("button").click();
const wide = [...document.querySelectorAll("body *")].filter(
  (part) => !part.closest(".scroll") && part.getBoundingClientRect().right > innerWidth + 1
);
const ground = getComputedStyle(document.body).backgroundColor;
parent.postMessage(JSON.stringify({
  before, up, down: read(), sorted, ground, wide: wide.map((part) => part.outerHTML.slice(0, 80)),
  width: document.documentElement.scrollWidth, inner: innerWidth,
  loaded: performance.getEntriesByType("resource").map((entry) => entry.name),
  alerts: window.alerts ?? null,
}), "*");
"""


# Of a name, these would leave a mark if they were run.
HARM = f"{NASTY}<script>window.alerts = 1</script><img src=x onerror='window.alerts = 1'>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three runs whose names are scripts, with the figures of one page."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (10, 9, 100):
        run(folder / f"s{seed}", values(f"auto{HARM}", seed, task=HARM), CLASSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_several", lambda results, runs, out, compared: [])
        patch.setattr("experiments.pages.one_run.drawn", lambda drawings, title: [])
        report.main([str(folder)])
    return folder / "report.html"


def seen(page: Path, tmp_path: Path, width: int, scheme: str) -> dict[str, Any]:
    """What the probe says of a page in a frame of a width and of a colour scheme."""
    own = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    text = page.read_text(encoding="utf-8").replace("script-src ", f"script-src 'sha256-{own}' ")
    (tmp_path / "probed.html").write_text(
        text.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8"
    )
    # A window of its own is 500 pixels wide at the least.
    style = f"width: {width}px; height: 900px; border: 0; color-scheme: {scheme}"
    (tmp_path / "frame.html").write_text(
        "<script>onmessage = (told) => { document.title = told.data; };</script>"
        f'<iframe src="probed.html" style="{style}"></iframe>'
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    flags += ["--window-size=1400,1000", "--virtual-time-budget=5000"]
    shown = subprocess.run(
        [str(BROWSER), *flags, "--dump-dom", str(tmp_path / "frame.html")],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    title = shown.partition("<title>")[2].partition("</title>")[0]
    return dict(json.loads(html.unescape(title)))


@pytest.mark.parametrize(
    ("width", "scheme", "ground"),
    [(1200, "light", "rgb(244, 245, 247)"), (360, "dark", "rgb(16, 19, 23)")],
)
def test_a_page_opens_from_disk(
    page: Path, tmp_path: Path, width: int, scheme: str, ground: str
) -> None:
    found = seen(page, tmp_path, width, scheme)
    assert found["loaded"] == []
    assert found["alerts"] is None
    assert found["before"] == ["10", "100", "9"]
    assert (found["up"], found["down"]) == (["9", "10", "100"], ["100", "10", "9"])
    assert found["sorted"] == "ascending"
    assert found["ground"] == ground
    assert found["inner"] == width
    assert found["width"] <= width  # no scrolling to the side
    assert found["wide"] == []
