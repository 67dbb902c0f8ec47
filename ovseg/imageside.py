"""The image side of the line: read -> dense -> propose -> describe = `Encoding`, every image-side network in it.

Asking is `pipeline`'s. One proposer needs the names ("from-map"): its regions are made when they are asked, by the
SAM's decoder alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

from ovseg import encoders, extras, labels, proposals
from ovseg.clip import dense, pictures
from ovseg.clip.guides import Guide, load_guide
from ovseg.clip.load import Clip
from ovseg.clip.methods import PICTURES, canonical, needs
from ovseg.clip.taps import Taps
from ovseg.encoders import Described, View
from ovseg.errors import BadInput
from ovseg.evidence import Evidence
from ovseg.recipe import Recipe
from ovseg.types import DenseFeatures, Regions

if TYPE_CHECKING:
    from ovseg.sam.cache import Embeddings

FIRST_LOOK = "maskclip-reduced"  # what proposers see where regions come before the method

Progress = Callable[[str, int, int], None]  # stage, done, of
Picture = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, eq=False)
class Encoding:
    """One picture after every image-side network: what any question about it needs. Made by `Pipeline.encode`."""

    image: UInt8[np.ndarray, "height width 3"]
    features: DenseFeatures
    regions: Regions
    described: Described
    image_side: str
    embedding: Any = None  # what the SAM made of the picture, for proposers and clicks
    taps: Taps | None = None  # what the dense pass kept of the blocks that the encoder reads

    @property
    def region_vectors(self) -> Float32[np.ndarray, "n dim"]:
        """A unit vector for each region."""
        return self.described.vectors

    def __repr__(self) -> str:
        (height, width), (rows, cols) = self.image.shape[:2], self.features.grid
        return f"Encoding({height}x{width} px, {rows}x{cols} cells, {len(self.regions)} regions)"


@dataclass(frozen=True, eq=False)
class ImageSide:
    """The networks that look at pictures, and the recipe that they look by. Holds no picture."""

    recipe: Recipe
    clip: Clip
    masks: Any = None  # the SAM's face
    guide: Guide | None = None
    cache: Path | None = None
    embeddings: "Embeddings | None" = None

    def encode(self, read: Sequence[Picture], sources: Sequence[str], told: Progress) -> list[Encoding]:
        """Everything that the networks say about pictures; `sources` are their paths, "" where one came by none."""
        for picture in read:
            check_size(picture)
        blocks = encoders.blocks(self.recipe.encoder, self.clip, self.recipe.encoder_options)
        if canonical(self.recipe.method) in PICTURES:
            return [self._by_whole_picture(*one, told) for one in zip(read, sources, strict=True)]
        encoded = dense.encode_tapped(
            self.clip,
            read,
            self.recipe.reading,
            blocks,
            guide=self.guide,
            cache=self.cache / "graphs" if self.cache else None,
            progress=lambda done, of: told("encode", done, of),
        )
        return [
            self._with_regions(picture, source, features, self._embedded(picture), told, taps=taps if blocks else None)
            for picture, source, (features, taps) in zip(read, sources, encoded, strict=True)
        ]

    def finish(
        self,
        picture: Picture,
        source: str,
        features: DenseFeatures,
        told: Progress,
        regions: Regions | None = None,
        embedding: Any = None,
    ) -> Encoding:
        """The encoding of a picture that was read elsewhere; regions and the SAM's embedding are made unless given."""
        embedding = self._embedded(picture) if embedding is None else embedding
        return self._with_regions(picture, source, features, embedding, told, regions)

    def propose(
        self, picture: Picture, source: str, features: DenseFeatures, embedding: Any, coarse: Evidence | None = None
    ) -> Regions:
        """Regions by the recipe's proposer; none as long as it waits for names, whose `coarse` map it needs.

        `source` is the picture's path, if it came by one.
        """
        row = self.recipe
        if coarse is None and proposals.proposer(row.proposer).needs_names:
            return Regions.empty(features.height, features.width)
        seen = {"model": self.masks, "embedding": embedding, "coarse": coarse, "source": source}
        return proposals.propose(row.proposer, picture, features, **seen, **row.proposer_options)

    def describe(
        self, picture: Picture, features: DenseFeatures, regions: Regions, taps: Taps | None = None
    ) -> Described:
        """What the recipe's encoder says about regions of a picture."""
        view = View(self.clip, picture, features, taps)
        return encoders.describe(self.recipe.encoder, view, regions, **self.recipe.encoder_options)

    def propose_and_describe(self, encoding: Encoding, coarse: Evidence) -> tuple[Regions, Described]:
        """Regions of what the cells say to a question, for the proposer that needs names."""
        regions = self.propose(encoding.image, "", encoding.features, encoding.embedding, coarse)
        return regions, self.describe(encoding.image, encoding.features, regions, encoding.taps)

    def embedding(self, picture: Picture) -> Any:
        """What the SAM makes of a picture, or made of it lately."""
        assert self.embeddings is not None, "a pipeline with a SAM keeps embeddings"
        return self.embeddings.get(self.masks, picture)

    def _by_whole_picture(self, picture: Picture, source: str, told: Progress) -> Encoding:
        """A method that may need regions before it can read: proposers then look at features of a plain method."""
        recipe = self.recipe
        required, reading = needs(recipe.method), recipe.reading
        regions, parts, embedding = None, None, self._embedded(picture)
        if "parts" in required:
            (first,) = dense.encode(self.clip, [picture], replace(reading, method=FIRST_LOOK, options={}))
            regions = self.propose(picture, source, first, embedding)
            parts = labels.own(regions, np.ones(len(regions), np.float32), "largest")
        sam = load_guide("sam", sam=getattr(self.masks, "sam", None)) if "sam" in required else None
        told("encode", 0, 1)
        features = pictures.encode(self.clip, picture, reading, guide=self.guide, sam=sam, parts=parts)
        told("encode", 1, 1)
        return self._with_regions(picture, source, features, embedding, told, regions)

    def _embedded(self, picture: Picture) -> Any:
        """What the SAM makes of a picture; nothing where there is none, or where only a method looks through it."""
        recipe = self.recipe
        borrowed = recipe.guide == "sam" or "sam" in needs(recipe.method)
        if self.masks is None or (borrowed and not proposals.proposer(recipe.proposer).needs_sam):
            return None
        return self.embedding(picture)

    def _with_regions(
        self,
        picture: Picture,
        source: str,
        features: DenseFeatures,
        embedding: Any,
        told: Progress,
        regions: Regions | None = None,
        taps: Taps | None = None,
    ) -> Encoding:
        told("propose", 0, 1)
        regions = self.propose(picture, source, features, embedding) if regions is None else regions
        described = self.describe(picture, features, regions, taps)
        told("propose", 1, 1)
        features = self._with_extras(picture, features)
        return Encoding(picture, features, regions, described, self.recipe.image_side, embedding, taps)

    def _with_extras(self, picture: Picture, features: DenseFeatures) -> DenseFeatures:
        """What the stages may look at besides: the method's own extras, and a guide that the method does not take."""
        features = extras.bring(self.recipe.method, self.clip, picture, features)
        if self.guide is None or self.recipe.guided:
            return features
        seen = dense.guide_map(self.guide, picture, self.recipe.reading)
        return replace(features, extras={**features.extras, "guide": seen})


def check_size(picture: Picture) -> None:
    """An error for a picture in which nothing can be seen."""
    height, width = picture.shape[:2]
    if min(height, width) < dense.SHORTEST_SIDE:
        raise BadInput(
            f"a picture must be at least {dense.SHORTEST_SIDE} px on each side: got {height}x{width}; "
            "enlarge it first if it is meant"
        )


__all__ = ["Encoding", "FIRST_LOOK", "ImageSide", "Progress", "check_size"]
