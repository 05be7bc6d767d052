"""What a command has computed is kept, whatever happens to its streams and files."""

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest
from command_line import call, place, quick  # noqa: F401
from conftest import fake_learn_pairs

from xplique_dirpairs.commands import cli, report
from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.outputs import check_can_write, keep
from xplique_dirpairs.pairs import DirectionPairs

# Keras [3.15] reads variables in a way that numpy deprecates when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LEARN = "xplique_dirpairs.factorizers.direction_pairs.learn_pairs"


# ------------------------------------------------------------------ characters


class Encoded(io.TextIOWrapper):
    """A strict text stream of an encoding; ``text`` is what was written to it."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", newline="")

    @property
    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@contextlib.contextmanager
def streams(encoding):
    """Put streams of an encoding in place of stdout and stderr."""
    out, err = Encoded(encoding), Encoded(encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        yield out, err


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii", "cp932", "utf-8", "utf-16"])
def test_json_can_be_read_from_a_stdout_of_any_encoding(encoding, call, place, tmp_path):
    (tmp_path / "Łukasz Größe 日本").mkdir()
    model = tmp_path / "Łukasz Größe 日本" / "m.keras"
    model.write_bytes((place / "m.keras").read_bytes())
    with streams(encoding) as (out, err):
        status = call("layers", "--model", model, "--json", prepared=False).status
    assert status == 0, err.text
    assert json.loads(out.text)["model"] == str(model)
    assert (out.errors, err.errors) == ("strict", "strict")


def test_tables_are_printed_to_a_stdout_that_lacks_characters(call, place):
    given = ["--pairs", place / "given.npz", "--suppress", 0]
    with streams("cp1252") as (out, err):
        status = call("correct", *given).status
    assert status == 0, err.text
    assert "Everything is in corrected/" in out.text and "\\u65e5\\u672c" in out.text


@pytest.mark.parametrize("command", ["fit", "correct", "report"])
def test_help_is_printed_to_a_stdout_that_has_ascii_only(command):
    with streams("ascii") as (out, _):
        assert cli.main([command, "--help"]) == 0
    assert "examples:" in out.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "cp850:strict"},
        {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONUTF8": "1", "LC_ALL": "C"},
    ],
)
def test_the_settings_of_windows_and_of_a_bare_machine_lose_no_result(place, tmp_path, settings):
    (tmp_path / "Łukasz").mkdir()
    model = tmp_path / "Łukasz" / "m.keras"
    model.write_bytes((place / "m.keras").read_bytes())
    command = [sys.executable, "-m", "xplique_dirpairs", "layers", "--json", "--model", str(model)]
    ran = subprocess.run(command, capture_output=True, env=os.environ | settings)
    assert ran.returncode == 0, ran.stderr
    encoding = settings.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    assert json.loads(ran.stdout.decode(encoding))["model"] == str(model)


# ------------------------------------------------------------------ streams that are gone


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


@contextlib.contextmanager
def replaced(name, stream):
    """Put a stream in place of stdout or stderr, and close it without an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, name, stream)
        yield
    with contextlib.suppress(OSError):
        stream.close()


def test_a_closed_stderr_does_not_end_a_command(call, tmp_path):
    with replaced("stderr", closed_pipe()):
        ran = call("fit", "--concepts", 2, "--json")
    assert ran.status == 0
    assert json.loads(ran.out)["output"] == "concepts"
    assert (tmp_path / "concepts" / "importances.md").exists()


def test_a_closed_stdout_leaves_everything_in_the_folder(call, tmp_path):
    with replaced("stdout", closed_pipe()):
        ran = call("fit", "--concepts", 2, "--quiet", "--json")
    assert (ran.status, ran.err) == (1, "")
    assert json.loads((tmp_path / "concepts" / "summary.json").read_text(encoding="utf-8"))


