"""The paper's tables from the table of all results: `python -m reproduce_tables N`.

`tables.yml` says which results stand in which column, `engine` turns such a description and the results into
cells, `render` writes cells as text, CSV, Markdown and LaTeX. `published/` holds the paper's figures.
"""

from pathlib import Path

TABLES_FILE = Path(__file__).with_name("tables.yml")
