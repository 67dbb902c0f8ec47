"""The line: a picture is encoded once, then any number of names are asked of it.

picture -> read -> dense -> propose -> encode regions = `Encoding`        (image side: networks)
names -> vocabulary -> score -> compose = `Segmentation`                  (asking: no image-side network)

One proposer needs the names ("from-map"): its regions are made when they are asked, by the SAM's decoder alone.
"""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Float32, UInt8

from ovseg import anomaly, click, encoders, extras, images, labels, proposals, runtime, weights
from ovseg.click import Click
from ovseg.clip import dense, pictures, text
from ovseg.clip.guides import Guide, load_guide
from ovseg.clip.load import Clip
from ovseg.clip.methods import PICTURES, canonical, needs
from ovseg.errors import BadInput, BadUsage
from ovseg.evidence import Evidence
from ovseg.opening import best_here, fetch, mask_model, networks
from ovseg.prompts import read_words
from ovseg.recipe import Recipe, preset
from ovseg.types import AnomalyMap, DenseFeatures, Regions, Segmentation, Vocabulary

if TYPE_CHECKING:
    from ovseg.sam.cache import Embeddings

VOCABULARIES_KEPT = 64
FIRST_LOOK = "maskclip-reduced"  # what proposers see where regions come before the method

Progress = Callable[[str, int, int], None]  # stage, done, of


@dataclass(frozen=True, eq=False)
class Encoding:
    """One picture after every image-side network: what any question about it needs. Made by `Pipeline.encode`."""

    image: UInt8[np.ndarray, "height width 3"]
    features: DenseFeatures
    regions: Regions
    region_vectors: Float32[np.ndarray, "n dim"]
    image_side: str
    embedding: Any = None  # what the SAM made of the picture, for proposers and clicks

    def __repr__(self) -> str:
        (height, width), (rows, cols) = self.image.shape[:2], self.features.grid
        return f"Encoding({height}x{width} px, {rows}x{cols} cells, {len(self.regions)} regions)"


