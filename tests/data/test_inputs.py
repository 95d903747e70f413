"""Inputs as arrays: what an archive may hold, and the sentence for each thing that it may not."""

import io
import pickle
import re
import zipfile

import numpy as np
import pytest

from hybrid_rs_jax.data import ArrayInputs, Input, Inputs, load_npz

B, L = 3, 4
TOKENS = np.arange(B * L).reshape(B, L)
IMAGES = np.linspace(0, 1, B * 8 * 8 * 3).reshape(B, 8, 8, 3).astype(np.float32)
GOOD = {"tokens": TOKENS, "images": IMAGES}


def archive(tmp_path, **arrays):
    np.savez(tmp_path / "inputs.npz", **GOOD | arrays)
    return tmp_path / "inputs.npz"


def refused(path, **options):
    with pytest.raises(ValueError, match=r"^[^\n]*\.$") as caught:
        load_npz(path, **options)
    return str(caught.value)


def test_tokens_and_images_are_enough(tmp_path):
    inputs = load_npz(archive(tmp_path))
    assert isinstance(inputs, Inputs)
    assert inputs.ids == ["0", "1", "2"]
    assert (len(inputs), inputs.tokens.dtype, inputs.images.dtype) == (B, np.int32, np.float32)
    np.testing.assert_array_equal(inputs.eligible, np.ones(L, bool))
    one = inputs.read(1)
    assert one.id == "1"
    np.testing.assert_array_equal(one.tokens, TOKENS[1])
    np.testing.assert_array_equal(one.image, IMAGES[1])


def test_the_digest_is_about_the_arrays_alone_and_has_not_changed_since_version_0_1():
    arrays = TOKENS[0].astype(np.int32), IMAGES[0], np.array([True, False, True, True])
    expected = "5bb6193e1547a7d7f889d3bb7347c81a"
    assert Input(*arrays).digest() == Input(*arrays, id="a name").digest()
    assert Input(*arrays).digest()[:32] == expected
    assert Input(*arrays[:2], np.ones(L, bool)).digest() != Input(*arrays).digest()


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.array(["a", " b ", "ü"]), ["a", "b", "ü"]),
        (np.array([b"a", "ü".encode(), b"c"]), ["a", "ü", "c"]),
        (np.array([7, 8, 9], np.uint8), ["7", "8", "9"]),
        (np.array([7.0, 8.0, 9.0]), ["7", "8", "9"]),
        (np.array(["2024-01-01", "2024-01-02", "2024-01-03"], "M8[D]"), ["2024-01-01", "2024-01-02", "2024-01-03"]),
    ],
)
def test_ids_of_every_kind_become_texts(tmp_path, ids, expected):
    assert load_npz(archive(tmp_path, ids=ids)).ids == expected


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.array([["a", "b"]] * 3), r"ids must be names or integers \[inputs\], got <U1 \[3, 2\]"),
        (np.array([True, False, True]), "ids must be names or integers"),
        (np.array([1.0, 2.0, np.nan]), r"ids\[2\] must be a name or an integer, got nan"),
        (np.array([1.0, 2.5, 3.0]), r"ids\[1\] must be a name or an integer, got 2.5"),
        (np.array(["2024-01-01", "NaT", "2024-01-03"], "M8[D]"), r"ids\[1\] must be a name"),
        (np.array(["a", "  ", "c"]), r"ids\[1\] must be a name"),
        (np.array([b"a", b"\xff", b"c"]), r"ids\[1\] is not a text in UTF-8"),
        (np.array(["a", "\ud800", "c"]), r"ids\[1\] holds half of a Unicode surrogate pair"),
        (np.array(["a", "b"]), "tokens must hold 2 inputs, as ids does, got 3"),
        (np.array(["a", "b", "a"]), "ids must all be different, got 'a' 2 times"),
        (
            np.array(["a", None, "c"], object),
            r"it holds Python objects; write texts as np\.array",
        ),
    ],
)
def test_ids_that_are_no_names_are_refused(tmp_path, ids, words):
    found = refused(archive(tmp_path, ids=ids))
    assert re.search(words, found), found


