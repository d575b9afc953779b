"""Pages of one HTML file each that need no network: templates of this folder, in the colours of the reader's choice."""

from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup


def page(template: str, **facts: Any) -> str:
    """A template of this folder as HTML."""
    loader = jinja2.PackageLoader("pipeline.pages", ".")
    return jinja2.Environment(loader=loader, autoescape=True).get_template(f"{template}.html.j2").render(**facts)


def table(frame: pd.DataFrame) -> Markup:
    """A table as HTML; nothing for an empty one."""
    return Markup(frame.to_html(index=False, border=0, escape=True)) if len(frame) else Markup("")
