"""Pack the drawings that teach the tiny CLIP into one cache of cut-out sprites. Downloads nothing by itself.

The packages, fetched with the ordinary clients (versions and digests: ../README.md):

    npm install --ignore-scripts @lobehub/fluent-emoji-3d @lobehub/fluent-emoji-anim-{1,2,3,4} emojibase-data \\
        @iconify-json/{fluent-emoji,fluent-emoji-flat,noto,noto-v1,fxemoji,streamline-emojis,twemoji,emojione} \\
        @iconify-json/{game-icons,mdi,ph,fa6-solid}
    apt-get download openclipart-png openclipart-svg && for f in openclipart-*.deb; do dpkg -x $f clipart; done
    apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
    for f in lomiri*.deb; do dpkg -x $f wallpapers/${f%%_*}; done
    pip install resvg-py scikit-image scikit-learn scipy

    python weights/tiny/make_data.py --npm node_modules --clipart clipart --wallpapers wallpapers \\
        --out CACHE [--heldout weights/tiny/heldout.npz]

CACHE gets sprites.npy (N, 128, 128, 4 uint8, RGBA, centred), sprites.json (name and source of each) and photos.npz
(background photographs). ``--heldout`` writes the twemoji sprites, which are never trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image
from words import ONLY_CLIPART, TABLE, entries

SIDE = 128
VECTOR_SETS = ("fluent-emoji", "fluent-emoji-flat", "noto", "noto-v1", "fxemoji", "streamline-emojis")
GLYPH_SETS = (("game-icons", ("",)), ("mdi", ("",)), ("ph", ("-fill", "-duotone")), ("fa6-solid", ("",)))
ANIMATION_FRAMES = 3
HELD_OUT_PHOTOS = ("sunset", "picosdeeuropa")  # backgrounds of the report, with the heldout/ ones below
SHOW_THINGS = (
    "friends",
    "Picture_0B",
    "Picture_1A",
    "Wine",
)  # dogs, a fig, brushes, a drum: not a "background"; never trained on
MOST_PER_NAME = 24  # clip-art drawings of one name
ALIASES = {  # names that older emoji sets use for today's CLDR labels
    "oncoming automobile": ["automobile"],
    "musical keyboard": ["piano"],
    "hot beverage": ["coffee", "cup-of-hot-beverage"],
    "closed book": ["book"],
    "cooking": ["fried-egg"],
    "ear of corn": ["corn"],
    "hot pepper": ["pepper"],
    "doughnut": ["donut"],
    "bug": ["caterpillar"],
    "lady beetle": ["ladybug"],
    "honeybee": ["bee"],
    "locked": ["lock"],
    "mobile phone": ["mobile", "smartphone"],
    "tangerine": ["orange"],
    "red apple": ["apple"],
    "billed cap": ["cap"],
    "kitchen knife": ["knife"],
    "spiral shell": ["shell"],
    "wrapped gift": ["gift", "present"],
    "couch and lamp": ["sofa", "couch"],
    "headphone": ["headphones"],
    "kiwi fruit": ["kiwi"],
    "ox": ["bull"],
    "ewe": ["sheep"],
    "grapes": ["grape"],
    "soccer ball": ["football", "soccer"],
    "t-shirt": ["tshirt", "shirt"],
}
NOISE = re.compile(
    r"\b(the|a|an|simple|cartoon|small|big|little|old|new|red|green|blue|yellow|black|white|brown|orange|pink|purple|grey|gray|"
    r"icon|clip ?art|drawing|colou?r|outline|glossy|realistic|ripe|common|plain|side view|top view|version|"
    r"illustration|vector|cute|sitting|standing|\d+)\b"
)


def slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("ñ", "n")).strip("-")


def sprite(picture: Image.Image) -> NDArray[np.uint8] | None:
    """The drawing cut to what is not transparent, centred; None if it has no outline or nearly nothing in it."""
    rgba = picture.convert("RGBA")
    box = rgba.getchannel("A").point(lambda value: 255 * (value > 16)).getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) < 24:
        return None
    cut = rgba.crop(box)
    share = (np.asarray(cut.getchannel("A")) > 127).mean()
    if share < 0.08 or share > 0.985:
        return None
    scale = (SIDE - 2) / max(cut.size)
    width, height = (max(1, round(side * scale)) for side in cut.size)
    # Resized with premultiplied colours, so that no colour of invisible pixels bleeds in.
    small = (
        Image.fromarray(np.asarray(cut))
        .convert("RGBa")
        .resize((width, height), Image.Resampling.LANCZOS)
        .convert("RGBA")
    )
    canvas = np.zeros((SIDE, SIDE, 4), np.uint8)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    canvas[top : top + height, left : left + width] = np.asarray(small)
    return canvas


def render(svg: str) -> Image.Image | None:
    try:
        return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=256))))
    except Exception as error:  # one unreadable drawing of thousands is only reported
        print("skipped:", str(error)[:80])
        return None


def from_vectors(folder: Path, wanted: dict[str, list[str]]) -> Iterator[tuple[str, Image.Image]]:
    """(name, picture) of an Iconify set; ``wanted`` maps the slug of a label to the names it shows."""
    pack = json.loads((folder / "icons.json").read_text())
    for key, icon in pack["icons"].items():
        plain = re.sub(r"-\d+$", "", key)
        for name in wanted.get(plain, wanted.get("=" + plain.replace("-", ""), [])):
            width, height = (icon.get(side, pack.get(side, 16)) for side in ("width", "height"))
            body = icon["body"]
            svg = (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'width="{width}" height="{height}" '
                f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{body}</svg>'
            )
            picture = render(svg)
            if picture is not None:
                yield name, picture


def from_glyphs(folder: Path, wanted: dict[str, str], suffixes: tuple[str, ...]) -> Iterator[tuple[str, Image.Image]]:
    """(name, picture) of a one-coloured Iconify set, each glyph in its own colour; ``wanted``: slug -> name."""
    pack = json.loads((folder / "icons.json").read_text())
    for key in sorted(pack["icons"]):
        suffix = next((suffix for suffix in suffixes if key.endswith(suffix)), None)
        name = wanted.get(key.removesuffix(suffix)) if suffix is not None else None
        if name is None:
            continue
        icon = pack["icons"][key]
        width, height = (icon.get(side, pack.get(side, 16)) for side in ("width", "height"))
        colour = "#" + hashlib.sha256(key.encode()).hexdigest()[:6]
        body = icon["body"].replace("currentColor", colour)
        space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        picture = render(f'<svg {space} width="{width}" height="{height}" viewBox="0 0 {width} {height}">{body}</svg>')
        if picture is not None:
            yield name, picture


def wanted_slugs() -> dict[str, list[str]]:
    """Slug -> names; a slug without its dashes is kept under ``=slug`` for the sets that write names together."""
    wanted: dict[str, list[str]] = {}
    for name, _, labels in entries(TABLE):
        for label in labels:
            for spelling in [slug(label), *ALIASES.get(label, [])]:
                for key in (spelling, "=" + spelling.replace("-", "")):
                    names = wanted.setdefault(key, [])
                    if name not in names:
                        names.append(name)
    return wanted


def from_codepoints(npm: Path, folder: Path, frames: int) -> Iterator[tuple[str, Image.Image]]:
    """(name, picture) of a set whose files are named by code point; several frames of the animated ones."""
    labels = {
        entry["label"].lower(): entry["hexcode"].lower()
        for entry in json.loads((npm / "emojibase-data/en/data.json").read_text())
    }
    for name, _, shown in entries(TABLE):
        for label in shown:
            code = labels.get(label.lower(), "")
            path = next(
                (
                    p
                    for p in (folder / f"{code}.webp", folder / f"{code.replace('-fe0f', '')}.webp")
                    if code and p.exists()
                ),
                None,
            )
            if path is None:
                continue
            with Image.open(path) as picture:
                total = getattr(picture, "n_frames", 1)
                for index in range(min(frames, total)):
                    picture.seek(index * total // frames)
                    yield name, picture.convert("RGBA")


def titles(clipart: Path) -> Iterator[tuple[str, Path]]:
    """(title, PNG path) of Open Clip Art: the title inside the SVG, and the file name without its author and number."""
    root = clipart / "usr/share/openclipart"
    for svg in sorted((root / "svg").rglob("*.svg")):
        png = root / "png" / svg.relative_to(root / "svg").with_suffix(".png")
        if not png.exists():
            continue
        found = re.search(r"<dc:title>([^<]*)</dc:title>", svg.read_text(errors="replace")[:20000])
        yield html.unescape(found.group(1)) if found else "", png
        stem = svg.stem.replace("_", " ").replace("-", " ")
        yield re.sub(r"( \d+)+.*$", "", stem), png


def from_clipart(clipart: Path) -> Iterator[tuple[str, Image.Image]]:
    """(name, picture) where the title, stripped of colours and numbers, is exactly one of our words or its plural."""
    words = {
        word.lower(): name for name, synonyms, _ in entries(ONLY_CLIPART) + entries(TABLE) for word in [name, *synonyms]
    }
    words |= {word + "s": name for word, name in list(words.items()) if not word.endswith("s")}
    count: Counter[str] = Counter()
    done: set[Path] = set()
    for title, png in titles(clipart):
        plain = re.sub(r"[^a-z' -]", " ", title.lower())
        plain = " ".join(NOISE.sub(" ", plain).replace("-", " ").split())
        name = words.get(plain)
        if (
            name is None
            or png in done
            or count[name] >= MOST_PER_NAME
            or re.search("flag|sign|icon|button|logo", str(png))
        ):
            continue
        done.add(png)
        count[name] += 1
        try:
            yield name, Image.open(png).convert("RGBA")
        except OSError as error:
            print("skipped:", png.name, str(error)[:60])


def wallpapers(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Photographs of the Lomiri wallpaper packages under CC-BY-4.0 or CC0-1.0 (the share-alike ones are left out)."""
    photos = {}
    for notice in sorted(folder.glob("*/usr/share/doc/*/copyright")):
        for block in notice.read_text().split("\n\n"):
            files, licence = re.search(r"Files: (\S+)", block), re.search(r"License: (\S+)", block)
            if not files or not licence or licence.group(1) not in ("CC-BY-4.0", "CC0-1.0"):
                continue
            for path in notice.parents[2].rglob(Path(files.group(1)).name):
                if path.name.startswith(SHOW_THINGS):
                    continue
                picture = Image.open(path).convert("RGB")
                picture.thumbnail((720, 720), Image.Resampling.LANCZOS)
                photos[f"background/{path.stem}"] = np.asarray(picture)
    return photos