@pytest.mark.parametrize(
    "eligible",
    [[False, True, True, False], [0, 1, 1, 0], [0.0, 1.0, 1.0, 0.0], [[False, True, True, False]] * 3],
)
def test_masks_are_booleans_or_0_and_1(tmp_path, eligible):
    found = load_npz(archive(tmp_path, eligible=np.array(eligible))).eligible
    assert found.dtype == bool
    np.testing.assert_array_equal(np.broadcast_to(found, (B, L)), [[False, True, True, False]] * 3)


@pytest.mark.parametrize(
    ("eligible", "words"),
    [
        ([0, np.nan, 1, 1], "got nan"),
        ([0.5, 0, 1, 1], "got 0.5"),
        ([1, 3], "got 3; of positions make a mask: mask = np.zeros(4, bool); mask[positions] = True"),
        ([0, 1], "must have shape [4] or [3, 4], got [2]; of positions make a mask"),
        ([[True] * 4] * 2, "must have shape [4] or [3, 4], got [2, 4]"),
        (True, "must have shape [4] or [3, 4], got []"),
        (["True", "False", "True", "True"], "got <U5"),
        ([b"1", b"0", b"1", b"1"], "got |S1"),
        ([1j, 0, 1, 1], "got complex128"),
        ([-1, 0, 1, 1], "got -1"),
    ],
)
def test_masks_of_other_kinds_are_refused_with_what_to_write(tmp_path, eligible, words):
    found = refused(archive(tmp_path, eligible=np.array(eligible)))
    assert "eligible must" in found
    assert words in found


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"tokens": TOKENS[:, 0]}, r"tokens must be integers \[inputs, length\], got int64 \[3\]"),
        ({"tokens": TOKENS.astype(float)}, "tokens must be integers"),
        ({"tokens": TOKENS.astype(str)}, "tokens must be integers"),
        ({"tokens": TOKENS - 1}, r"tokens must lie in 0\.\.2147483647, got -1\.\.10"),
        ({"tokens": TOKENS.astype(np.uint64) + np.uint64(2**63)}, "tokens must lie in 0"),
        ({"tokens": TOKENS[:2]}, "tokens must hold 3 inputs|images must hold 2 inputs"),
        ({"images": IMAGES[0]}, r"images must be floats \[inputs, height, width, channels\], got float32 \[8, 8, 3\]"),
        ({"images": IMAGES.astype(complex)}, "images must be floats"),
        ({"images": IMAGES.astype(str)}, "images must be floats"),
        ({"images": IMAGES[:, :0]}, "images must be floats"),
        (
            {"images": np.moveaxis(IMAGES, -1, 1)},
            r"channels-first, got \[3, 3, 8, 8\].* np\.moveaxis",
        ),
        ({"images": np.where(IMAGES > 0.99, np.nan, IMAGES)}, r"finite as float32, got nan at \[2, 7"),
        ({"images": np.where(IMAGES > 0.99, 1e39, np.float64(IMAGES))}, r"finite as float32, got 1e\+39 at \[2, 7"),
        (
            {"images": (255 * IMAGES).astype(np.uint8)},
            r"span 0\.\.255; divide pixels .*--pixel-range 0,255",
        ),
        ({"images": np.rint(255 * IMAGES)}, r"images of float32 span 0\.\.255; divide"),
        ({"tokens": TOKENS[:0], "images": IMAGES[:0]}, "it holds no inputs"),
    ],
)
def test_arrays_of_other_kinds_are_refused(tmp_path, arrays, words):
    found = refused(archive(tmp_path, **arrays))
    assert re.search(words, found), found


@pytest.mark.parametrize("images", [(255 * IMAGES).astype(np.uint8), 255 * IMAGES, np.float64(255) * IMAGES])
def test_a_pixel_range_is_mapped_to_0_and_1(tmp_path, images):
    found = load_npz(archive(tmp_path, images=images), (0, 255)).images
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.asarray(images, np.float64) / 255, atol=1e-7)


