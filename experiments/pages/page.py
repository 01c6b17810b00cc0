"""Fill a page's template: all that is put in is text, and the page may ask for nothing."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from bilevel.errors import printable
from experiments.results import record

__all__ = ["link", "render"]

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, values: Mapping[str, Any]) -> str:
    """The page as HTML.

    What comes from a run's folder is somebody's text: it is escaped, its control characters and
    changes of the writing direction are shown as ``\\x1b``, and a browser that keeps to the page's
    Content-Security-Policy runs no script but ours, told by its checksum, and loads nothing.

    Args:
        template: its file's name.
        values: what the template shows; HTML only where it is ``Markup``.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_text,
    )
    script, css = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("sort.js", "style.css")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    own = {
        "policy": policy,
        "script": Markup(script),
        "css": Markup(css),
        "version": record.versions()["bilevel-finetuning"],
    }
    return environment.get_template(template).render({**own, **values})


def _text(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def link(target: Path, page: Path) -> str:
    """How a page calls a file or folder, so that both may be moved together.

    Args:
        target: what is linked to.
        page: the page's own file.
    """
    relative = os.path.relpath(target.resolve(), page.parent.resolve())
    # Quoted and after a dot: a folder may be called javascript:...
    return "./" + "/".join(quote(os.fsencode(part)) for part in Path(relative).parts)