def photographs() -> dict[str, NDArray[np.uint8]]:
    """Background photographs and textures that installed packages carry; the last ones are kept for the report only."""
    import skimage.data
    import sklearn.datasets

    china, flower = (sklearn.datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg"))
    photos = {
        "brick wall": skimage.data.brick(),
        "grass": skimage.data.grass(),
        "gravel": skimage.data.gravel(),
        "background/china": china[60:],
        "background/immunohistochemistry": skimage.data.immunohistochemistry(),
        "background/hubble": skimage.data.hubble_deep_field(),
        "heldout/flower": flower[:, :260],
        "heldout/retina": skimage.data.retina()[300:900, 300:900],
    }
    return {
        name: np.ascontiguousarray(photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, 2))
        for name, photo in photos.items()
    }


def write_heldout(npm: Path, path: Path, wanted: dict[str, list[str]], count: int, side: int) -> None:
    """Sprites of the style that is never trained on, one a name, as one PNG-packed array (RGBA)."""
    chosen: dict[str, Image.Image] = {}
    for name, picture in from_vectors(npm / "@iconify-json/twemoji", wanted):
        cut = sprite(picture)
        if cut is not None and name not in chosen:
            chosen[name] = Image.fromarray(cut).resize((side, side), Image.Resampling.LANCZOS)
    names = sorted(chosen)
    names = [names[index] for index in sorted(np.random.default_rng(0).permutation(len(names))[:count])]
    packed = []
    for name in names:
        buffer = io.BytesIO()
        chosen[name].save(buffer, "PNG", optimize=True)
        packed.append(np.frombuffer(buffer.getvalue(), np.uint8))
    ends = np.cumsum([len(data) for data in packed])
    np.savez(path, names=np.array(names), png=np.concatenate(packed), ends=ends)
    print(f"{path}: {len(names)} held-out sprites, {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npm", type=Path, required=True)
    parser.add_argument("--clipart", type=Path)
    parser.add_argument("--wallpapers", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heldout", type=Path)
    args = parser.parse_args()
    wanted = wanted_slugs()
    if args.heldout:
        write_heldout(args.npm, args.heldout, wanted, count=256, side=80)
    sources: list[tuple[str, Iterator[tuple[str, Image.Image]]]] = [
        ("fluent-emoji-3d", from_codepoints(args.npm, args.npm / "@lobehub/fluent-emoji-3d/assets", 1)),
        *((key, from_vectors(args.npm / "@iconify-json" / key, wanted)) for key in VECTOR_SETS),
    ]
    if args.clipart:
        sources.append(("openclipart", from_clipart(args.clipart)))
    for part in (1, 2, 3, 4):
        folder = args.npm / f"@lobehub/fluent-emoji-anim-{part}/assets"
        if folder.exists():
            sources.append(("fluent-emoji-anim", from_codepoints(args.npm, folder, ANIMATION_FRAMES)))
    sprites, rows = [], []
    for source, pictures in sources:
        for name, picture in pictures:
            cut = sprite(picture)
            if cut is not None:
                sprites.append(cut)
                rows.append({"name": name, "source": source})
        print(source, sum(row["source"] == source for row in rows), flush=True)
    # Only further drawings of names that the sources above have.
    known = {row["name"] for row in rows}
    words = {slug(word): name for name, more, _ in entries(ONLY_CLIPART) + entries(TABLE) for word in [name, *more]}
    late = [("emojione", from_vectors(args.npm / "@iconify-json/emojione", wanted))]
    late += [("glyphs", from_glyphs(args.npm / "@iconify-json" / key, words, ends)) for key, ends in GLYPH_SETS]
    for source, pictures in late:
        for name, picture in pictures:
            cut = sprite(picture) if name in known else None
            if cut is not None:
                sprites.append(cut)
                rows.append({"name": name, "source": source})
        print(source, sum(row["source"] == source for row in rows), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    stack = np.stack(sprites)
    np.save(args.out / "sprites.npy", stack)
    digest = hashlib.sha256(stack.tobytes()).hexdigest()
    counts = Counter(row["source"] for row in rows)
    (args.out / "sprites.json").write_text(json.dumps({"sha256": digest, "counts": counts, "sprites": rows}, indent=0))
    photos = photographs() | (wallpapers(args.wallpapers) if args.wallpapers else {})
    for name in [name for name in photos if any(part in name for part in HELD_OUT_PHOTOS)]:
        photos["heldout/" + name.split("/")[1]] = photos.pop(name)
    np.savez(args.out / "photos.npz", **photos)
    print(len(photos), "photographs:", *photos)
    print(f"{len(rows)} sprites of {len({row['name'] for row in rows})} names, sha256 {digest}")


if __name__ == "__main__":
    main()