def test_pixels_of_another_unit_stay_as_they_are_where_that_is_said_or_plain(tmp_path):
    for images in (3 * IMAGES - 1, 1.5 * IMAGES):
        np.testing.assert_array_equal(load_npz(archive(tmp_path, images=images)).images, images)
    ages = np.rint(90 * IMAGES)
    np.testing.assert_array_equal(load_npz(archive(tmp_path, images=ages), (0, 1)).images, ages)


@pytest.mark.parametrize(
    ("pixel_range", "words"),
    [((0, 100), "must lie in the pixel range 0..100, got 0..255"), ((1, 1), "that grow"), ((0, np.inf), "finite")],
)
def test_a_pixel_range_that_does_not_fit_is_refused(tmp_path, pixel_range, words):
    assert words in refused(archive(tmp_path, images=255 * IMAGES), pixel_range=pixel_range)


def member(tmp_path, name, content):
    path = archive(tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, content)
    return path


def npy(header):
    """A NumPy file by hand."""
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_files_that_are_no_archive_of_arrays_are_refused(tmp_path):
    whole = archive(tmp_path).read_bytes()
    single = io.BytesIO()
    np.save(single, TOKENS)
    contents = {
        "empty": b"",
        "text": b"tokens, images",
        "truncated": whole[:-200],
        "torn": whole[: len(whole) // 2],
        "pickle": pickle.dumps(TOKENS),
        "npy": single.getvalue(),
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        found = refused(tmp_path / f"{name}.npz")
        assert "cannot be read as a NumPy archive (.npz, written by np.savez): " in found
        assert "object at 0x" not in found
    assert "does not exist" in refused(tmp_path / "missing.npz")
    assert "is not a file" in refused(tmp_path)
    assert "must hold tokens and images, got nothing" in refused(empty(tmp_path))
    assert "got image, tokens" in refused(saved(tmp_path, tokens=TOKENS, image=IMAGES))


def empty(tmp_path):
    zipfile.ZipFile(tmp_path / "none.npz", "w").close()
    return tmp_path / "none.npz"


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "other.npz", **arrays)
    return tmp_path / "other.npz"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a, b, c", "ids is not a NumPy array"),
        (npy("{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }"), "cannot be read"),
        (npy("{'descr': '<i8', 'fortran_order': False, 'shape': (10**15,), }"), "cannot be read"),
        (npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,), }"), "cannot be read"),
        (npy("{'descr': 'what', 'fortran_order': False, 'shape': (3,), }"), "cannot be read"),
        (npy("{" * 100), "cannot be read"),
    ],
)
def test_members_that_are_no_arrays_are_refused(tmp_path, content, words):
    name = "ids" if content == b"a, b, c" else "ids.npy"
    assert words in refused(member(tmp_path, name, content))


def test_members_that_nobody_asked_for_are_not_looked_at(tmp_path):
    path = archive(tmp_path, labels=np.array([None, "a", {}], object))
    assert load_npz(path).ids == ["0", "1", "2"]


def test_names_in_capitals_are_the_same_names_but_not_twice(tmp_path):
    given = {"Tokens": np.zeros((2, 3), int), "IMAGES": np.zeros((2, 2, 2, 1)), "Ids": ["a", "b"]}
    found = load_npz(saved(tmp_path, **given, Eligible=[True, False, True]))
    assert list(found.ids) == ["a", "b"]
    assert found.eligible.tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"holds ids 2 times, in capitals and not\.$"):
        load_npz(saved(tmp_path, **given, ids=["c", "d"]))


def test_arrays_that_do_not_fit_each_other_are_refused_in_python():
    eligible = np.ones(L, bool)
    with pytest.raises(ValueError, match=r"^images must hold 2 inputs, as ids does, got 3\.$"):
        ArrayInputs(["a", "b"], TOKENS[:2], IMAGES, eligible)
    with pytest.raises(ValueError, match=r"^eligible must have shape \[4\] or \[3, 4\], got \[3\]\.$"):
        ArrayInputs(["a", "b", "c"], TOKENS, IMAGES, eligible[:3])
    with pytest.raises(ValueError, match=r"^ids must all be different, got 'a' 2 times\.$"):
        ArrayInputs(["a", "b", "a"], TOKENS, IMAGES, eligible)
