"""Small files in the format of Fashion-MNIST."""

import gzip

import numpy as np


def write_part(folder, part, labels, random):
    """Random pictures whose class is the place of a bright bar, with the generator `random`."""
    labels = labels.astype(np.uint8)
    images = random.integers(0, 60, (len(labels), 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 6] = 255
    sizes = b"".join(int(size).to_bytes(4, "big") for size in images.shape)
    (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + sizes + images.tobytes()))
    header = b"\0\0\x08\x01" + sizes[:4]
    (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))