class Pipeline:
    """Open networks with a recipe. Safe to use from several threads; holds no picture.

    >>> pipe = Pipeline.open("tiny", cache=None)
    >>> encoding = pipe.encode(weights.bundled("demo/examples") / "meadow.jpg")
    >>> encoding
    Encoding(448x640 px, 20x29 cells, 0 regions)
    >>> shares = pipe.segment(encoding, ["cow", {"dog": ["dog", "puppy"]}]).shares
    >>> shares["cow"] > 0.02 and shares["dog"] > 0.02
    True
    """

    def __init__(
        self,
        recipe: Recipe,
        clip: Clip,
        sam: object | None = None,
        cache: Path | None = None,
        guide: Guide | None = None,
        embeddings: int | None = None,
    ) -> None:
        self.recipe, self.clip, self.cache, self.guide = recipe, clip, cache, guide
        self.masks = mask_model(sam, recipe, cache)
        self.embeddings = _kept_embeddings(embeddings) if self.masks is not None else None
        self._vocabularies: dict[Any, Vocabulary] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        recipe: str | Recipe | None = None,
        *,
        device: str = "auto",
        folder: str | Path | None = None,
        allow_download: bool = False,
        allow_pickle: bool = False,
        cache: str | Path | None = "default",
        embeddings: int | None = None,
        **changes: Any,
    ) -> "Pipeline":
        """The networks of a preset or a recipe, loaded. Without one: the best preset whose weights are here, logged.

        `changes` replace choices of the recipe (`method="sclip"`). `folder` is sought first for weights. Texts and
        compiled graphs are kept in `cache` (None: not at all), what a SAM makes of pictures in memory, at most
        `embeddings` bytes (512 MB unless given, 4 MB a picture): the same picture again costs it nothing. Nothing is
        fetched unless `allow_download`. Raises `MissingWeights` with the commands that bring them; another model never
        stands in.
        """
        chosen = best_here(folder) if recipe is None else recipe
        chosen = preset(chosen) if isinstance(chosen, str) else chosen
        chosen = chosen.replace(**changes) if changes else chosen
        kept = weights.cache_folder() / "text" if cache == "default" else cache
        place = Path(kept) if kept is not None else None
        if allow_download:
            fetch(chosen, folder)
        found = networks(chosen, device=device, folder=folder, allow_pickle=allow_pickle, cache=place)
        return cls(chosen, found.clip, found.masks, place, found.guide, embeddings)

    @property
    def sam(self) -> Any:
        """The SAM-type network itself, None where the recipe names none; `masks` is its face."""
        return self.masks.sam if self.masks is not None else None

    @overload
    def encode(
        self, image: list[Any] | tuple[Any, ...], *, channel_order: str = ..., progress: Progress | None = ...
    ) -> list[Encoding]: ...
    @overload
    def encode(self, image: Any, *, channel_order: str = ..., progress: Progress | None = ...) -> Encoding: ...
    def encode(
        self, image: Any, *, channel_order: str = "rgb", progress: Progress | None = None
    ) -> Encoding | list[Encoding]:
        """Everything that image-side networks say about a picture (a list in, a list out)."""
        many = isinstance(image, list | tuple)
        given = image if many else [image]
        read = [images.read(one, channel_order=channel_order) for one in given]
        sources = [os.fspath(one) if isinstance(one, str | os.PathLike) else "" for one in given]
        for picture in read:
            if min(picture.shape[:2]) < dense.SHORTEST_SIDE:
                height, width = picture.shape[:2]
                raise BadInput(
                    f"a picture must be at least {dense.SHORTEST_SIDE} px on each side: got {height}x{width}; "
                    "enlarge it first if it is meant"
                )
        told = progress or _silent
        if canonical(self.recipe.method) in PICTURES:
            out = [self._by_whole_picture(*one, told) for one in zip(read, sources, strict=True)]
            return out if many else out[0]
        features = dense.encode(
            self.clip,
            read,
            self.recipe.reading,
            guide=self.guide,
            cache=self.cache / "graphs" if self.cache else None,
            progress=lambda done, of: told("encode", done, of),
        )
        out = [
            self._with_regions(picture, source, one, self._embedded(picture), told)
            for picture, source, one in zip(read, sources, features, strict=True)
        ]
        return out if many else out[0]

    def vocabulary(self, names: Any, *, templates: str | None = None, negatives: str | None = None) -> Vocabulary:
        """Names as prompt rows of this network; kept, so that asking again costs nothing."""
        if isinstance(names, Vocabulary):
            for what, asked in (("templates", templates), ("negatives", negatives)):
                if asked is not None:
                    raise BadUsage(
                        f"{what} are part of a vocabulary that is ready: got {asked!r} beside one; give the names, or "
                        f"make it with vocabulary(names, {what}={asked!r})"
                    )
            dim = self.clip.dim
            if names.vectors.shape[1] != dim:
                raise BadUsage(
                    f"the vocabulary must be of this network: its rows have {names.vectors.shape[1]} numbers, those of "
                    f"{self.clip.name} have {dim}; make it with this pipeline's vocabulary()"
                )
            return names
        words = read_words(names)
        key = (words.names, words.phrases, words.negatives, tuple(sorted(words.thresholds.items())))
        choice = (templates or self.recipe.templates, negatives or self.recipe.negatives)
        with self._lock:
            if (key, choice) not in self._vocabularies:
                made = text.vocabulary(self.clip, words, templates=choice[0], negatives=choice[1], cache=self.cache)
                while len(self._vocabularies) >= VOCABULARIES_KEPT:
                    self._vocabularies.pop(next(iter(self._vocabularies)))
                self._vocabularies[key, choice] = made
            return self._vocabularies[key, choice]

    @overload
    def segment(
        self,
        image: list[Any] | tuple[Any, ...],
        names: Any,
        *,
        channel_order: str = ...,
        progress: Progress | None = ...,
        **changes: Any,
    ) -> list[Segmentation]: ...
    @overload
    def segment(
        self, image: Any, names: Any, *, channel_order: str = ..., progress: Progress | None = ..., **changes: Any
    ) -> Segmentation: ...
    def segment(
        self, image: Any, names: Any, *, channel_order: str = "rgb", progress: Progress | None = None, **changes: Any
    ) -> Segmentation | list[Segmentation]:
        """Which pixels are which name, at the picture's own size (a list in, a list out).

        `image` is anything that `images.read` takes, or an `Encoding`. `names` is a text, a list of texts and
        {name: phrases}, a `Vocabulary`, or a YAML, JSON or text file. `changes` replace choices of the recipe that the
        image side does not depend on, for instance `threshold=0.4`, `negatives="none"` or `refine="pamr"`.
        """
        if isinstance(image, list | tuple):
            return [self._ask(one, names, channel_order, progress, changes) for one in image]
        return self._ask(image, names, channel_order, progress, changes)

    def click(
        self,
        image: Any,
        *,
        points: Any = None,
        labels: Any = None,
        boxes: Any = None,
        masks: Any = None,
        names: Any = None,
        every: bool = False,
        previous: Click | None = None,
        channel_order: str = "rgb",
        progress: Progress | None = None,
    ) -> Click:
        """The mask of what somebody points at, and what it may be called; for an `Encoding` no image network runs.

        `points` [(x, y), ...] in pixels with `labels` 1 (inside, the default) and 0 (outside), and a box (XYXY), are
        one prompt; a list of lists, and several boxes, are several prompts, of which bad ones end up under `problems`.
        `masks` are mask prompts: logits of a former answer, regions, boolean masks. `previous` goes on from a former
        answer: its prompts stand, points are added. `every` gives all three masks of a prompt. `names` as in `segment`.
        """
        if self.masks is None:
            raise BadUsage(
                f"a click needs a SAM-type network: recipe {self.recipe.name} has none; open it with one, for instance "
                f"Pipeline.open({self.recipe.name!r}, sam='tiny-sam')"
            )
        encoding = self._encoded(image, channel_order, progress)
        found = click.ask(
            self.masks,
            self._embedding(encoding.image) if encoding.embedding is None else encoding.embedding,
            encoding.image,
            encoding.features,
            self.recipe,
            points=points,
            labels=labels,
            boxes=boxes,
            masks=masks,
            every=every,
            previous=previous,
        )
        return found if names is None else self.name(found, names)

    def name(self, found: Click, names: Any, **changes: Any) -> Click:
        """The same masks with other names; neither masks nor vectors are made again. `changes` as in `segment`."""
        recipe = self._asking(changes)
        vocabulary = self.vocabulary(names, templates=changes.get("templates"), negatives=changes.get("negatives"))
        return click.named(found, vocabulary, recipe)

    @overload
    def anomaly(
        self,
        image: list[Any] | tuple[Any, ...],
        object: str,
        *,
        normal: Sequence[Any] = ...,
        channel_order: str = ...,
        progress: Progress | None = ...,
        **options: Any,
    ) -> list[AnomalyMap]: ...
    @overload
    def anomaly(
        self,
        image: Any,
        object: str,
        *,
        normal: Sequence[Any] = ...,
        channel_order: str = ...,
        progress: Progress | None = ...,
        **options: Any,
    ) -> AnomalyMap: ...
    def anomaly(
        self,
        image: Any,
        object: str,
        *,
        normal: Sequence[Any] = (),
        channel_order: str = "rgb",
        progress: Progress | None = None,
        **options: Any,
    ) -> AnomalyMap | list[AnomalyMap]:
        """How strange each pixel is for a picture of `object` (a list in, a list out).

        Without `normal` pictures words alone decide (`object` with states such as "damaged"); with some, each cell is
        also held against the nearest cell of them. `options` go to `anomaly.score`.
        """
        references = [self._encoded(one, channel_order, progress).features for one in normal]
        several = isinstance(image, list | tuple)
        maps = []
        for one in image if several else [image]:
            features = self._encoded(one, channel_order, progress).features
            made = anomaly.score(
                self.clip, features, object, normal=references, recipe=self.recipe, cache=self.cache, **options
            )
            maps.append(made)
        return maps if several else maps[0]

    def _ask(
        self, image: Any, names: Any, channel_order: str, progress: Progress | None, changes: dict[str, Any]
    ) -> Segmentation:
        recipe = self._asking(changes)
        vocabulary = self.vocabulary(names, templates=changes.get("templates"), negatives=changes.get("negatives"))
        encoding = self._encoded(image, channel_order, progress)

        def propose(coarse: Evidence) -> tuple[Regions, Float32[np.ndarray, "n dim"]]:
            regions = self._propose(encoding.image, "", encoding.features, encoding.embedding, coarse)
            return regions, self._vectors(encoding.image, encoding.features, regions)

        return labels.compose(
            encoding.features,
            vocabulary,
            regions=encoding.regions,
            region_vectors=encoding.region_vectors,
            recipe=recipe,
            picture=encoding.image,
            propose=propose if proposals.proposer(recipe.proposer).needs_names else None,
        )

    def _asking(self, changes: dict[str, Any]) -> Recipe:
        """The recipe with choices of asking changed; those of the image side cannot be."""
        recipe = self.recipe.replace(**changes) if changes else self.recipe
        if recipe.image_side != self.recipe.image_side:
            raise BadUsage(
                "method, protocol, sizes, proposer and encoder belong to the image side: open another pipeline "
                f"(Pipeline.open({self.recipe.name!r}, ...)) to change them"
            )
        return recipe

    def _encoded(self, image: Any, channel_order: str, progress: Progress | None) -> Encoding:
        if isinstance(image, Encoding):
            if image.image_side != self.recipe.image_side:
                raise BadUsage("this encoding was made by a pipeline of other choices: encode the picture again")
            return image
        encoding: Encoding = self.encode(image, channel_order=channel_order, progress=progress)
        return encoding

    def _by_whole_picture(self, picture: UInt8[np.ndarray, "height width 3"], source: str, told: Progress) -> Encoding:
        """A method that may need regions before it can read: proposers then look at features of a plain method."""
        recipe = self.recipe
        required, reading = needs(recipe.method), recipe.reading
        regions, parts, embedding = None, None, self._embedded(picture)
        if "parts" in required:
            (first,) = dense.encode(self.clip, [picture], replace(reading, method=FIRST_LOOK, options={}))
            regions = self._propose(picture, source, first, embedding)
            parts = labels.own(regions, np.ones(len(regions), np.float32), "largest")
        sam = load_guide("sam", sam=self.sam) if "sam" in required else None
        told("encode", 0, 1)
        features = pictures.encode(self.clip, picture, reading, guide=self.guide, sam=sam, parts=parts)
        told("encode", 1, 1)
        return self._with_regions(picture, source, features, embedding, told, regions)

    def _embedded(self, picture: UInt8[np.ndarray, "height width 3"]) -> Any:
        """What the SAM makes of a picture; nothing where there is none, or where only a method looks through it."""
        recipe = self.recipe
        borrowed = recipe.guide == "sam" or "sam" in needs(recipe.method)
        if self.masks is None or (borrowed and not proposals.proposer(recipe.proposer).needs_sam):
            return None
        return self._embedding(picture)

    def _embedding(self, picture: UInt8[np.ndarray, "height width 3"]) -> Any:
        assert self.embeddings is not None, "a pipeline with a SAM keeps embeddings"
        return self.embeddings.get(self.masks, picture)

    def _propose(
        self,
        picture: UInt8[np.ndarray, "height width 3"],
        source: str,
        features: DenseFeatures,
        embedding: Any,
        coarse: Evidence | None = None,
    ) -> Regions:
        """Regions by the recipe's proposer; none as long as it waits for names, whose `coarse` map it needs.

        `source` is the picture's path, if it came by one.
        """
        row = self.recipe
        if coarse is None and proposals.proposer(row.proposer).needs_names:
            return Regions.empty(features.height, features.width)
        seen = {"model": self.masks, "embedding": embedding, "coarse": coarse, "source": source}
        return proposals.propose(row.proposer, picture, features, **seen, **row.proposer_options)

    def _vectors(
        self, picture: UInt8[np.ndarray, "height width 3"], features: DenseFeatures, regions: Regions
    ) -> Float32[np.ndarray, "n dim"]:
        recipe = self.recipe
        return encoders.encode(recipe.encoder, self.clip, picture, features, regions, **recipe.encoder_options)

    def _with_regions(
        self,
        picture: UInt8[np.ndarray, "height width 3"],
        source: str,
        features: DenseFeatures,
        embedding: Any,
        told: Progress,
        regions: Regions | None = None,
    ) -> Encoding:
        told("propose", 0, 1)
        recipe = self.recipe
        regions = self._propose(picture, source, features, embedding) if regions is None else regions
        vectors = self._vectors(picture, features, regions)
        told("propose", 1, 1)
        return Encoding(picture, self._with_extras(picture, features), regions, vectors, recipe.image_side, embedding)

    def _with_extras(self, picture: UInt8[np.ndarray, "height width 3"], features: DenseFeatures) -> DenseFeatures:
        """What the stages may look at besides: the method's own extras, and a guide that the method does not take."""
        features = extras.bring(self.recipe.method, self.clip, picture, features)
        if self.guide is None or self.recipe.guided:
            return features
        seen = dense.guide_map(self.guide, picture, self.recipe.reading)
        return replace(features, extras={**features.extras, "guide": seen})

    def __repr__(self) -> str:
        who = runtime.describe(self.recipe.runtime, self.recipe.precision, self.clip.device)
        return f"Pipeline({self.recipe.name}: {self.clip.name} on {self.clip.device}, {self.recipe.method}, {who})"


def _kept_embeddings(budget: int | None) -> "Embeddings":
    from ovseg.sam.cache import BUDGET, Embeddings

    return Embeddings(BUDGET if budget is None else budget)


def _silent(stage: str, done: int, of: int) -> None:
    """Progress that nobody asked for."""


__all__ = ["Encoding", "FIRST_LOOK", "Pipeline"]
