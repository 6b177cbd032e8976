"""Sphinx settings. Build: ``make docs`` (warnings are errors, no network)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pet

project = "Pet"
author = "Pet contributors"
version = release = pet.__version__

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_generated"]
nitpicky = True

html_theme = "furo"
html_title = f"Pet {version}"
html_static_path = ["_static"]
html_show_copyright = False
html_show_sphinx = False
