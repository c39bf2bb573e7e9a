"""Files of the Hugging Face hub: from the cache, or downloaded; one line for what cannot be had.

Without a connection the hub's client repeats each request for about 25 seconds. One short request tells in
advance whether the hub answers; if not, the client is told to use its cache only.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from safe_io.errors import InputError, plain_reason

_PATIENCE = 5.0  # seconds


def use_cache_if_unreachable() -> None:
    """Set ``HF_HUB_OFFLINE`` for this process if the hub does not answer.

    Libraries read the variable when they are imported; one that already is has its setting changed.
    """
    if offline():
        return
    if not _answers(endpoint()):
        os.environ["HF_HUB_OFFLINE"] = "1"
        if constants := sys.modules.get("huggingface_hub.constants"):
            constants.HF_HUB_OFFLINE = True


def offline() -> bool:
    """Whether the hub's libraries use their cache only."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        return bool(constants.HF_HUB_OFFLINE)
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def endpoint() -> str:
    """Address of the hub: ``HF_ENDPOINT``, or Hugging Face's own."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@cache
def _answers(address: str) -> bool:
    """Whether a server answers at all; an HTTP error is an answer, and so is a refused certificate."""
    if not address.startswith(("http://", "https://")):
        return False
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_PATIENCE):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return "CERTIFICATE" in str(error.reason).upper()
    except (OSError, ValueError):
        return False


def hub_file(model: str, filename: str, *, missing: str = "") -> Path:
    """Return a file of a model on the hub, downloaded if it is not in the cache.

    Parameters
    ----------
    model : str
        'org/name'.
    filename : str
        Its name in the model's repository.
    missing : str
        What follows from there being no such file, for the error line.

    Returns
    -------
    pathlib.Path
        In the hub's cache.

    Raises
    ------
    InputError
        The model or the file does not exist, the model is gated, the hub cannot be reached and the file is
        not in the cache, or the package ``huggingface_hub`` is missing.
    """
    use_cache_if_unreachable()
    try:
        from huggingface_hub import constants, errors, hf_hub_download
    except ImportError:
        raise InputError(
            "models of the hub need the package huggingface_hub: pip install huggingface_hub"
        ) from None
    where = f"model '{model}' of {endpoint()}"
    try:
        return Path(hf_hub_download(model, filename, endpoint=endpoint()))
    except errors.GatedRepoError:
        raise InputError(
            f"{where} is gated: accept its terms on its page, run `hf auth login`, then the command again"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{where} does not exist, or is private: check its name; for a private model, run `hf auth login`"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise InputError(
            f"{where}: the hub does not answer, or HF_HUB_OFFLINE is set, and {filename} is not in the cache "
            f"{constants.HF_HUB_CACHE}; with a connection, run `hf download {model}` and copy that cache "
            f"here, or give the model's folder as local-dir:PATH"
        ) from None
    except errors.EntryNotFoundError:
        raise InputError(f"{where} has no file {filename}{missing}") from None
    except Exception as error:  # the hub's client and its HTTP library raise many kinds
        raise InputError(f"{where}: {filename} cannot be downloaded: {plain_reason(error)}") from None


def cached_file(model: str, filename: str) -> Path | None:
    """Return a file of a model in the hub's cache; None if it is not there."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(model, filename, cache_dir=constants.HF_HUB_CACHE)
    return Path(found) if isinstance(found, str) else None
