import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg import images
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.images import expand, read, resize

COLOURS = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)


def as_file(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly a byte of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_one_picture_is_the_same_through_every_door(tmp_path: Path) -> None:
    path = tmp_path / "ein Bild mit Lücken.PNG"
    path.write_bytes(as_file(Image.fromarray(COLOURS)))
    tensor = torch.from_numpy(COLOURS.transpose(2, 0, 1).copy())
    with open(path, "rb") as stream:
        doors = {
            "str": str(path),
            "Path": path,
            "bytes": path.read_bytes(),
            "bytearray": bytearray(path.read_bytes()),
            "file": stream,
            "PIL": Image.fromarray(COLOURS),
            "array": COLOURS,
            "torch": tensor,
            "torch float": tensor / 255,
            "torch with gradient": (tensor / 255).requires_grad_(),
            "float": COLOURS / 255,
            "float of bytes": COLOURS.astype(np.float32),
            "16 bit": COLOURS.astype(np.uint16) * 257,
        }
        for door, source in doors.items():
            assert COLOURS.tolist() == read(source).tolist(), door
    assert COLOURS.tolist() == read(COLOURS[:, :, ::-1], channel_order="bgr").tolist()


def test_a_path_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(as_file(Image.fromarray(COLOURS)))
    assert (48, 80, 3) == read("~/a.png").shape


GREY = COLOURS[:, :, 0]


@pytest.mark.parametrize(
    ("picture", "expected", "tolerance"),
    [
        (Image.fromarray(GREY), GREY, 0),
        (Image.fromarray(GREY > 99), np.where(GREY > 99, 255, 0), 0),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY, 0),
        (Image.fromarray(GREY.astype(np.int32) * 257), GREY, 0),
        (Image.fromarray(GREY.astype(np.float32) / 255), GREY, 0),
        (Image.fromarray(COLOURS).convert("CMYK"), COLOURS, 0),
        (Image.fromarray(COLOURS).convert("YCbCr"), COLOURS, 3),
        (Image.fromarray(np.full((48, 80, 3), 100, np.uint8)).convert("HSV"), np.full((48, 80), 100), 2),
        (Image.new("LAB", (80, 48), (64, 128, 128)), np.full((48, 80), 60), 2),
        (Image.fromarray(GREY).convert("P"), GREY, 0),
    ],
    ids=["L", "1", "I;16", "I", "F", "CMYK", "YCbCr", "HSV", "LAB", "P"],
)
def test_pil_modes_without_alpha_keep_their_colours(picture: Image.Image, expected: np.ndarray, tolerance: int) -> None:
    expected = expected if expected.ndim == 3 else np.repeat(expected[:, :, None], 3, axis=2)
    before = picture.tobytes()
    assert np.abs(read(picture).astype(int) - expected).max() <= tolerance
    assert before == picture.tobytes()


def test_a_16_bit_png_keeps_its_range() -> None:
    ramp = np.linspace(0, 65535, 80).astype(np.uint16)[None].repeat(48, axis=0)
    expected = np.rint(ramp / 257).astype(int)
    assert expected.tolist() == read(as_file(Image.fromarray(ramp)))[:, :, 1].tolist()


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_alpha_lies_on_white(mode: str) -> None:
    grey = np.full((48, 80, 4), 100, np.uint8)
    grey[:, :, 3] = 255
    grey[:, :20, 3], grey[:, 20:40, 3] = 0, 102  # clear, and two fifths covered
    picture = Image.fromarray(grey)
    if mode == "La":
        picture = picture.convert("LA")
    found = read(picture.convert(mode)).astype(int)
    assert [255, 255, 255] == found[0, 0].tolist()
    assert np.abs(found[0, 30] - (0.4 * 100 + 0.6 * 255)).max() <= 2
    assert np.abs(found[0, 79] - 100).max() <= 1


def test_a_transparent_palette_colour_and_a_transparent_rgb_colour_become_white() -> None:
    picture = Image.new("P", (80, 48), 1)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.paste(0, (0, 0, 40, 48))
    found = read(as_file(picture, transparency=0))
    assert ([255, 255, 255], [40, 50, 60]) == (found[0, 0].tolist(), found[0, 79].tolist())
    plain = Image.new("RGB", (80, 48), (1, 2, 3))
    assert [255, 255, 255] == read(as_file(plain, transparency=(1, 2, 3)))[0, 0].tolist()


