"""Files that were good and are not any more: values, keys, bytes and arrays that somebody might send."""

import io
import json
import zipfile

import numpy as np

DEEP = "\x00deep"  # stands for a nesting that json.dumps could not write itself
NUMBERS = [0, -1, 1, 2, 3, 0.5, -0.5, 1.5, 99.0, 1e-320, 1e308, -1e308, 10**18, 10**30, 10**400, 2**63, 2**64]
TEXTS = [
    "",
    " ",
    "x",
    "1",
    "-1",
    "nan",
    "ü",
    "\u2028",
    "\U0001f600",
    "\ud83d",
    "a\x00b",
    "../x",
    "=1+1",
    "<b>",
    "x" * 5000,
]
OTHERS = ["x" * 5000, None, True, False, [], {}, [None], [1, "a"], {"": None}, {"a": {"b": [1]}}, [1e999], DEEP]
VALUES = [*NUMBERS, *TEXTS, *OTHERS, float("nan"), float("inf"), float("-inf")]
SIGNS = [
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\r",
    b"\n\n",
    b",",
    b";",
    b"\t",
    b'"',
    b"'",
    b"{",
    b"[[[[",
]
WORDS = [
    b"[[[[",
    b"NaN",
    b"-0",
    b"1e400",
    b"-1",
    b"9" * 20,
    b" ",
    b"\xed\xa0\x80",
    b"PAR1",
    b"\x1f\x8b",
    b"true",
    b"\\ud83d",
]
PIECES = [*SIGNS, *WORDS]
DTYPES = ["f2", "f4", "f8", "i1", "u1", "i8", "u8", "?", "c16", "U5", "S5", "M8[s]"]


def mutated_json(rng, document):
    """One to three places of a document hold something else, are gone, twice there, or have another name."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.integers(1, 4)):
        parent, key = _place(rng, document)
        if parent is None:
            document = _value(rng)
            break
        what = rng.integers(6)
        if what <= 2:
            parent[key] = _value(rng)
        elif what == 3:
            del parent[key]
        elif what == 4:
            parent[key] = [parent[key]] * int(rng.integers(0, 4))
        elif isinstance(parent, dict):
            parent[str(_value(rng))[:50]] = parent.pop(key)
    text = json.dumps(document).replace(json.dumps(DEEP), "[" * 50_000 + "]" * 50_000)
    return mutated_bytes(rng, text.encode()) if rng.random() < 0.2 else text.encode()


def mutated_bytes(rng, content):
    """One to four cuts, doublings, foreign pieces or changed bytes."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        start, end = sorted(int(x) for x in rng.integers(0, len(content) + 1, 2))
        end = min(end, start + int(rng.integers(0, 30)))
        what = rng.integers(6)
        if what == 0:
            del content[start:end]
        elif what == 1:
            content[start:start] = content[start:end] * int(rng.integers(1, 4))
        elif what <= 3:
            content[start : start + int(rng.integers(0, 2))] = PIECES[rng.integers(len(PIECES))]
        elif what == 4 and content:
            content[start - 1] = int(rng.integers(256))
        elif rng.random() < 0.3:
            del content[start:]
    return bytes(content)


def mutated_cells(rng, rows):
    """A CSV file of which some cells hold something else."""
    rows = [list(row) for row in rows]
    for _ in range(rng.integers(1, 4)):
        row = rows[rng.integers(len(rows))]
        if row:
            row[rng.integers(len(row))] = str(_value(rng))[:3000]
    text = "\n".join(",".join(row) for row in rows).replace("\ud83d", "\ufffd")
    return mutated_bytes(rng, text.encode()) if rng.random() < 0.3 else text.encode()


def mutated_arrays(rng, arrays):
    """An npz file of which some arrays have another dtype, shape or content, are gone, or are not what they seem."""
    arrays = dict(arrays)
    for _ in range(rng.integers(1, 3)):
        if not arrays:
            break
        name = list(arrays)[rng.integers(len(arrays))]
        arrays[name] = _array(rng, arrays[name])
        if rng.random() < 0.15:
            del arrays[name]
        elif rng.random() < 0.1:
            arrays[name + "s"] = arrays.pop(name)
    file = io.BytesIO()
    np.savez(file, **arrays)
    content = file.getvalue()
    if rng.random() < 0.15:
        return mutated_bytes(rng, content)
    if rng.random() < 0.1:
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("notes.txt", b"not an array")
        return file.getvalue()
    return content


def _array(rng, array):
    wild = np.array([np.nan, np.inf, -np.inf, 1e39, -1e300, 0, 255, -1, 2**40, 0.5])

    def spoilt():
        return np.where(rng.random(array.shape) < 0.2, wild[rng.integers(len(wild))], array.astype(float))

    choices = [
        lambda: array.astype(DTYPES[rng.integers(len(DTYPES))]),
        lambda: array[: rng.integers(0, len(array) + 1)],
        lambda: array[..., None],
        lambda: array.ravel(),
        lambda: np.zeros((), array.dtype),
        lambda: np.zeros((0, *array.shape[1:]), array.dtype),
        lambda: np.where(rng.random(array.shape) < 0.2, wild[rng.integers(len(wild))], array.astype(float)),
        lambda: np.where(rng.random(array.shape) < 0.2, wild[rng.integers(len(wild))], array.astype(float)).astype(
            "f4"
        ),
        lambda: np.array(["a", "", "\ud83d", "nan"])[rng.integers(0, 4, len(array) if array.ndim else 1)],
        lambda: np.array([b"a", b"\xff", b""])[rng.integers(0, 3, len(array) if array.ndim else 1)],
        lambda: np.array([{}, None, 3], object),
        lambda: np.swapaxes(array, 0, -1) if array.ndim else array,
    ]
    with np.errstate(all="ignore"):
        try:
            return choices[rng.integers(len(choices))]()
        except (TypeError, ValueError):
            return np.array("no array of that kind")


def _value(rng):
    return VALUES[rng.integers(len(VALUES))]


def _place(rng, document):
    """A container of the document and a key in it; every place is as likely as any other."""
    places = []

    def walk(node):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(child, dict | list):
                walk(child)

    if isinstance(document, dict | list):
        walk(document)
    return places[rng.integers(len(places))] if places else (None, None)
