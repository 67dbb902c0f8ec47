"""Pictures as PNG files: any picture, or class numbers with the table that says what they mean."""

import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ovseg.types import Segmentation


def index_png(segmentation: Segmentation) -> bytes:
    """A PNG of class numbers in the picture's own size: 0 unlabelled, k + 1 for name k, with the names' colours.

    Palette PNG up to 255 names, 16-bit grey above. `class_table` says which number is which.
    """
    numbers = segmentation.labels + 1
    if len(segmentation.names) > 255:
        picture = Image.fromarray(numbers.astype(np.uint16))
    else:
        picture = Image.fromarray(numbers.astype(np.uint8))
        picture.putpalette(b"\0\0\0" + segmentation.colours.tobytes())
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def class_table(segmentation: Segmentation) -> list[dict[str, Any]]:
    """What the numbers of `index_png` mean: one row a class, ready for JSON; 0 is unlabelled."""
    named = zip(segmentation.names, segmentation.colours, strict=True)
    rows = [{"id": k + 1, "name": name, "colour": "#" + bytes(colour).hex()} for k, (name, colour) in enumerate(named)]
    return [{"id": 0, "name": None, "colour": "#000000"}, *rows]


def png(image: UInt8[np.ndarray, "height width *channels"]) -> bytes:
    """The picture (RGB, or grey without channels) as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


__all__ = ["class_table", "index_png", "png"]
