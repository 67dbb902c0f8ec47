"""Pictures in: whatever a person has in hand becomes one RGB array; and the list of pictures that a command names.

Everything that `read` refuses it refuses with one sentence (`BadInput`) that names the picture, so that the other
pictures of a call go on. Pillow decodes files; arrays are only converted. torch is recognised, never imported.
"""

import glob
import io
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from ovseg.errors import BadInput, BadUsage, UnknownName

MAX_PIXELS = 178_956_970  # Pillow's own warning line: a quarter of a gigabyte of RGB pixels, roughly
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP")
EXTENSIONS = frozenset(
    ".avif .bmp .dib .gif .ico .jfif .jp2 .jpe .jpeg .jpg .mpo .pbm .pcx .pgm .png .pnm .ppm .tga .tif .tiff "
    ".webp".split()
)

# What decoders raise on damaged files, found by damaging files of every format; UserWarning where warnings are errors.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, RuntimeError, UserWarning),
    *(struct.error, zlib.error),
)
_TURNS = {  # EXIF orientation -> what puts the picture upright (CIPA DC-008, tag 0x0112)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEADER_LOCK = threading.Lock()


def read(
    source: Any, *, channel_order: str = "rgb", max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture as RGB bytes, upright, alpha laid on white: a fresh contiguous array.

    `source` is a path, bytes, a binary file object, a PIL image of any mode, a numpy array (H, W), (H, W, 1), (H, W, 3)
    or (H, W, 4), or a torch tensor (H, W) or (C, H, W). Arrays are RGB(A) unless `channel_order="bgr"`; files and PIL
    images know their own order. Numbers: uint8; bool (True is white); 16 bit (divided by 257; PIL's mode I counts as 16
    bit); floats in [0, 1] or [0, 255]. Files give their first frame. `max_pixels` is asked of the header, before any
    pixel is decoded.

    >>> read(np.array([[0.0, 1.0, 0.2]])).tolist()
    [[[0, 0, 0], [255, 255, 255], [51, 51, 51]]]
    >>> read(np.zeros((3, 48, 80), np.uint8))
    Traceback (most recent call last):
    ...
    ovseg.errors.BadInput: a numpy picture must be (rows, cols[, 1, 3 or 4]): got (3, 48, 80). Swapped axes?
    """
    if channel_order not in ("rgb", "bgr"):
        raise UnknownName.of("channel_order", channel_order, ["bgr", "rgb"])
    if isinstance(source, np.ndarray):
        return _from_array(source, channel_order)
    if type(source).__module__.partition(".")[0] == "torch" and hasattr(source, "detach"):
        return _from_tensor(source, channel_order)
    if isinstance(source, Image.Image):
        return _from_pil(source, "the picture", max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(bytes(source)), f"the picture of {len(source)} bytes", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(source, max_pixels)
    if hasattr(source, "read"):
        data = source.read()
        name = str(getattr(source, "name", "the file object"))
        if not isinstance(data, bytes):
            raise BadInput(f"a picture must be opened as bytes: {name} gives {type(data).__name__}; open it with 'rb'")
        return _from_file(io.BytesIO(data), name, max_pixels)
    raise BadInput(
        f"a picture must be a path, bytes, a binary file, a PIL image, a numpy array or a torch tensor: got "
        f"{type(source).__name__}"
    )


def resize(
    image: UInt8[np.ndarray, "height width 3"], height: int, width: int, *, kind: str = "bicubic"
) -> UInt8[np.ndarray, "rows cols 3"]:
    """The picture at another size.

    `kind` "bicubic" (default) is Pillow's: it averages over all source pixels when shrinking, as CLIP's own transforms
    do. "bilinear" is OpenCV's, which looks at four source pixels only: the papers' (mmcv `imrescale`), for parity.

    >>> resize(np.full((2, 4, 3), 7, np.uint8), 3, 2)[..., 0].tolist()
    [[7, 7], [7, 7], [7, 7]]
    """
    if kind not in _RESIZERS:
        raise UnknownName.of("kind", kind, _RESIZERS)
    if image.shape[:2] == (height, width):
        return image.copy()
    return _RESIZERS[kind](image, height, width)


def expand(inputs: Iterable[str | os.PathLike[str]], recursive: bool = False) -> tuple[list[Path], list[Path]]:
    """The pictures that files, folders, globs and `@list.txt` name, and the files beside them that are no pictures.

    Each picture once, in the order of the inputs; folders and globs in natural order (`a2` before `a10`), by extension
    in any case, without hidden files. A file that is named outright stays whatever its extension, and so does a path
    that does not exist: `read` then says what is wrong with it, and the others go on. A list holds one input a line,
    relative to the current folder. Links to folders are followed, each folder once.
    """
    found: dict[str, Path] = {}
    skipped: dict[str, Path] = {}
    for item in _with_lists(inputs):
        for path, named in _matches(item, recursive):
            kind = found if named or path.suffix.lower() in EXTENSIONS else skipped
            kind.setdefault(os.path.realpath(path), path)
    return list(found.values()), [path for key, path in skipped.items() if key not in found]


def _from_path(source: str | os.PathLike[str], max_pixels: int) -> UInt8[np.ndarray, "height width 3"]:
    name = os.fsdecode(source)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name):
        raise BadInput(f"a picture must be on this machine: {name} is an address; fetch it first")
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            raise BadInput(f"a picture was needed: {name} is a folder; name the pictures in it")
        stream = open(path, "rb")  # closed below: only the opening may fail here
    except FileNotFoundError as error:
        raise BadInput(f"no picture at {name}: check the path") from error
    except OSError as error:
        raise BadInput(f"{name} cannot be opened: {error.strerror}") from error
    except RuntimeError as error:
        raise BadInput(f"{name} cannot be opened: its home folder is not known") from error
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{name!r} is not a path: {error}") from error
    with stream:
        return _from_file(stream, name, max_pixels)


def _from_file(stream: Any, name: str, max_pixels: int) -> UInt8[np.ndarray, "height width 3"]:
    head = stream.read(1024)
    stream.seek(0)
    if not head:
        raise BadInput(f"{name} is empty: a picture was needed")
    if b"<svg" in head.lower():
        raise BadInput(f"{name} is an SVG drawing: export it as PNG first")
    Image.init()
    formats = [kind for kind in FORMATS if kind in Image.OPEN]
    try:
        # Pillow's limit is one number for the whole process. Only the header is read here, and ours is asked next.
        with _HEADER_LOCK:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                picture = Image.open(stream, formats=formats)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except UnidentifiedImageError as error:
        raise BadInput(f"{name} is not a picture in a known format ({', '.join(formats)})") from error
    except _DAMAGE as error:
        raise BadInput(f"{name} is damaged: {error}; get a whole copy") from error
    with picture:
        return _from_pil(picture, name, max_pixels)


def _from_pil(picture: Image.Image, name: str, max_pixels: int) -> UInt8[np.ndarray, "height width 3"]:
    width, height = picture.size
    if width * height > max_pixels:
        raise BadInput(
            f"{name} has {width}x{height} = {width * height:,} pixels, above the limit of {max_pixels:,}: shrink "
            f"it, or raise max_pixels if you trust it"
        )
    if not width * height:
        raise BadInput(f"a picture needs at least one pixel: {name} is {width}x{height}")
    try:
        picture.load()
        upright = _upright(picture)
        if upright.mode == "La":  # the one mode that Pillow takes only through another
            upright = upright.convert("LA")
        grey = upright.mode in ("I", "F") or upright.mode.startswith("I;")
        clear = upright.has_transparency_data and not grey
        pixels = np.array(upright if grey else upright.convert("RGBA" if clear else "RGB"))
    except _DAMAGE as error:
        raise BadInput(f"{name} is damaged or cut short: {error}; get a whole copy") from error
    if grey:
        return _from_array(pixels, "rgb", wide=upright.mode == "I", name=name)
    return _on_white(pixels) if clear else pixels


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; unreadable EXIF says nothing, as in every viewer."""
    try:
        turn = _TURNS.get(picture.getexif().get(0x0112, 1))
    except _DAMAGE:
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _from_tensor(tensor: Any, channel_order: str) -> UInt8[np.ndarray, "height width 3"]:
    shape = tuple(tensor.shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3, 4)):
        swapped = " Swapped axes?" if len(shape) == 3 and shape[-1] in (1, 3, 4) else ""
        batch = " Give a batch as a list of pictures." if len(shape) == 4 else ""
        raise BadInput(f"a torch picture must be ([1, 3 or 4,] rows, cols): got {shape}.{swapped}{batch}")
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.dtype.is_floating_point else tensor).numpy()
    return _from_array(array if array.ndim == 2 else array.transpose(1, 2, 0), channel_order)


