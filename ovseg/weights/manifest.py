"""Which weight files there are: one row a file, with its digest, size, licence and where it is published.

The digests, sizes and revisions were taken from public records of these files and cross-checked: OpenAI's are part of
their addresses (openai/CLIP, clip.py); the others each appear in several unrelated repositories, except where the row's
`note` says otherwise. A wrong one can only refuse a file, never let a wrong file pass.
"""

import re
from dataclasses import dataclass, replace

from ovseg.errors import BadUsage, UnknownName

SOURCES = ("bundled", "https", "huggingface")


@dataclass(frozen=True)
class WeightFile:
    """One file of the manifest; `bytes` is 0 and `sha256` is empty where nothing reliable is published.

    `location` is a folder of the bundle, an address without the file, or a Hugging Face repository, as `source` says.
    `saved_as` is the path below a weights folder. `pickle` files can run code when opened carelessly: they are opened
    when their digest is this row's, and else only on request. `input_size` is the side of a square input in pixels.
    """

    name: str
    source: str
    location: str
    file: str
    licence: str
    what: str
    revision: str = ""
    bytes: int = 0
    sha256: str = ""
    input_size: int = 0
    pickle: bool = False
    saved_as: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UnknownName.of("source of a weight file", self.source, SOURCES)
        if self.source == "https" and not self.location.startswith("https://"):
            raise BadUsage(f"{self.name} must come by https: its location is {self.location!r}")
        if self.sha256 and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise BadUsage(f"sha256 of {self.name} must be 64 hex digits or empty: got {self.sha256!r}")
        if not self.licence or not self.file or "/" in self.file:
            raise BadUsage(f"{self.name} needs a licence and a plain file name: got {self.licence!r}, {self.file!r}")
        if not self.saved_as:
            object.__setattr__(self, "saved_as", self.file)


_OPENAI = "https://openaipublic.azureedge.net/clip/models/"  # then the sha256 itself
_SAM = "https://dl.fbaipublicfiles.com/segment_anything"
_UNPUBLISHED = "two public records that agree on a digest were not found: it is taken as the hub gives it"
_MIT_MIRROR = "MIT (OpenAI's repository; the hub page of this copy says Apache-2.0)"


def _tiny(name: str, file: str, size: int, sha256: str, what: str, licence: str = "Apache-2.0") -> WeightFile:
    return WeightFile(name, "bundled", "tiny", file, licence, what, "", size, sha256, saved_as=f"tiny/{file}")


def _openai_hub(name: str, repository: str, revision: str, size: int, sha256: str, pixels: int) -> WeightFile:
    return WeightFile(
        name=name,
        source="huggingface",
        location=f"timm/{repository}",
        revision=revision,
        file="open_clip_model.safetensors",
        saved_as=f"{name}.safetensors",
        bytes=size,
        sha256=sha256,
        licence=_MIT_MIRROR,
        what=f"OpenAI CLIP, open_clip keys, float32, {pixels} px",
        input_size=pixels,
    )


def _openai_pt(name: str, file: str, size: int, sha256: str, pixels: int) -> WeightFile:
    return WeightFile(
        name=name,
        source="https",
        location=_OPENAI + sha256,
        file=file,
        bytes=size,
        sha256=sha256,
        licence="MIT",
        what=f"OpenAI CLIP as OpenAI publishes it: TorchScript, float16, {pixels} px",
        input_size=pixels,
        pickle=True,
    )


def _sam(name: str, file: str, size: int, sha256: str, what: str) -> WeightFile:
    return WeightFile(name, "https", _SAM, file, "Apache-2.0", what, "", size, sha256, input_size=1024, pickle=True)


def _hub_folder(
    name: str, repository: str, licence: str, what: str, files: tuple[str, ...], note: str
) -> tuple[WeightFile, ...]:
    """A network in the hub's form: its tensors, and the small files beside them that say what it is."""
    rows = [WeightFile(name, "huggingface", repository, "model.safetensors", licence, what, input_size=1024)]
    for file in files:
        rows.append(
            WeightFile(f"{name}-{file.split('.')[0]}", "huggingface", repository, file, licence, f"{file} of it")
        )
    return tuple(replace(row, saved_as=f"{name}/{row.file}", note=note) for row in rows)


def _dino(name: str, folder: str, file: str, size: int, sha256: str, what: str, pixels: int = 224) -> WeightFile:
    return WeightFile(
        name=name,
        source="https",
        location=f"https://dl.fbaipublicfiles.com/{folder}",
        file=file,
        bytes=size,
        sha256=sha256,
        licence="Apache-2.0",
        what=what,
        input_size=pixels,
        pickle=True,
    )


