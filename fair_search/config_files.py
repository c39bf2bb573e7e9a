"""Where the configs lie: in the checkout, or in the installed package."""

from __future__ import annotations

from pathlib import Path

PROMPT_SET = "default"
_PACKAGE = Path(__file__).resolve().parent


def config_folder() -> Path:
    """Folder with `backbones.yml`, `methods.yml`, `bias/` and `prompts/`.

    An installed package carries a copy of the checkout's `config/`; beside a checkout's own package there is
    none, and the checkout's is meant.
    """
    root = checkout()
    return _PACKAGE / "config" if root is None else root / "config"


def checkout() -> Path | None:
    """Root of the checkout that the package is used from; None where it is installed."""
    return None if (_PACKAGE / "config").is_dir() else _PACKAGE.parent


def prompt_folder() -> Path:
    """Folder of the prompts that come with the project."""
    return config_folder() / "prompts" / PROMPT_SET
