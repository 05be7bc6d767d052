from collections import Counter

import numpy as np
import pytest
from PIL import Image

from xplique_dirpairs.commands.console import printable
from xplique_dirpairs.commands.images import (
    find_images,
    read_image,
    read_images,
    spread,
)

RED, GREEN, BLUE = (220, 30, 30), (30, 180, 30), (30, 30, 220)


def save(path, color=RED, size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


def stripes(size, *colors):
    """Return an image of vertical stripes of equal width."""
    width, height = size
    image = Image.new("RGB", size)
    for n, color in enumerate(colors):
        image.paste(color, (n * width // len(colors), 0, (n + 1) * width // len(colors), height))
    return image


def is_color(pixels, color, tolerance=8):
    return np.abs(pixels.astype(int) - color).max() <= tolerance


# ------------------------------------------------------------------ finding files


def test_class_folders_and_their_files_are_found_in_sorted_order(tmp_path):
    for name in ("b/2.png", "b/deeper/1.JPEG", "a/1.png", "a/.hidden.png", "a/notes.txt"):
        save(tmp_path / name, format="PNG")
    files = find_images(tmp_path)
    names = {name: [path.name for path in files] for name, files in files.by_class.items()}
    assert names == {"a": ["1.png"], "b": ["2.png", "1.JPEG"]}
    assert files.classes == ["a", "b"]


def test_images_without_class_folders_are_found_in_sorted_order(tmp_path):
    save(tmp_path / "2.png"), save(tmp_path / "1.png")
    files = find_images(tmp_path)
    assert files.classes == []
    assert [path.name for path in files.by_class[""]] == ["1.png", "2.png"]


def test_images_beside_class_folders_and_empty_folders_are_noted(tmp_path):
    save(tmp_path / "a" / "1.png"), save(tmp_path / "stray.png")
    (tmp_path / "nothing").mkdir()
    files = find_images(tmp_path)
    assert files.classes == ["a"]
    assert "1 images beside the class folders" in files.notes[0]
    assert "without images are left out: nothing" in files.notes[1]


def test_a_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(ValueError, match=r"holds no images .*a folder of images, or a folder that"):
        find_images(tmp_path)


def test_images_of_a_format_that_is_not_read_are_noted(tmp_path):
    for name in ("a/1.png", "a/2.HEIC", "a/3.heic", "a/4.dcm", "a/.5.dcm", "a/notes.txt"):
        save(tmp_path / name, format="PNG")
    for folder in (tmp_path, tmp_path / "a"):
        [note] = find_images(folder).notes
        assert note == "files whose format is not read are left out: 2 .heic, 1 .dcm"


def test_folders_within_class_folders_are_noted_beside_images_only(tmp_path):
    for name in ("a/1.png", "a/masks/1.png", "b/1.png", "b/masks/1.png", "c/old/1.png"):
        save(tmp_path / name)
    [note] = find_images(tmp_path).notes
    assert "images of the class, too: masks (2 images)" in note


def test_parts_of_a_data_set_are_no_classes(tmp_path):
    for name in ("train/cat/1.png", "train/dog/1.png", "Test/cat/1.png"):
        save(tmp_path / name)
    with pytest.raises(
        ValueError, match=r"'Test', 'train' are parts of a data set.*such as .*Test"
    ):
        find_images(tmp_path)
    assert find_images(tmp_path / "train").classes == ["cat", "dog"]
    save(tmp_path / "bus" / "1.png")
    assert find_images(tmp_path).classes == ["Test", "bus", "train"]


# ------------------------------------------------------------------ reading one image


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp", "gif", "tif", "TIFF"])
def test_every_format_is_read(tmp_path, ending):
    pixels = read_image(save(tmp_path / f"one.{ending}"), (16, 24))
    assert (pixels.shape, pixels.dtype) == ((16, 24, 3), np.uint8)
    assert is_color(pixels, RED)


def test_the_first_picture_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (20, 20), color) for color in (GREEN, BLUE)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert is_color(read_image(tmp_path / "moving.gif", (8, 8)), GREEN)


@pytest.mark.parametrize(
    ("size", "wanted", "seen"),
    [
        ((90, 30), (30, 30), [GREEN]),  # wide: the middle third remains
        ((90, 30), (60, 60), [GREEN]),  # smaller than the size: scaled up
        ((90, 30), (30, 60), [RED, GREEN, BLUE]),  # half of each outer stripe remains
        ((30, 90), (30, 30), [RED, GREEN, BLUE]),  # tall: the full width remains
    ],
)
def test_images_are_scaled_to_cover_the_size_and_cropped_centrally(tmp_path, size, wanted, seen):
    stripes(size, RED, GREEN, BLUE).save(tmp_path / "x.png")
    row = read_image(tmp_path / "x.png", wanted)[wanted[0] // 2].astype(int)
    nearest = np.abs(row[:, None] - np.array([RED, GREEN, BLUE])).sum(axis=2).argmin(axis=1)
    assert [[RED, GREEN, BLUE][k] for k in np.unique(nearest)] == seen


def test_a_very_thin_image_is_not_enlarged_before_it_is_cropped(tmp_path):
    Image.new("RGB", (30_000, 1), BLUE).save(tmp_path / "strip.png")
    assert is_color(read_image(tmp_path / "strip.png", (224, 224)), BLUE)


def test_images_are_rotated_as_their_exif_data_say(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    stripes((40, 40), RED, BLUE).save(tmp_path / "x.png", exif=exif)
    pixels = read_image(tmp_path / "x.png", (40, 40))
    assert is_color(pixels[:15], RED) and is_color(pixels[-15:], BLUE)


@pytest.mark.parametrize(
    ("mode", "value", "grey"),
    [
        ("L", 128, 128),
        ("I;16", 128 * 257, 128),  # 16-bit values
        ("RGBA", (128, 128, 128, 255), 128),
        ("LA", (128, 255), 128),
        ("1", 1, 255),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_format_is_read(tmp_path, mode, value, grey, channels):
    Image.new(mode, (20, 20), value).save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png", (8, 8), channels)
    assert pixels.shape == (8, 8, channels)
    assert is_color(pixels, grey, tolerance=2)


def test_cmyk_images_are_converted_to_rgb(tmp_path):
    Image.new("RGB", (20, 20), RED).convert("CMYK").save(tmp_path / "x.jpg")
    assert is_color(read_image(tmp_path / "x.jpg", (8, 8)), RED, tolerance=12)


# ------------------------------------------------------------------ many images


def break_three(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    intact = save(folder / "cut.jpg", size=(400, 400)).read_bytes()
    (folder / "cut.jpg").write_bytes(intact[: len(intact) // 2])


def test_broken_files_are_skipped_with_the_reason(tmp_path):
    break_three(tmp_path / "a")
    save(tmp_path / "a" / "good.png"), save(tmp_path / "b" / "good.png", BLUE)
    read = read_images(find_images(tmp_path), (8, 8))
    assert read.names.tolist() == ["a/good.png", "b/good.png"]
    assert read.folders.tolist() == ["a", "b"]
    assert [one.path for one in read.skipped] == ["a/cut.jpg", "a/empty.png", "a/text.jpg"]
    assert all(one.reason for one in read.skipped)
    assert "truncated" in read.skipped[0].reason
    assert read.file_count == 5


def test_a_folder_of_broken_images_is_an_error(tmp_path):
    break_three(tmp_path)
    with pytest.raises(ValueError, match=r"none of the 3 images can be read: cut\.jpg"):
        read_images(find_images(tmp_path), (8, 8))


def test_max_images_is_spread_evenly_over_classes_and_broken_files_are_replaced(tmp_path):
    for n in range(9):
        save(tmp_path / "many" / f"{n}.png")
        save(tmp_path / "more" / f"{n}.png")
    save(tmp_path / "few" / "0.png")
    break_three(tmp_path / "more")
    for seed in range(3):
        read = read_images(find_images(tmp_path), (8, 8), max_images=9, seed=seed)
        assert Counter(read.folders) == {"few": 1, "many": 4, "more": 4}


def test_the_seed_decides_which_images_are_read(tmp_path):
    for n in range(30):
        save(tmp_path / f"{n:02}.png", size=(8, 8))
    names = [
        read_images(find_images(tmp_path), (8, 8), max_images=5, seed=s).names.tolist()
        for s in (0, 0, 1)
    ]
    assert names[0] == names[1] != names[2]
    assert names[0] == sorted(names[0])


@pytest.mark.parametrize("counts", [[5], [3, 3, 3], [1, 10, 2], [0, 4], [100, 1, 1, 7]])
@pytest.mark.parametrize("total", [None, 1, 2, 6, 7, 1000])
def test_quotas_are_even_and_other_groups_get_what_small_ones_cannot_take(counts, total):
    quotas = spread(counts, total)
    assert sum(quotas) == (sum(counts) if total is None else min(total, sum(counts)))
    assert all(0 <= quota <= count for quota, count in zip(quotas, counts, strict=True))
    short = [q for q, count in zip(quotas, counts, strict=True) if q < count]
    assert not short or max(quotas) - min(short) <= 1  # only exhausted groups are lower


def test_hostile_names_are_read_and_can_be_printed(tmp_path):
    names = ["<script>alert(1)<", "two\nlines\x1b[31m", "Größe 日本 🙂", "x" * 200, "a b"]
    for name in names:
        save(tmp_path / name / f"{name}.png", size=(8, 8))
    (tmp_path / b"not \xff text".decode("utf-8", "surrogateescape")).mkdir()
    strange = tmp_path / b"not \xff text".decode("utf-8", "surrogateescape") / "1.png"
    Image.new("RGB", (8, 8)).save(strange)
    read = read_images(find_images(tmp_path), (8, 8))
    assert len(read.names) == 6 and not read.skipped
    assert all(name.isprintable() and name.encode("utf-8") for name in read.names)
    assert printable("two\nlines") == r"two\nlines"
    ascii_only = "Łukasz".encode().decode("ascii", "surrogateescape")
    assert printable(ascii_only) == "Łukasz" and printable("\ud800") == "\\ud800"
