"""Where the project lies: the root of a checkout, or the folder that holds the installed packages."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
