"""Renders the content as one HTML file that needs no network.

The page has no script, and its content security policy lets nothing be loaded: style is inline, and
pictures are data URIs. Names of data sets, methods and files come from strangers; the template
escapes every value, and the drawings were escaped by matplotlib.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe

_FOLDER = pathlib.Path(__file__).parent


def render(content: Mapping[str, Any]) -> str:
  """The whole page.

  Args:
    content: from `content.build`.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  css = markupsafe.Markup((_FOLDER / 'page.css').read_text(encoding='utf-8'))
  return environment.get_template('page.html').render(css=css, **content).lstrip()
