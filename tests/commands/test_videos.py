"""Folders of videos on the command line: frames, GIF, WebP and MP4."""

import json

import cv2
import keras
import numpy as np
import pytest
from conftest import fake_learn_pairs
from PIL import Image

from xplique_dirpairs.commands import cli
from xplique_dirpairs.commands.images import read_images
from xplique_dirpairs.commands.videos import find_videos, read_video

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def grey(frames=10, side=24, step=20):
    """Return frames (T, side, side, 3), each of which is brighter than the one before."""
    return [np.full((side, side, 3), 10 + step * t, np.uint8) for t in range(frames)]


def save_frames(folder, frames, name="frame{}.png"):
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(t))


def save_animation(path, frames, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=others, duration=50, **options)


def save_mp4(path, frames):
    """Write a video file; the test is skipped where OpenCV cannot write one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (width, height))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MP4")
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


def levels(video):
    """Return the mean grey level of each frame as the number of the frame that was saved."""
    return ((video.astype(float).mean(axis=(1, 2, 3)) - 10) / 20).round().astype(int).tolist()


# ------------------------------------------------------------ reading


@pytest.mark.parametrize("kind", ["frames", "gif", "webp", "mp4"])
def test_frames_are_taken_from_the_middle_of_equal_parts(tmp_path, kind):
    path = tmp_path / f"clip.{kind}"
    if kind == "frames":
        save_frames(path, grey(12))
    elif kind == "mp4":
        save_mp4(path, grey(12))
    else:
        save_animation(path, grey(12), **({"lossless": True} if kind == "webp" else {}))
    video = read_video(path, (16, 16), frames=4)
    assert video.shape == (4, 16, 16, 3) and video.dtype == np.uint8
    assert levels(video) == [1, 4, 7, 10]
    assert levels(read_video(path, (16, 16), frames=12)) == list(range(12))
    assert read_video(path, (10, 20), channels=1, frames=3).shape == (3, 10, 20, 1)


def test_a_video_of_fewer_frames_repeats_them_evenly(tmp_path):
    save_frames(tmp_path / "a", grey(3))
    assert levels(read_video(tmp_path / "a", (8, 8), frames=6)) == [0, 0, 1, 1, 2, 2]


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    save_frames(tmp_path / "a", grey(11), name="a {} of 11.png")
    assert levels(read_video(tmp_path / "a", (8, 8), frames=11)) == list(range(11))


def test_colours_of_a_video_file_are_not_exchanged(tmp_path):
    red = [np.full((32, 32, 3), (200, 30, 30), np.uint8)] * 4
    save_mp4(tmp_path / "red.mp4", red)
    means = read_video(tmp_path / "red.mp4", (8, 8), frames=2).mean(axis=(0, 1, 2))
    assert means[0] > 150 and means[2] < 80


# ------------------------------------------------------------ finding


def test_videos_of_all_kinds_are_found_by_class(tmp_path):
    save_frames(tmp_path / "run" / "one", grey(2))
    save_frames(tmp_path / "run" / "deeper" / "two", grey(2))
    save_animation(tmp_path / "jump" / "three.gif", grey(2))
    (tmp_path / "nothing").mkdir()
    save_animation(tmp_path / "stray.webp", grey(2))
    files = find_videos(tmp_path)
    assert files.classes == ["jump", "run"]
    assert [path.name for path in files.by_class["run"]] == ["two", "one"]
    assert "1 videos beside" in files.notes[0] and "nothing" in files.notes[1]


def test_folders_of_frames_are_videos_and_no_classes(tmp_path):
    save_frames(tmp_path / "one", grey(2))
    save_animation(tmp_path / "two.gif", grey(2))
    files = find_videos(tmp_path)
    assert files.classes == [] and [p.name for p in files.by_class[""]] == ["one", "two.gif"]


def test_a_note_says_that_folders_of_images_are_taken_for_videos(tmp_path):
    for name, count in (("cat", 4), ("dog", 7)):
        save_frames(tmp_path / name, grey(count))
    [note] = find_videos(tmp_path).notes
    assert "2 folders of images (4 to 7 in each) are taken for 2 videos" in note
    save_animation(tmp_path / "clips" / "jump" / "a.gif", grey(2))
    assert find_videos(tmp_path / "clips").notes == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [("empty", "holds no videos, each of which is a folder of frames"),
     ("frames", "holds images, but the model takes videos")],
)  # fmt: skip
def test_a_folder_without_videos_is_an_error(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    save_frames(tmp_path / "frames", grey(2))
    with pytest.raises(ValueError, match=message):
        find_videos(tmp_path / name)


def test_what_cannot_be_read_is_left_out_with_the_reason(tmp_path, capfd):
    save_animation(tmp_path / "good.gif", grey(4))
    save_animation(tmp_path / "still.gif", grey(1))
    (tmp_path / "broken.gif").write_bytes(b"no video")
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x1cftypisom\0\0\2\0isomiso2mp41" + bytes(99))
    read = read_images(find_videos(tmp_path), (8, 8), read=lambda *given: read_video(*given, 4))
    assert read.pixels.shape == (1, 4, 8, 8, 3) and read.names.tolist() == ["good.gif"]
    assert {file.path: file.reason for file in read.skipped} == {
        "broken.gif": "not an image that can be read",
        "broken.mp4": "not a video that OpenCV can read",
        "still.gif": "a single picture, not a video",
    }
    assert capfd.readouterr() == ("", ""), "FFmpeg says nothing"


# ------------------------------------------------------------ commands


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A model of videos of 4 frames, and two class folders with clips of three kinds."""
    place = tmp_path_factory.mktemp("videos")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 20, 20, 3))
    x = keras.layers.Rescaling(1.0, name="first")(inputs)
    x = keras.layers.Conv3D(
        8, (2, 5, 5), (2, 5, 5), name="features", activation="relu", bias_initializer="ones"
    )(x)
    x = keras.layers.GlobalAveragePooling3D()(x)
    keras.Model(inputs, keras.layers.Dense(2)(x)).save(place / "m.keras")
    rng = np.random.default_rng(0)
    for name in ("jump", "run"):
        for n in range(3):
            frames = rng.integers(0, 256, (6, 24, 24, 3), dtype=np.uint8)
            save_frames(place / "clips" / name / f"folder{n}", frames)
            save_animation(place / "clips" / name / f"{n}.gif", frames)
            save_animation(place / "clips" / name / f"{n}.webp", frames)
    (place / "clips" / "run" / "broken.gif").write_bytes(b"no video")
    return place


