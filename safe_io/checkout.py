"""Where the project is: the root of a checkout, or the folder that holds the installed packages."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_INSTALLED = ROOT / "fair_search" / "config"
IS_CHECKOUT = not _INSTALLED.is_dir()
SCRIPTS = "" if IS_CHECKOUT else "fair_search.scripts."  # prefix of the modules of scripts
CONFIG = ROOT / "config" if IS_CHECKOUT else _INSTALLED  # an installed package carries the configs
