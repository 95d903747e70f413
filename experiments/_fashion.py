"""Fashion-MNIST from the files of Debian's package `dataset-fashion-mnist`."""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from hybrid_rs_jax.errors import BadInputError

FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
#: SHA-256 of each file's contents, before compression.
DIGESTS = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures in [0, 1], float32[N, 28, 28, 1], and their classes, int32[N] in 0..9."""

    images: np.ndarray
    labels: np.ndarray


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the files lie, and whether they are the published ones."""
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder with the four files (default: %(default)s)")
    parser.add_argument("--any-contents", action="store_true", help="the files are your own, in the same format")


def load_fashion(folder: Path, part: str, *, any_contents: bool = False) -> Pictures:
    """One part, "train" (60,000) or "t10k" (10,000).

    Args:
      folder: holds the four files.
      part: which.
      any_contents: the files are somebody's own, in the same format; their digests are not asked for.

    Raises:
      BadInputError: if a file is absent, broken, or not the one that was published.
    """
    images = _read(folder / f"{part}-images-idx3-ubyte.gz", 16, any_contents)
    labels = _read(folder / f"{part}-labels-idx1-ubyte.gz", 8, any_contents)
    if len(images) != 784 * len(labels):
        raise BadInputError(f"{folder} holds {len(labels)} labels of {part} but {len(images) / 784:g} pictures.")
    pictures = images.reshape(-1, 28, 28, 1).astype(np.float32) / np.float32(255)
    return Pictures(pictures, labels.astype(np.int32))


def _read(path: Path, header: int, any_contents: bool) -> np.ndarray:
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise BadInputError(
            f"{path} does not exist; install Debian's package dataset-fashion-mnist, or give the folder with --data."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise BadInputError(f"{path} cannot be read: {error}.") from error
    if not any_contents and hashlib.sha256(content).hexdigest() != DIGESTS[path.name]:
        raise BadInputError(f"{path} is not the file that was published: its SHA-256 differs.")
    return np.frombuffer(content, np.uint8, offset=header)
