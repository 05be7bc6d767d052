"""Tests of saving and loading direction pairs."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
from small_pairs import GOOD, D, make, same

from xplique_dirpairs.pairs import DirectionPairs


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "saved.pairs"
    make().save(path)
    return path


@pytest.mark.parametrize("name", ["pairs", "pairs.npz", "pairs.v1.bin"])
def test_saved_pairs_load_bit_for_bit_from_the_given_path(name, tmp_path):
    make().save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert same(DirectionPairs.load(str(tmp_path / name)), make())


def test_pairs_built_from_the_arrays_of_other_pairs_are_identical(rng):
    # normalising rows that are unit up to rounding would move some by their last bit
    directions = rng.normal(size=(200, 8))
    first = DirectionPairs(directions, np.zeros(200), directions, np.zeros(8), np.zeros(200))
    arrays = {field.name: getattr(first, field.name) for field in dataclasses.fields(first)}
    assert same(DirectionPairs(**arrays), first)


def test_recurrence_may_be_missing(tmp_path):
    pairs = DirectionPairs(**{**GOOD, "recurrence": None})
    pairs.save(tmp_path / "p")
    assert same(DirectionPairs.load(tmp_path / "p"), pairs)


def test_the_file_holds_plain_arrays_and_no_pickle(file):
    with np.load(file, allow_pickle=False) as archive:
        assert set(archive.files) == {"header", *GOOD}
        assert all(archive[name].dtype == np.float32 for name in GOOD)
        assert json.loads(str(archive["header"]))["version"] == 1


def test_a_truncated_file_is_refused(file):
    content = file.read_bytes()
    for length in (0, 1, 10, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match="damaged"):
            DirectionPairs.load(file)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_is_refused_or_changes_no_value(file):
    content, refused = file.read_bytes(), 0
    for place in range(0, len(content), 7):
        for bit in (1, 64):
            damaged = bytearray(content)
            damaged[place] ^= bit
            file.write_bytes(damaged)
            try:
                loaded = DirectionPairs.load(file)
            except ValueError as error:
                assert str(file) in str(error)
                refused += 1
            else:
                lost = loaded.recurrence is None  # a file without it looks like this one
                assert lost or same(loaded, make()), f"bit {bit} of byte {place}"
    assert refused > len(content) // 14


def test_a_file_whose_recurrence_was_removed_is_refused(file):
    rewrite(file, recurrence=None)
    with pytest.raises(ValueError, match="damaged"):
        DirectionPairs.load(file)


def rewrite(file, **changes):
    with np.load(file) as archive:
        arrays = {**{name: archive[name] for name in archive.files}, **changes}
    with open(file, "wb") as out:
        np.savez(out, **{name: array for name, array in arrays.items() if array is not None})


def test_a_file_of_a_newer_format_says_that_an_update_is_needed(file):
    header = {"format": "xplique_dirpairs.DirectionPairs", "version": 2}
    rewrite(file, header=np.array(json.dumps(header)), something_new=np.zeros(3))
    with pytest.raises(ValueError, match=r"version 2.*up to 1.*update"):
        DirectionPairs.load(file)


@pytest.mark.parametrize(
    "changes",
    [
        dict(biases=None),
        dict(surplus=np.zeros(2)),
        dict(biases=np.zeros(5)),
        dict(mean=np.full(D, np.nan)),
        dict(biases=np.array(["a", "b", "c"])),
    ],
    ids=str,
)
def test_a_file_with_other_arrays_is_refused(changes, file):
    rewrite(file, **changes)
    with pytest.raises(ValueError, match=rf"{file} is damaged"):
        DirectionPairs.load(file)


@pytest.mark.parametrize(
    "header", [None, np.array("no json"), np.array("[1]"), np.array('{"format": "x"}'), np.ones(2)]
)
def test_an_archive_without_our_header_is_foreign(header, file):
    rewrite(file, header=header)
    with pytest.raises(ValueError, match="not a file of direction pairs"):
        DirectionPairs.load(file)


def test_an_archive_of_another_kind_is_foreign(file):
    rewrite(file, header=np.array('{"format": "other.Thing", "version": 1}'))
    with pytest.raises(ValueError, match=r"not a file of direction pairs.*'other.Thing'"):
        DirectionPairs.load(file)


def test_other_files_are_foreign(tmp_path):
    path = tmp_path / "other"
    path.write_text("filters, biases\n1, 2\n")
    with pytest.raises(ValueError, match="not a file of direction pairs"):
        DirectionPairs.load(path)
    with open(path, "wb") as out:
        np.save(out, np.eye(3))
    with pytest.raises(ValueError, match="not a file of direction pairs"):
        DirectionPairs.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ValueError, match="not a file of direction pairs"):
        DirectionPairs.load(path)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was loaded')",))


def test_pickles_in_a_file_are_never_loaded(file):
    rewrite(file, mean=np.array([Evil()], dtype=object))
    with pytest.raises(ValueError, match="damaged"):
        DirectionPairs.load(file)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of direction pairs"):
        DirectionPairs.load(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        DirectionPairs.load(tmp_path)


def test_saving_again_replaces_the_file(file):
    make(5).save(file)
    assert same(DirectionPairs.load(file), make(5))