def _from_array(
    array: Shaped[np.ndarray, "..."], channel_order: str, *, wide: bool = False, name: str = "the picture"
) -> UInt8[np.ndarray, "height width 3"]:
    shape = array.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        swapped = " Swapped axes?" if len(shape) == 3 and shape[0] in (1, 3, 4) else ""
        batch = " Give a batch as a list of pictures." if len(shape) == 4 else ""
        raise BadInput(f"a numpy picture must be (rows, cols[, 1, 3 or 4]): got {shape}.{swapped}{batch}")
    if 0 in shape:
        raise BadInput(f"a picture needs at least one pixel: got shape {shape}")
    pixels = _to_bytes(array, wide, name)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if channel_order == "bgr":
        pixels = pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    return _on_white(pixels) if pixels.shape[2] == 4 else np.array(pixels, order="C")


def _to_bytes(array: Shaped[np.ndarray, "..."], wide: bool, name: str) -> UInt8[np.ndarray, "..."]:
    """Numbers of a known range as bytes; `wide` lets 32-bit integers count as 16-bit ones."""
    kind = array.dtype
    if kind == np.uint8:
        return array
    if kind == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if kind != np.uint16 and kind.kind not in ("f", "i", "u"):
        raise BadInput(f"pixels must be numbers: {name} holds {kind}")
    low, high = array.min(), array.max()
    seen = f"got {kind} from {low:g} to {high:g}"
    if kind.kind == "f":
        if not np.isfinite(low) or not np.isfinite(high):
            raise BadInput(f"pixels must be finite: {name} holds NaN or infinity")
        if low < -1e-3 or high > 255 or 1 + 1e-3 < high <= 2:
            raise BadInput(f"pixels of {name} must be floats in [0, 1] or [0, 255]: {seen}; clip or scale them")
        scale = 255 if high <= 1 + 1e-3 else 1
        return np.rint(array.astype(np.float32) * scale).clip(0, 255).astype(np.uint8)
    if (kind == np.uint16 or wide) and low >= 0 and high <= 65535:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise BadInput(f"pixels of {name} must be uint8, uint16, bool or float: {seen}; convert them")


