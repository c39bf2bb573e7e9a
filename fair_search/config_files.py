"""Where the configs are: in the checkout, or in the installed package."""

from __future__ import annotations

from pathlib import Path

from safe_io.checkout import CONFIG, IS_CHECKOUT, ROOT

PROMPT_SET = "default"


def config_folder() -> Path:
    """Folder with `backbones.yml`, `methods.yml`, `bias/` and `prompts/`.

    An installed package carries a copy of the checkout's `config/`; beside a checkout's own package there is
    none, and the checkout's is meant.
    """
    root = checkout()
    return CONFIG if root is None else root / "config"


def checkout() -> Path | None:
    """Root of the checkout that the package is used from; None where it is installed."""
    return ROOT if IS_CHECKOUT else None


def prompt_folder() -> Path:
    """Folder of the prompts that come with the project."""
    return config_folder() / "prompts" / PROMPT_SET
