"""From a folder or a hub id to a folder on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from hybrid_rs_jax._files import kind_of, path_text

__all__ = ["checkpoint_folder"]

PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "tokenizer*"]


def checkpoint_folder(source: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint.

    Args:
      source: a folder, or a hub id such as "llava-hf/llava-1.5-7b-hf", which is downloaded once and then taken from
        the hub's cache.

    Raises:
      ValueError: with what to do, if there is no such folder and the hub does not give it.
    """
    folder, name = Path(source).expanduser(), os.fspath(source)
    kind = kind_of(folder)
    if kind == "folder":
        return folder
    if kind is not None or name.startswith((".", "/", "~", os.sep)) or name.count("/") != 1:
        raise ValueError(
            f"{path_text(source)} is no folder; give one that holds config.json, or a hub id of the form owner/name."
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"{name} is no folder, and fetching it from the hub needs huggingface_hub: install hybrid-rs-jax[vlm]."
        ) from error
    return Path(_download(huggingface_hub, name))


def _download(hub: object, name: str) -> str:
    from huggingface_hub import errors

    try:
        return hub.snapshot_download(name, allow_patterns=PATTERNS)  # type: ignore[attr-defined]
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{name} is gated: ask for access at https://huggingface.co/{name}, run `hf auth login` and try again."
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ValueError(
            f"The hub has no {name}, or shows it to its owners only: check the id, or run `hf auth login`."
        ) from error
    except (OSError, errors.HfHubHTTPError) as error:
        raise ValueError(
            f"{name} could not be fetched from the hub: check the network, or run `hf download {name}` where there is "
            "one and give the folder."
        ) from error
