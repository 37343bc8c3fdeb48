"""Arrays of a file that are mapped rather than read."""

import hashlib

import numpy as np
import pytest
from safetensors.numpy import save

from lanner.errors import BundleError
from lanner.files import mapped_arrays

ARRAYS = {
    "codes": np.arange(-6, 6, dtype=np.int8).reshape(3, 4),
    "source": np.linspace(-1, 1, 35, dtype=np.float32).reshape(7, 5),
    "half": np.linspace(-1, 1, 3, dtype=np.float16),
    "neurons": np.array([2, 5, 7], np.int64),
    "owner": np.array([1, -1], np.int32),
    "alive": np.array([True, False, True]),
    "nobody": np.empty((0, 4), np.float32),
}


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "form.safetensors"
    path.write_bytes(save(ARRAYS))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_they_are_what_was_written(stored):
    found = mapped_arrays(*stored)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert found[name].flags.aligned
        np.testing.assert_array_equal(found[name], array)


def test_two_readers_write_neither_to_the_file_nor_to_each_other(stored):
    first, second = mapped_arrays(*stored), mapped_arrays(*stored)
    first["source"][:] = 9
    np.testing.assert_array_equal(second["source"], ARRAYS["source"])
    assert hashlib.sha256(stored[0].read_bytes()).hexdigest() == stored[1]


def test_they_outlive_the_name_of_their_file(stored):
    found = mapped_arrays(*stored)
    stored[0].unlink()
    np.testing.assert_array_equal(found["source"], ARRAYS["source"])


@pytest.mark.parametrize("damage", ["a byte", "the end", "all", "the file"])
def test_a_damaged_file_is_refused(stored, damage):
    path, expected = stored
    content = bytearray(path.read_bytes())
    if damage == "a byte":
        content[-1] ^= 1
    path.write_bytes(content[: {"the end": -3, "all": 0}.get(damage, len(content))])
    if damage == "the file":
        path.unlink()
    with pytest.raises(BundleError, match=r"form\.safetensors"):
        mapped_arrays(path, expected)
