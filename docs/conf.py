"""Configuration of the documentation, which `make docs` builds into `docs/_build/html`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

project = "CRaSh Flow"
html_title = "CRaSh Flow"
html_theme = "furo"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "generate"]

# Formulas are written as plain text: MathJax would be loaded from the network.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# A notebook whose code fails must not be published.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
# Notices of packages, which name folders of the machine.
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
# Single backticks in docstrings are code.
default_role = "code"
