"""Whatever is in a file, reading it gives what was written or one documented error."""

import io
import json
import shutil
import tracemalloc
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from formats import FORMATS

MUTATIONS = 240


def mutated(content, rng, other):
    """Return a damaged copy of the bytes of a file, and what was done to them."""
    kind = rng.choice(["cut", "flip", "flip many", "zero", "insert", "remove", "swap", "foreign"])
    data, size = bytearray(content), len(content)
    place = int(rng.integers(size))
    length = int(rng.integers(1, max(2, size // 4)))
    if kind == "cut":
        data = data[:place]
    elif kind == "flip":
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == "flip many":
        for place in rng.integers(size, size=20):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == "zero":
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif kind == "insert":
        data[place:place] = rng.bytes(length)
    elif kind == "remove":
        del data[place : place + length]
    elif kind == "swap":
        data = data[place:] + data[:place]
    else:
        data = bytearray(rng.choice([other, rng.bytes(200), b"", b"PK\x03\x04", b"{}"]))
    return bytes(data), f"{kind} at {place} of {size}"


def read(form, folder):
    """Read a file; return what is in it, or None if it is refused as documented."""
    try:
        return form.read(folder)
    except form.errors as error:
        words = str(error)
        assert 10 < len(words) < 800 and str(folder) in words, words
        return None


def check_memory(form, folder, limit):
    tracemalloc.start()
    try:
        read(form, folder)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.fixture(params=FORMATS)
def form(request, tmp_path):
    """Return a format, a folder with an intact file of it, and the place of the file."""
    form = FORMATS[request.param]
    folder = tmp_path / "intact"
    folder.mkdir()
    form.write(folder)
    return SimpleNamespace(
        form=form, folder=folder, file=folder / form.damaged, content=form.read(folder)
    )


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("count", [24, pytest.param(MUTATIONS, marks=pytest.mark.slow)])
def test_a_damaged_file_is_refused_or_reads_as_before(form, tmp_path, count):
    rng = np.random.default_rng(0)
    intact = form.file.read_bytes()
    other = io.BytesIO()
    np.savez(other, a=np.zeros(3))
    refused = 0
    for number in range(count):
        folder = tmp_path / f"{number}"
        shutil.copytree(form.folder, folder)
        data, what = mutated(intact, rng, other.getvalue())
        (folder / form.form.damaged).write_bytes(data)
        found = read(form.form, folder)
        refused += found is None
        assert found is None or form.form.same(found, form.content), what
        shutil.rmtree(folder)
    assert refused > count / 2


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


@pytest.fixture
def archive(form):
    """Return a format whose file is a zip archive, and its members."""
    if not zipfile.is_zipfile(form.file):
        pytest.skip("not an archive")
    return form, members(form.file)


def test_an_archive_takes_no_more_memory_than_it_states(archive):
    form, contents = archive
    with zipfile.ZipFile(form.file) as intact:
        is_compressed = any(member.compress_type for member in intact.infolist())
    for name in list(contents)[:1]:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (5_000_000,)}
        )
        contents[name] = header.getvalue() + bytes(20_000_000)
    rewritten(form.file, contents, zipfile.ZIP_DEFLATED)
    assert form.file.stat().st_size < 1_000_000
    assert read(form.form, form.folder) is None
    stated = 20_000_000 if is_compressed else 1_000_000  # else it is refused as a whole
    check_memory(form.form, form.folder, 2 * stated + 8_000_000)


def test_an_array_that_states_a_size_it_does_not_have_takes_no_memory(archive):
    form, contents = archive
    name = next(iter(contents))
    header = io.BytesIO()
    shape = (10**12,)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    contents[name] = header.getvalue() + bytes(100)
    rewritten(form.file, contents)
    assert read(form.form, form.folder) is None
    check_memory(form.form, form.folder, 10_000_000)


def test_names_that_lead_out_of_an_archive_write_nothing(archive, tmp_path):
    form, contents = archive
    rewritten(form.file, {**contents, "../../outside.npy": contents[next(iter(contents))]})
    found = read(form.form, form.folder)
    assert found is None or form.form.same(found, form.content)
    assert not list(tmp_path.rglob("outside*"))


def test_a_newer_version_is_refused(form):
    if zipfile.is_zipfile(form.file):
        contents = members(form.file)
        name = next(name for name in ("header.npy", "info.npy") if name in contents)
        header = json.loads(str(np.load(io.BytesIO(contents[name]))))
        buffer = io.BytesIO()
        np.save(buffer, np.array(json.dumps(header | {"version": 99})))
        rewritten(form.file, contents | {name: buffer.getvalue()})
    elif form.file.suffix == ".json":
        index = json.loads(form.file.read_text())
        form.file.write_text(json.dumps(index | {"version": 99}))
    else:
        pytest.skip("an array has no version of ours")
    assert read(form.form, form.folder) is None