@pytest.fixture
def call(videos, monkeypatch, capsys, tmp_path):
    """``call("fit", …)`` runs a command on the videos, with fake learning."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "xplique_dirpairs.factorizers.direction_pairs.learn_pairs", fake_learn_pairs
    )

    def called(command, *options, images="clips"):
        given = [command, "--model", str(videos / "m.keras"), "--images", str(videos / images)]
        status = cli.main([*given, "--layer", "features", "--preprocessing", "unit", *options])
        return status, *capsys.readouterr()

    return called


def test_fit_takes_videos(call, tmp_path):
    status, out, err = call("fit", "--concepts", "3", "--output", "made")
    assert status == 0, err
    summary = json.loads((tmp_path / "made" / "summary.json").read_text())
    assert summary["images"]["shape"] == [4, 20, 20, 3] and summary["images"]["used"] == 18
    assert [file["path"] for file in summary["images"]["skipped"]] == ["run/broken.gif"]
    assert "3 concepts of layer features" in out and (tmp_path / "made" / "pairs.npz").exists()


@pytest.mark.slow
def test_compare_takes_videos(call, tmp_path):
    status, _, err = call("compare", "--extractors", "pairs", "K-Means", "--concepts", "3",
                          "--output", "compared")  # fmt: skip
    assert status == 0, err
    assert (tmp_path / "compared" / "summary.json").exists()


def test_frames_are_asked_for_where_the_model_takes_any_number(call, videos, tmp_path):
    status, _, err = call("fit", "--frames", "8")
    assert status == 2 and "takes videos of 4 frames only" in err
    inputs = keras.Input((None, 20, 20, 3))
    x = keras.layers.Conv3D(4, (2, 5, 5), (2, 5, 5), name="features")(inputs)
    x = keras.layers.GlobalAveragePooling3D()(x)
    keras.Model(inputs, keras.layers.Dense(2)(x)).save(tmp_path / "any.keras")
    status, _, err = call("fit", "--model", str(tmp_path / "any.keras"))
    assert status == 2 and "takes videos of any length: give --frames 16" in err
    status, _, err = call("fit", "--model", str(tmp_path / "any.keras"), "--frames", "6",
                          "--concepts", "2")  # fmt: skip
    assert status == 0, err
    summary = json.loads((tmp_path / "concepts" / "summary.json").read_text())
    assert summary["images"]["shape"] == [6, 20, 20, 3]


def test_a_folder_whose_videos_cannot_be_read_is_an_error_of_one_line(call, videos):
    (videos / "bad").mkdir()
    (videos / "bad" / "a.mp4").write_bytes(b"no video")
    status, _, err = call("fit", images="bad")
    assert status == 1 and "a.mp4 (not a video that OpenCV can read)" in err.splitlines()[-1]


def test_the_report_of_videos_has_animations(call, tmp_path):
    status, _, err = call("report", "--concepts", "3", "--output", "made", "--position",
                          "--beside", "K-Means")  # fmt: skip
    assert status == 0, err
    assert "nothing about position" in err
    files = tmp_path / "made" / "report_files"
    expected = {"images/00000": 4, "images/00000.still": 1, "images/00000.frames": 1,
                "crops/concept-0000": 4, "crops/concept-0000.still": 1}  # fmt: skip
    for path, frames in expected.items():
        with Image.open(files / f"{path}.webp") as picture:
            assert getattr(picture, "n_frames", 1) == frames, path
    text = (files / "data.js").read_text()
    data = json.loads(text[text.index(",") + 1 : text.rindex(")")])
    assert data["classes"][0]["extractors"][0]["concepts"][0]["crops"]["picture"].endswith(".webp")
    image = data["images"][0]
    assert (image["width"], image["height"]) == (20, 20)
    assert np.shape(image["overTime"]) == (2, 3)
    np.testing.assert_allclose(np.sum(image["overTime"], axis=0), image["contributions"], atol=1e-5)


def test_networks_are_not_compared_on_videos(call, tmp_path):
    assert call("fit", "--concepts", "3", "--output", "one")[0] == 0
    status, _, err = call("report", "--concepts", "2", "--output", "two", "--other", "one")
    assert status == 2 and "compared on images, not on videos" in err.splitlines()[-1]


def test_a_model_of_videos_is_corrected(call, tmp_path, videos):
    assert call("fit", "--concepts", "3", "--output", "one")[0] == 0
    status, _, err = call("correct", "--pairs", "one/pairs.npz", "--suppress", "0",
                          "--output", "done")  # fmt: skip
    assert status == 0, err
    before, after = (
        keras.models.load_model(path)
        for path in (videos / "m.keras", tmp_path / "done" / "corrected.keras")
    )
    clips = np.random.default_rng(0).uniform(size=(2, 4, 20, 20, 3)).astype(np.float32)
    assert np.abs(before(clips) - after(clips)).max() > 1e-3


def test_a_connectome_of_videos_is_refused_in_one_line(call):
    status, _, err = call("connectome", "--below", "first")
    assert status == 1 and "this function takes no videos" in err.splitlines()[-1]
