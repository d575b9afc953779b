"""HTML pages that are one file each and need no network, in the reader's choice of light or dark colours.

The templates are the files of this folder.
"""

from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup


def page(template: str, **values: Any) -> str:
    """Render the template `NAME.html.j2` of this folder with the given values."""
    loader = jinja2.PackageLoader("pipeline.pages", ".")
    return jinja2.Environment(loader=loader, autoescape=True).get_template(f"{template}.html.j2").render(**values)


def table(frame: pd.DataFrame) -> Markup:
    """Return a data frame as an HTML table, or nothing if it is empty."""
    return Markup(frame.to_html(index=False, border=0, escape=True)) if len(frame) else Markup("")
