"""Files of users with bytes changed, cut out, doubled and added: whatever happens, it is one sentence."""

import io
import json
import random
import re
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from hybrid_rs_jax._tables import read_table
from hybrid_rs_jax.data import load_npz, open_data, read_image

SENTENCE = re.compile(r"[^\n]{1,1000}\.")
#: What parsers tend to fall over.
PIECES = [b"\0", b"\xff\xfe", b"\xed\xa0\x80", b'"', b"\n", b",", b";", b"{", b"[" * 3000, b"\\ud800", b"NaN", b"1e999"]
PIECES += [b"9" * 5000, b"\xe2\x80\xa8", b"\x1f\x8b", b"PAR1", b"PK\x03\x04", b"-1", b"\xff" * 8, b"\x7f\xff\xff\xff"]


def npz():
    file = io.BytesIO()
    images = np.linspace(0, 1, 36, dtype=np.float32).reshape(3, 2, 2, 3)
    names = {"ids": np.array(["a", "b", "ü"]), "eligible": np.array([True, False, True, True])}
    np.savez(file, tokens=np.arange(12).reshape(3, 4), images=images, **names)
    return file.getvalue()


def picture(kind, **options):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(file, kind, exif=exif, **options)
    return file.getvalue()


def parquet():
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a", "b"], "successes": [1, 2], "n": [3, 4]}), file)
    return file.getvalue()


ROWS = [{"id": i, "text": f"text {i}\u2028", "image": f"{i}.png", "label": i % 2} for i in range(4)]
CASES = {
    "inputs.npz": npz(),
    "counts.csv": b'\xef\xbb\xbfid,successes,n\n"a, ""b""",1,10\nb,2.0,10\n' + "ü,3,10\r\n".encode(),
    "counts.parquet": parquet(),
    "inputs.csv": b"id,text,image,label\n" + b"".join(b'%d,"a\nb",%d.png,x\n' % (i, i) for i in range(4)),
    "inputs.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "a.png": picture("PNG"),
    "a.jpg": picture("JPEG"),
    "a.tiff": picture("TIFF", compression="tiff_lzw"),
}


def mutated(content, rng):
    """`content` after up to four random wounds."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(content) + 1)
        end = min(start + rng.choice([1, 1, 4, 40]), len(content))
        kind = rng.randrange(4)
        piece = rng.choice([rng.choice(PIECES), rng.randbytes(end - start), content[start:end] * 2])
        content = [
            content[:start] + piece + content[end:],
            content[:start] + piece + content[start:],
            content[:start] + content[end:],
            content[: rng.randrange(len(content) + 1)],
        ][kind]
    return content


def read(path):
    """What a command does with a file of this name."""
    if path.suffix == ".npz":
        return [load_npz(path).read(index).digest() for index in range(len(load_npz(path)))]
    if path.stem == "counts":
        table = read_table(path, ("id", "successes", "n"), ("budget",))
        n = table.integers("n", 1, 2**53)
        columns = [table.labels(name) for name in (*table.unknown, "budget")]
        return table.names(), table.integers("successes", 0, n, "n"), columns
    if path.stem == "inputs":
        data = open_data(path)
        return data.digest(), "".join((*data.ids, *data.texts)).encode(), str(data.labels).encode()
    return read_image(path)


def survives(tmp_path: Path, name: str, seed: int) -> bool:
    """Whether a mutated file is read; anything else but one sentence is a failure."""
    path = tmp_path / name
    path.write_bytes(mutated(CASES[name], random.Random(seed)))
    try:
        read(path)
    except ValueError as error:  # BadInputError and UnreadableInputError are such
        sentence = str(error)
    else:
        return True
    assert SENTENCE.fullmatch(sentence), f"seed {seed} of {name}: {sentence!r}"
    return False


@pytest.mark.parametrize("name", CASES)
def test_files_of_the_fuzz_test_are_read_as_they_are(tmp_path, name):
    (tmp_path / name).write_bytes(CASES[name])
    read(tmp_path / name)


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_read_or_refused_in_one_sentence(tmp_path, name):
    outcomes = [survives(tmp_path, name, zlib.crc32(name.encode()) + seed) for seed in range(25)]
    assert not all(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_damaged_files_are_read_or_refused_in_one_sentence(tmp_path, name):
    for seed in range(2000):
        survives(tmp_path, name, seed)


def test_warnings_of_decoders_do_not_reach_the_user(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(20):
            survives(tmp_path, "a.tiff", seed)