def test_without_streams_a_command_still_writes_its_files(call, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        patch.setattr(sys, "stderr", None)
        status = call("fit", "--concepts", 2, "--quiet").status
    assert status == 0 and (tmp_path / "concepts" / "summary.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line_that_says_where_the_results_are(call, tmp_path):
    with replaced("stdout", open("/dev/full", "w", encoding="utf-8")):
        ran = call("fit", "--concepts", 2)
    assert ran.status == 1
    last = ran.err.splitlines()[-1]
    assert "cannot be written to stdout (No space left on device)" in last
    assert last.endswith("everything is in concepts/")
    assert (tmp_path / "concepts" / "summary.json").exists()


# ------------------------------------------------------------------ files that cannot be written


@pytest.fixture
def small_disk(monkeypatch):
    """``small_disk(bytes)``: once learning is done, no file can become larger; None: no limit."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(size):
        if size is None:  # pytest itself may write to a file
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            return

        def learned(*arguments, **options):
            result = fake_learn_pairs(*arguments, **options)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            return result

        monkeypatch.setattr(LEARN, learned)

    yield limited
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_files_that_fit_are_kept_and_the_others_named_in_one_line(call, tmp_path, small_disk):
    small_disk(8000)
    ran = call("fit", "--concepts", 2)
    small_disk(None)
    assert ran.status == 1 and "2 concepts of layer features" in ran.out
    assert "Traceback" not in ran.err
    last = ran.err.splitlines()[-1]
    assert "files could not be written: " in last and "class_0000.png (File too large)" in last
    folder = tmp_path / "concepts"
    assert DirectionPairs.load(folder / "pairs.npz").number_of_concepts == 2
    written = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["written"]
    assert sorted(written) == sorted(path.name for path in folder.iterdir())


def test_if_nothing_can_be_written_the_table_is_still_printed(call, tmp_path, small_disk):
    small_disk(10)
    ran = call("fit", "--concepts", 2)
    small_disk(None)
    assert ran.status == 1 and "2 concepts of layer features" in ran.out
    assert "pairs.npz (File too large)" in ran.err.splitlines()[-1]
    assert not list((tmp_path / "concepts").iterdir())


def full(path):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_pairs_that_cannot_be_written_are_kept_among_the_temporary_files(
    call, tmp_path, monkeypatch
):
    save = DirectionPairs.save

    def save_elsewhere(pairs, path):
        return full(path) if Path(path).parent.name == "report" else save(pairs, path)

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(DirectionPairs, "save", save_elsewhere)
    ran = call("report", "--concepts", 2, "--no-counterfactuals")
    assert ran.status == 1 and "Open report/index.html" in ran.out
    assert "pairs.npz (No space left on device)" in ran.err.splitlines()[-1]
    [kept] = (tmp_path / "temporary").rglob("pairs.npz")
    assert f"pairs.npz is kept in {kept}" in ran.err
    assert DirectionPairs.load(kept).number_of_concepts == 2


@pytest.mark.parametrize("single", [[], ["--single-file", "--output", "report/one.html"]])
def test_nothing_remains_of_a_report_that_does_not_fit(call, tmp_path, small_disk, single):
    small_disk(20_000)
    ran = call("report", "--concepts", 2, "--no-counterfactuals", *single)
    small_disk(None)
    assert ran.status == 1 and "The report could not be written" in ran.out
    assert "(File too large)" in ran.err.splitlines()[-1] and "Traceback" not in ran.err
    assert [path.suffix for path in (tmp_path / "report").iterdir()] == [".npz"]


def test_a_report_that_cannot_be_written_is_kept_among_the_temporary_files(
    call, place, tmp_path, monkeypatch
):
    def write_elsewhere(path, *_, **__):
        return full(path) if path == Path("report") else path / "index.html"

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(report, "write_report", write_elsewhere)
    ran = call("report", "--pairs", place / "given.npz", "--no-counterfactuals")
    assert ran.status == 1 and f"Open {tmp_path / 'temporary'}" in ran.out
    assert "report (No space left on device)" in ran.err.splitlines()[-1]


def test_a_half_written_file_is_removed_and_a_refused_one_is_not(tmp_path):
    console = Console()
    for number, reason in ((errno.ENOSPC, "half"), (errno.EACCES, "refused")):
        path = tmp_path / reason
        path.write_text("half of the")
        with console.writing(path):
            raise OSError(number, os.strerror(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["refused"]
    assert console.has_failed(path) and len(console.unwritten) == 2


def test_what_cannot_be_kept_anywhere_is_no_other_error(tmp_path, monkeypatch):
    console = Console()
    keep(full, tmp_path / "deep" / "x", console)
    assert console.unwritten == {str(tmp_path / "deep" / "x"): "No space left on device"}


# ------------------------------------------------------------------ before the work


def test_a_folder_where_nothing_can_be_written_is_an_error_before_the_model_is_loaded(
    call, monkeypatch, tmp_path
):
    def refused(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    for command in ("fit", "compare", "report"):
        ran = call(command, "--output", tmp_path / "no" / "where")
        assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert "nothing can be written to" in ran.err and "Permission denied" in ran.err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", ["below/a/file", "x" * 300])
def test_a_place_where_no_folder_can_be_is_refused(tmp_path, name):
    (tmp_path / "below").write_text("")
    with pytest.raises(OSError, match=r"--output: nothing can be written to .*choose another"):
        check_can_write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["below"]


@pytest.mark.parametrize("name", ["new/and/deep", "existing"])
def test_the_trial_leaves_no_trace(tmp_path, name):
    (tmp_path / "existing").mkdir()
    check_can_write(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["existing"]


# ------------------------------------------------------------------ paths


@pytest.mark.parametrize(("given", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_path_is_found_in_the_other_unicode_form(call, place, tmp_path, given, stored):
    name = "modèle.keras"
    path = tmp_path / unicodedata.normalize(stored, name)
    path.write_bytes((place / "m.keras").read_bytes())
    other = tmp_path / unicodedata.normalize(given, name)
    ran = call("layers", "--model", other, "--json", prepared=False)
    assert ran.status == 0, ran.err
