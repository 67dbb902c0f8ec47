"""What changes the picture's own pixels: enlarging, blending, double outlines (light in dark)."""

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8

from ovseg.draw.text import Number
from ovseg.errors import BadInput

SMALLEST = 320  # px: a picture whose long side is below this is drawn enlarged by a whole number, so a legend fits


def same_size(image: UInt8[np.ndarray, "height width 3"], shape: tuple[int, ...]) -> None:
    if image.shape[:2] != shape:
        raise BadInput(
            f"the result must be of this picture: it is {shape[0]}x{shape[1]}, the picture is "
            f"{image.shape[0]}x{image.shape[1]} (rows x cols). Swapped axes?"
        )


def enlargement(image: UInt8[np.ndarray, "height width 3"]) -> int:
    return -(-SMALLEST // max(image.shape[:2])) if max(image.shape[:2]) < SMALLEST else 1


def enlarge(array: Shaped[np.ndarray, "height width *rest"], factor: int) -> Shaped[np.ndarray, "rows cols *rest"]:
    return array if factor == 1 else array.repeat(factor, axis=0).repeat(factor, axis=1)


def blend(under: UInt8[np.ndarray, "..."], over: UInt8[np.ndarray, "..."], opacity: Number) -> UInt8[np.ndarray, "..."]:
    share = round(256 * opacity)
    return ((under.astype(np.uint16) * (256 - share) + over.astype(np.uint16) * share) >> 8).astype(np.uint8)


def outline(
    canvas: UInt8[np.ndarray, "height width 3"], owners: Int[np.ndarray, "height width"], thickness: Number
) -> UInt8[np.ndarray, "height width 3"]:
    """A light line with dark edges wherever the owner changes; not along the picture's own border."""
    import cv2

    border = np.zeros(owners.shape, np.uint8)
    for one, other in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
        change = owners[one] != owners[other]
        border[one] |= change
        border[other] |= change
    if not border.any():
        return canvas
    away: Float32[np.ndarray, "height width"] = cv2.distanceTransform(1 - border, cv2.DIST_L2, 5)
    near = away < 2 * thickness + 1
    pixels, distance = canvas[near].astype(np.float32), away[near][:, None]
    dark = (2 * thickness - distance).clip(0, 1) * 0.75
    light = (thickness - distance).clip(0, 1) * 0.95
    pixels *= 1 - dark
    pixels += (255 - pixels) * light
    drawn = canvas.copy()
    drawn[near] = np.rint(pixels).astype(np.uint8)
    return drawn


__all__ = ["SMALLEST", "blend", "enlarge", "enlargement", "outline", "same_size"]