def test_arrays_with_alpha_lie_on_white_in_either_channel_order() -> None:
    rgba = np.dstack([COLOURS, np.full((48, 80), 255, np.uint8)])
    rgba[:, :9, 3] = 0
    expected = COLOURS.copy()
    expected[:, :9] = 255
    assert expected.tolist() == read(rgba).tolist()
    assert expected.tolist() == read(rgba[:, :, [2, 1, 0, 3]], channel_order="bgr").tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_eight_ways_to_hold_a_camera_all_come_out_upright(orientation: int) -> None:
    turns = {  # how the stored pixels lie when the upright picture is COLOURS
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](COLOURS)))
    assert COLOURS.tolist() == read(as_file(stored, exif=exif)).tolist()


def test_unreadable_exif_does_not_lose_the_picture() -> None:
    assert (48, 80, 3) == read(as_file(Image.fromarray(COLOURS), "JPEG", exif=b"Exif\0\0garbage of no kind")).shape


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (80, 48), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        found = read(as_file(frames[0], kind, save_all=True, append_images=frames[1:], duration=100))
        assert np.abs(found[0, 0].astype(int) - [255, 0, 0]).max() <= 3, kind


def test_the_result_is_fresh_whatever_came() -> None:
    for source in (COLOURS, np.asfortranarray(COLOURS), COLOURS[::-1], COLOURS[:, :, :1], COLOURS / 255):
        before = source.copy()
        found = read(source)
        assert found.flags.c_contiguous and found.flags.writeable and not np.shares_memory(found, source)
        found[:] = 0
        assert (before == source).all()
    held = Image.fromarray(COLOURS)
    read(held)[:] = 0
    assert COLOURS.tolist() == np.asarray(held).tolist()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 48, 80), np.uint8), r"\(3, 48, 80\). Swapped axes\?"),
        (np.zeros((2, 48, 80, 3), np.uint8), "batch as a list"),
        (np.zeros((48, 80, 2), np.uint8), r"\(48, 80, 2\)"),
        (np.zeros(5, np.uint8), r"\(5,\)"),
        (np.zeros((0, 80, 3), np.uint8), "at least one pixel"),
        (np.full((48, 80), np.nan), "NaN"),
        (np.full((48, 80), -0.5), "from -0.5 to -0.5"),
        (np.full((48, 80), 1.5), "from 1.5 to 1.5"),
        (np.full((48, 80), 300.0), "from 300 to 300"),
        (np.full((48, 80), 7, np.int64), "int64 from 7 to 7"),
        (np.full((48, 80), "x"), "must be numbers"),
        (np.zeros((48, 80), complex), "must be numbers"),
        (torch.zeros(48, 80, 3), r"Swapped axes\?"),
        (torch.zeros(2, 3, 48, 80), "batch as a list"),
        (torch.full((3, 48, 80), 300.0), "from 300 to 300"),
        (torch.zeros(3, 0, 80), "at least one pixel"),
        ([[1, 2], [3, 4]], "got list"),
        (None, "got NoneType"),
    ],
)
def test_arrays_that_are_no_picture_are_refused_in_one_sentence(array: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        read(array)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_picture_are_refused_by_name(tmp_path: Path) -> None:
    jpeg = as_file(Image.fromarray(COLOURS), "JPEG")
    cases = {
        "text.png": (b"not a picture at all\n" * 99, "not a picture in a known format"),
        "empty.png": (b"", "is empty"),
        "drawing.svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "damaged or cut short"),
        "cut.png": (as_file(Image.fromarray(COLOURS))[:700], "damaged or cut short"),
        "bomb.png": (png_header(20000, 20000), "20000x20000 = 400,000,000 pixels"),
        "big.png": (png_header(15000, 15000), "225,000,000 pixels"),
        "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture in a known format"),
    }
    for name, (data, words) in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(BadInput, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), name
        with pytest.raises(BadInput, match=words):
            read(data)


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP"])
def test_damaged_files_of_every_format_are_a_picture_or_one_sentence(kind: str) -> None:
    whole = as_file(Image.fromarray(COLOURS), kind)
    assert 3 == read(whole).shape[2]
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        data = bytearray(whole[: rng.integers(len(whole) // 2, len(whole))])
        for place in rng.integers(0, 200, 3):
            data[place] = rng.integers(0, 256)
        try:
            read(bytes(data))
        except BadInput as error:
            refused += "\n" not in str(error)
    assert refused > 30


@pytest.mark.parametrize(
    ("path", "words"),
    [("nowhere/at all.png", "no picture at nowhere"), (".", "is a folder"), ("a\0b.png", "not a path")]
    + [("https://example.org/a.png", "is an address"), ("x" * 5000 + ".png", "cannot be opened")],
)
def test_paths_that_lead_nowhere_say_so(path: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read(path)


def test_a_file_opened_as_text_says_how_to_open_it() -> None:
    with pytest.raises(BadInput, match="open it with 'rb'"):
        read(io.StringIO("text"))


def test_the_pixel_limit_can_be_moved_both_ways() -> None:
    data = as_file(Image.fromarray(COLOURS))
    with pytest.raises(BadInput, match=r"80x48 = 3,840 pixels, above the limit of 3,839"):
        read(data, max_pixels=3839)
    assert (48, 80, 3) == read(data, max_pixels=3840).shape
    with pytest.raises(BadInput, match="cut short"):  # past the limit, so it is decoded, and is found to be cut
        read(png_header(20000, 1), max_pixels=10**9)
    with pytest.raises(BadInput, match="above the limit"):
        read(Image.new("1", (80, 48)), max_pixels=99)


def test_pillows_own_limit_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    assert (48, 80, 3) == read(as_file(Image.fromarray(COLOURS))).shape
    assert 5 == Image.MAX_IMAGE_PIXELS


def test_an_unknown_channel_order_lists_the_known() -> None:
    with pytest.raises(UnknownName, match="bgr, rgb"):
        read(COLOURS, channel_order="rbg")


def test_a_picture_of_one_pixel_is_a_picture() -> None:
    assert [[[9, 8, 7]]] == read(as_file(Image.new("RGB", (1, 1), (9, 8, 7)))).tolist()


def test_shrinking_averages_and_the_papers_way_does_not() -> None:
    stripes = np.zeros((48, 80, 3), np.uint8)
    stripes[:, ::8] = 240
    assert 15 <= resize(stripes, 6, 10).min() and resize(stripes, 6, 10).max() <= 40
    assert 0 == resize(stripes, 6, 10, kind="bilinear").max()
    assert (96, 100, 3) == resize(stripes, 96, 100).shape
    same = resize(stripes, 48, 80)
    assert (stripes == same).all() and not np.shares_memory(stripes, same)
    with pytest.raises(UnknownName, match="bicubic, bilinear"):
        resize(stripes, 6, 10, kind="nearest")


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a10.png", "a2.JPG", "notes.txt", ".hidden.png", "nested/b.webp", "nested/deep/c.tif", "nested/x.doc"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gives_its_pictures_in_natural_order_and_says_what_it_left(album: Path) -> None:
    found, skipped = expand([album])
    assert ["a2.JPG", "a10.png"] == [path.name for path in found]
    assert ["notes.txt"] == [path.name for path in skipped]


def test_nested_folders_are_asked_for_and_a_loop_of_links_ends(album: Path) -> None:
    os.symlink(album, album / "nested" / "loop")
    found, skipped = expand(["."], recursive=True)
    assert ["a2.JPG", "a10.png", "nested/b.webp", "nested/deep/c.tif"] == [path.as_posix() for path in found]
    assert ["notes.txt", "nested/x.doc"] == [path.as_posix() for path in skipped]


def test_each_picture_is_named_once_in_the_order_asked(album: Path) -> None:
    os.symlink(album / "a2.JPG", album / "link.png")
    found, _ = expand(["nested/b.webp", "a10.png", str(album), "./a10.png", "*.png"])
    assert ["b.webp", "a10.png", "a2.JPG"] == [path.name for path in found]


def test_globs_pick_pictures_and_name_files_outright_keeps_them(album: Path) -> None:
    assert ["c.tif"] == [path.name for path in expand(["**/*.tif"])[0]]
    assert (["a2.JPG", "a10.png"], ["notes.txt"]) == tuple([p.name for p in part] for part in expand(["*"]))
    assert ["notes.txt"] == [path.name for path in expand(["notes.txt"])[0]]
    assert ["nowhere.png", "no*.gif"] == [path.name for path in expand(["nowhere.png", "no*.gif"])[0]]
    (album / "odd[1].png").touch()
    assert ["odd[1].png"] == [path.name for path in expand(["odd[1].png"])[0]]


def test_a_list_names_one_input_a_line(album: Path) -> None:
    Path("list.txt").write_text("\ufeffa10.png\r\n\n  nested  \n", encoding="utf-8")
    assert ["a10.png", "b.webp"] == [path.name for path in expand(["@list.txt"])[0]]
    with pytest.raises(BadUsage, match="@gone.txt must be a text file"):
        expand(["@gone.txt"])


def test_nothing_asked_is_nothing_found() -> None:
    assert ([], []) == expand([])


def test_every_format_has_an_extension_that_pillow_knows() -> None:
    Image.init()
    known = Image.registered_extensions()
    assert set(images.FORMATS) >= {known[extension] for extension in images.EXTENSIONS if extension in known}