_ROWS = (
    _tiny(
        "tiny-clip",
        "clip.safetensors",
        7_529_442,
        "5656fb2f28b35dccadc4c497ec9f2b14d45464f3ea62913ae1e5297ab3e34951",
        "the bundled CLIP: everyday things, trained for ovseg",
    ),
    _tiny(
        "tiny-clip-config",
        "clip.json",
        459,
        "f3cc4cfe59ea6765304af32d8dc5917c1ae88f24674195828066a7eba0da05b0",
        "its widths and depths",
    ),
    _tiny(
        "tiny-clip-bpe",
        "bpe.txt.gz",
        12_570,
        "3447a50dcb8e71ab184107522e6867409ba84c43f68189438147f4665e59f03a",
        "its tokenizer's merges",
        "MIT",
    ),
    _tiny(
        "tiny-clip-names",
        "names.json",
        17_761,
        "c9d46316fff194f993eafa882d115b5f0d9894fa1c35af93c15d61e0446c02f8",
        "the names and synonyms that it was taught",
    ),
    _tiny(
        "tiny-sam",
        "sam.safetensors",
        2_203_112,
        "96d2848c396c618c3755cf51d6da093b824e3db1af107418aaad136b10732b2d",
        "the bundled SAM: masks of drawn things, 256 px, trained for ovseg",
    ),
    _openai_hub(
        "clip-vit-b16-openai",
        "vit_base_patch16_clip_224.openai",
        "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
        598_516_980,
        "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
        224,
    ),
    _openai_hub(  # for `mobile`: a plain ViT with a quarter of B/16's tokens
        "clip-vit-b32-openai",
        "vit_base_patch32_clip_224.openai",
        "a6f597a30f7b82c51704746581f9a4e41421e878",
        605_143_284,
        "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
        224,
    ),
    _openai_hub(
        "clip-vit-l14-openai",
        "vit_large_patch14_clip_224.openai",
        "18d0535469bb561bf468d76c1d73aa35156c922b",
        1_710_517_724,
        "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
        224,
    ),
    _openai_hub(
        "clip-vit-l14-336-openai",
        "vit_large_patch14_clip_336.openai",
        "81e38efc4637de5023b10e75a7f9bd1c6fa6b010",
        1_711_828_444,
        "fbc415c3d0d7b79faed8f5ccfb740c32b7c4f5ffe7283b851f89c6231c01a8e0",
        336,
    ),
    WeightFile(
        name="clip-vit-b16-laion2b",
        source="huggingface",
        location="laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        revision="7288da5a0d6f0b51c4a2b27c624837a9236d0112",
        file="open_clip_model.safetensors",
        saved_as="clip-vit-b16-laion2b.safetensors",
        bytes=598_516_980,
        sha256="3f25d29d3cc74e1d25d47e0593b4dd0864ced1e9b4d8e486a247ca4502f227f1",
        licence="MIT",
        what="OpenCLIP trained on LAION-2B, open_clip keys, float32, 224 px",
        input_size=224,
        note="the digest stands in one public record only",
    ),
    _openai_pt(
        "clip-vit-b16-openai-pt",
        "ViT-B-16.pt",
        350_837_078,
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
        224,
    ),
    _openai_pt(
        "clip-vit-b32-openai-pt",
        "ViT-B-32.pt",
        353_976_522,
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        224,
    ),
    _openai_pt(
        "clip-vit-l14-openai-pt",
        "ViT-L-14.pt",
        932_768_134,
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        224,
    ),
    _openai_pt(
        "clip-vit-l14-336-openai-pt",
        "ViT-L-14-336px.pt",
        934_088_680,
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
        336,
    ),
    _sam(
        "sam-vit-b",
        "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        "Segment Anything, ViT-B image encoder",
    ),
    _sam(
        "sam-vit-l",
        "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        "Segment Anything, ViT-L image encoder",
    ),
    _sam(
        "sam-vit-h",
        "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        "Segment Anything, ViT-H image encoder",
    ),
    WeightFile(
        name="mobile-sam",
        source="https",
        location="https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/"
        "f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights",
        file="mobile_sam.pt",
        bytes=40_728_226,
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        licence="Apache-2.0",
        what="Segment Anything with the small TinyViT image encoder (vit_t)",
        input_size=1024,
        pickle=True,
    ),
    *_hub_folder(
        "sam-hq-vit-base",
        "syscv-community/sam-hq-vit-base",
        "Apache-2.0",
        "HQ-SAM with the ViT-B image encoder, for transformers (extra hf)",
        ("config.json",),
        _UNPUBLISHED,
    ),
    *_hub_folder(
        "sam2.1-hiera-tiny",
        "facebook/sam2.1-hiera-tiny",
        "Apache-2.0",
        "SAM 2.1, its smallest image encoder, for transformers (extra hf)",
        ("config.json",),
        _UNPUBLISHED,
    ),
    *_hub_folder(
        "sam2.1-hiera-large",
        "facebook/sam2.1-hiera-large",
        "Apache-2.0",
        "SAM 2.1, its largest image encoder, for transformers (extra hf)",
        ("config.json",),
        _UNPUBLISHED,
    ),
    *_hub_folder(
        "sam3",
        "facebook/sam3",
        "SAM License (on request; Meta's own, not open source)",
        "SAM 3: clicks and phrases, for transformers (extra hf); in no preset",
        ("config.json", "tokenizer.json"),
        f"needs a sign-in that Meta has let in; {_UNPUBLISHED}",
    ),
    _dino(
        "dino-vit-b8",
        "dino/dino_vitbase8_pretrain",
        "dino_vitbase8_pretrain.pth",
        343_279_349,
        "575f0efc4838938314afa09897a62ed2b87919928b5edcd133abb907328995eb",
        "DINO ViT-B/8, a guide of other networks' attention",
    ),
    _dino(
        "dino-vit-b16",
        "dino/dino_vitbase16_pretrain",
        "dino_vitbase16_pretrain.pth",
        343_242_485,
        "bf34ad0f424b9029b593e8dc3ed553bf26e88bcba0d32bf3e62a6209cb64c85e",
        "DINO ViT-B/16, a guide of other networks' attention",
    ),
    _dino(
        "dinov2-reg-vit-b14",
        "dinov2/dinov2_vitb14",
        "dinov2_vitb14_reg4_pretrain.pth",
        346_393_545,
        "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71",
        "DINOv2 ViT-B/14 with four register tokens, a guide",
        518,
    ),
)

MANIFEST: dict[str, WeightFile] = {row.name: row for row in _ROWS}


def row_named(name: str) -> WeightFile:
    """The row of this name; UnknownName, with the nearest known one, when there is none."""
    if name not in MANIFEST:
        raise UnknownName.of("weights", name, MANIFEST)
    return MANIFEST[name]


__all__ = [
    "MANIFEST",
    "SOURCES",
    "WeightFile",
    "row_named",
]