def _on_white(rgba: UInt8[np.ndarray, "height width 4"]) -> UInt8[np.ndarray, "height width 3"]:
    alpha = rgba[:, :, 3:].astype(np.uint32)
    return ((rgba[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _bicubic(image: UInt8[np.ndarray, "height width 3"], height: int, width: int) -> UInt8[np.ndarray, "rows cols 3"]:
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _bilinear(image: UInt8[np.ndarray, "height width 3"], height: int, width: int) -> UInt8[np.ndarray, "rows cols 3"]:
    import cv2

    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


_RESIZERS: dict[str, Callable[..., UInt8[np.ndarray, "rows cols 3"]]] = {"bicubic": _bicubic, "bilinear": _bilinear}


def _with_lists(inputs: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """The inputs, each `@list.txt` replaced by its lines."""
    for given in inputs:
        item = os.fspath(given)
        if not item.startswith("@") or os.path.exists(item):
            yield item
            continue
        try:
            lines = Path(item[1:]).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadUsage(f"{item} must be a text file with one path a line: {error}") from error
        yield from (line.strip() for line in lines if line.strip())


def _matches(item: str, recursive: bool) -> Iterator[tuple[Path, bool]]:
    """The files of one input, each with whether it was named outright."""
    path = Path(os.path.expanduser(item))
    if path.is_dir():
        yield from ((found, False) for found in _walk(path, recursive, set()))
    elif not path.exists() and glob.has_magic(item):
        hits = sorted(map(Path, glob.glob(str(path), recursive=True)), key=_natural)
        for hit in hits:
            if hit.is_dir():
                yield from ((found, False) for found in _walk(hit, recursive, set()) if recursive)
            else:
                yield hit, False
        if not hits:
            yield path, True
    else:
        yield path, True


def _walk(folder: Path, recursive: bool, seen: set[str]) -> Iterator[Path]:
    """Files of a folder before those of its sub-folders, each real folder once."""
    seen.add(os.path.realpath(folder))
    try:
        entries = sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=_natural)
    except OSError as error:
        raise BadUsage(f"{folder} cannot be listed: {error.strerror}") from error
    yield from (entry for entry in entries if not entry.is_dir())
    for entry in entries if recursive else ():
        if entry.is_dir() and os.path.realpath(entry) not in seen:
            yield from _walk(entry, recursive, seen)


def _natural(path: Path) -> tuple[list[tuple[bool, int, str]], str]:
    """A sort key by which a2 comes before a10; equal ones by their exact spelling."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts if part], str(path)


__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "MAX_PIXELS",
    "expand",
    "read",
    "resize",
]
