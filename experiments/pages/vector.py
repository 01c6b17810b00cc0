"""Turn a figure into SVG that stands inside a page and takes the page's colours, light or dark."""

from __future__ import annotations

import re
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from bilevel.errors import printable
from experiments.plots import style

__all__ = ["Figure", "inline"]

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
PIXELS = 96 / 72  # of a page in a point of the figure
# What figures are drawn with -> what the page's style sheet calls it. Lines and areas of white are
# the paper, and of black the ink; letters of either stand on a colour of their own and stay.
NAMED = {
    style.BLUE: "blue",
    style.ORANGE: "orange",
    style.GREEN: "green",
    style.VERMILLION: "vermillion",
    style.OKABE_ITO[3]: "purple",
    style.OKABE_ITO[5]: "sky",
    style.GREY: "grey",
    style.INK: "ink",
    style.SOFT: "soft",
    style.STRIPE: "stripe",
    style.STYLE["axes.edgecolor"]: "edge",
    style.STYLE["grid.color"]: "grid",
    style.STYLE["xtick.color"]: "tick",
}
COLOURS = {colour.lower(): f"var(--{name})" for colour, name in NAMED.items()}
OF_AREAS = {**COLOURS, "#ffffff": "var(--paper)", "#000000": "var(--ink)"}
COLOUR = re.compile(r"#[0-9a-f]{6}\b", re.IGNORECASE)
FAMILY = re.compile(r"(font(?:-family)?:[^;\"]*?)(?:'[^']*'|[\w-]*sans[\w-]*)(?:, ?[^;]+)?(?=;|$)")
POINTED = re.compile(r"url\(#([^)]+)\)")

NO_XML = re.compile("[\ufffe\uffff]")

ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)


@dataclass(frozen=True)
class Figure:
    """A drawing for a page.

    Attributes:
        name: unlike those of the page's other figures.
        title: what it shows, for those who do not see it.
        svg: the drawing.
        width: in pixels of the page, at which its letters are as large as the page's.
        caption: what it shows, for all; empty without.
    """

    name: str
    title: str
    svg: Markup
    width: int
    caption: str = ""


def inline(
    name: str, title: str, draw: Callable[[Path], object], caption: str = ""
) -> Figure | None:
    """Draw a figure as SVG and make it a part of a page.

    Args:
        name: begins all of its ids, which therefore differ from those of the other figures.
        title: what it shows, in words.
        draw: writes the file that it is given, by its ending; returns False when there is nothing.
        caption: stands below it.

    Returns:
        None when there is nothing to draw.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.svg"
        if draw(path) is False:
            return None
        root = ET.fromstring(_plain(path.read_text(encoding="utf-8")))
    width = float(root.attrib["width"].removesuffix("pt")) * PIXELS
    for above in list(root.iter()):
        for part in list(above):
            # The writer's name and date, and a style for all of the page.
            if part.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                above.remove(part)
    seen: set[str] = set()
    for part in root.iter():
        _rename(part, name)
        _colour(part)
        if part.get("id") in seen:  # the same marker once more
            del part.attrib["id"]
        seen.add(part.get("id", ""))
    for size in ("width", "height"):
        del root.attrib[size]
    root.set("role", "img")
    root.set("aria-label", _plain(title))
    return Figure(name, title, Markup(ET.tostring(root, encoding="unicode")), round(width), caption)


def _plain(text: str) -> str:
    """Without the signs that are in no XML, which somebody's names may have."""
    return NO_XML.sub("\ufffd", printable(text))


def _rename(part: ET.Element, name: str) -> None:
    """Let the ids of a part, and what points to one, begin with the figure's name."""
    for key, value in part.attrib.items():
        if key == "id":
            part.set(key, f"{name}-{value}")
        elif key in ("href", f"{{{XLINK}}}href") and value.startswith("#"):
            part.set(key, f"#{name}-{value[1:]}")
        else:
            part.set(key, POINTED.sub(rf"url(#{name}-\1)", value))


def _colour(part: ET.Element) -> None:
    """Let a part have the page's colours and, where it is a text, its letters."""
    said = part.get("style")
    if said is None:
        return
    letters = part.tag in (f"{{{SVG}}}text", f"{{{SVG}}}tspan")
    colours = COLOURS if letters else OF_AREAS
    said = COLOUR.sub(lambda found: colours.get(found[0].lower(), found[0]), said)
    if letters:
        said = FAMILY.sub(r"\1var(--letters)", said)
        if "fill" not in said:  # SVG's own is black
            said += "; fill: var(--ink)"
    part.set("style", said)
