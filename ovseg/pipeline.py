"""The line: a picture is encoded once, then any number of names are asked of it.

picture -> read -> dense -> propose -> encode regions = `Encoding`        (image side: networks)
names -> vocabulary -> score -> compose = `Segmentation`                  (asking: no image-side network)

The first line is walked in `imageside`, names become a vocabulary in `wordside`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Float32, Integer

from ovseg import anomaly, calibration, click, comparing, discovery, encoders, exemplars, images, runtime, weights
from ovseg.calibration import Calibration
from ovseg.click import Click
from ovseg.clip.guides import Guide
from ovseg.clip.load import Clip
from ovseg.discovery import Lexicon
from ovseg.errors import BadUsage
from ovseg.imageside import Encoding, ImageSide, Progress
from ovseg.opening import best_here, fetch, mask_model, networks
from ovseg.prompts import read_words
from ovseg.recipe import Recipe, preset
from ovseg.teaching import Teaching
from ovseg.types import AnomalyMap, DenseFeatures, Regions, Segmentation, Vocabulary
from ovseg.wordside import WordSide

if TYPE_CHECKING:
    from ovseg.sam.cache import Embeddings


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
        self.side = ImageSide(recipe, clip, self.masks, guide, cache, self.embeddings)
        self.words = WordSide(recipe, clip, cache)

    @classmethod
    def open(
        cls,
        recipe: str | Path | Recipe | None = None,
        *,
        device: str = "auto",
        folder: str | Path | None = None,
        allow_download: bool = False,
        allow_pickle: bool = False,
        cache: str | Path | None = "default",
        embeddings: int | None = None,
        **changes: Any,
    ) -> "Pipeline":
        """The networks of a preset, a recipe or a recipe's .json file, loaded. Without one: the best preset whose
        weights are here, logged.

        `changes` replace choices of the recipe (`method="sclip"`). `folder` is sought first for weights. Texts and
        compiled graphs are kept in `cache` (None: not at all), what a SAM makes of pictures in memory, at most
        `embeddings` bytes (512 MB unless given, 4 MB a picture): the same picture again costs it nothing. Nothing is
        fetched unless `allow_download`. Raises `MissingWeights` with the commands that bring them; another model never
        stands in.
        """
        chosen = best_here(folder) if recipe is None else recipe
        if not isinstance(chosen, Recipe):
            chosen = Recipe.from_file(chosen) if os.fspath(chosen).endswith(".json") else preset(os.fspath(chosen))
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
        out = self.side.encode(read, sources, progress or _silent)
        return out if many else out[0]

    def vocabulary(
        self, names: Any, *, templates: str | None = None, negatives: str | None = None, absent: str | None = None
    ) -> Vocabulary:
        """Names as prompt rows of this network, with the crowd that presence is judged by if the recipe, or `absent`,
        says so; kept, so that asking again costs nothing."""
        return self.words.vocabulary(names, templates=templates, negatives=negatives, absent=absent)

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
            self.side.embedding(encoding.image) if encoding.embedding is None else encoding.embedding,
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

    def lexicon(self, words: Any = None) -> Lexicon:
        """A list of words, or a .txt file with one a line, with their vectors, for `discover`; the last one is kept.

        Without words: those that the model was taught, if it says so, else the bundled nouns.
        """
        return self.words.lexicon(words)

    def discover(
        self,
        image: Any,
        words: Any = None,
        *,
        most: int | None = None,
        whole: float | int = discovery.WHOLE,
        alpha: float | int = discovery.ALPHA,
        channel_order: str = "rgb",
    ) -> Segmentation:
        """What is in a picture, found among many words (a `Lexicon`, or what `lexicon` takes) without being asked for.

        Regions are the recipe's; where its proposer makes none or needs names they are of `sam-coarse` if there is a
        SAM, else of `felzenszwalb`, as the result's recipe and a note say. `whole` is the picture's share in a region's
        vector. A word must beat every negative and pass presence (`alpha` as in the recipe); alike words are one name,
        at most `most` are told. Nothing found is an empty answer.
        """
        encoding = self._encoded(image, channel_order, None)
        lexicon = words if isinstance(words, Lexicon) else self.lexicon(words)
        return discovery.discover(self.side, encoding, lexicon, self.vocabulary, most=most, whole=whole, alpha=alpha)

    def calibrate(
        self,
        pictures: Sequence[Any],
        names: Any,
        labels: Sequence[Integer[np.ndarray, "_ _"]] | None = None,
        **options: Any,
    ) -> Calibration:
        """This recipe with its numbers fitted to pictures like these: `calibration.calibrate`."""
        return calibration.calibrate(self, pictures, names, labels, **options)

    def look(self, image: Any, where: Any, *, channel_order: str = "rgb") -> Float32[np.ndarray, "n dim"]:
        """A unit vector of what is shown in a picture: a mask, a box (XYXY, pixels) or `Regions`, by this encoder."""
        return self._shown(image, where, channel_order)[2]

    def teach(self, names: Any, **options: Any) -> Teaching:
        """A session in which clicks teach names (`teaching.Teaching`), or the one that was saved to a .safetensors.

        `options` are those of a new session: `spread`, and `templates` and `negatives` as in `segment`.
        """
        through = f"{self.recipe.method}, {self.recipe.encoder}"
        if self.recipe.encoder_options:
            through += f" {json.dumps(dict(self.recipe.encoder_options), sort_keys=True)}"
        same: dict[str, Any] = {"network": self.clip.fingerprint, "through": through, "look": self.look}
        same["words"] = partial(self.vocabulary, negatives="none")
        row = encoders.encoder(self.recipe.encoder)
        same["exact"] = row.combine is None and row is not encoders.ENCODERS["vote"]
        if isinstance(names, str | os.PathLike) and os.fspath(names).endswith(".safetensors"):
            return Teaching.load(os.fspath(names), scale=float(self.recipe.scale), **same, **options)
        words = {what: options.pop(what) for what in ("templates", "negatives") if what in options}
        pooled = any(row is encoders.ENCODERS[name] for name in ("pool", "roi", "vote"))
        vocabulary = self.vocabulary(names, **words)
        return Teaching(vocabulary, scale=float(self.recipe.scale), pooled=pooled, **same, **options)

    def exemplars(
        self,
        given: Mapping[str, Sequence[tuple[Any, Any]]],
        *,
        text: Any = None,
        t: float | int = 1.0,
        channel_order: str = "rgb",
    ) -> Vocabulary:
        """Names that are shown, {name: [(picture or Encoding, mask or box or Regions), ...]}, beside names in `text`.

        `t` mixes what is shown (1) with the words of its name (0): those in `text`, or the name itself. The answer is
        asked as any vocabulary, of any picture.
        """
        words = None if text is None else read_words(text)
        more = [name for name in given if words is None or name not in words.names]
        own = tuple((name,) for name in more)
        asked = (
            read_words(more)
            if words is None
            else replace(words, names=(*words.names, *more), phrases=(*words.phrases, *own))
        )
        found = {}
        for name, several in given.items():
            pairs = [several] if isinstance(several, tuple) else several  # one pair may come without a list
            looked = [self._shown(image, where, channel_order) for image, where in pairs]
            found[name] = [one for shown in looked for one in exemplars.examples(*shown)]
        return exemplars.vocabulary(self.vocabulary(asked), found, t)

    def compare(
        self,
        image: Any,
        names: Any,
        others: Sequence[str | Mapping[str, Any] | Recipe],
        *,
        channel_order: str = "rgb",
        progress: Progress | None = None,
    ) -> Any:
        """Where this recipe's answer and that of `others` part, and what reviewing it may take: a `Disagreement`.

        (A list in, a list out.) Another recipe is a method's name, choices that are changed ({"negatives": "scene"},
        {"proposer": "none"}), or a `Recipe` of the same networks and sizes. All of them share one dense pass; of an
        `Encoding` only methods that it was not made by look at the picture again.
        """
        if isinstance(image, list | tuple):
            return [self.compare(one, names, others, channel_order=channel_order, progress=progress) for one in image]
        recipes, source = comparing.beside(self.recipe, others), image if isinstance(image, str | os.PathLike) else ""
        changed = [{key: getattr(one, key) for key in ("templates", "negatives", "absent")} for one in recipes]
        words = [self.vocabulary(names, **_without(own, changed[0])) for own in changed]
        ready = self._encoded(image, channel_order, progress) if isinstance(image, Encoding) else None
        picture = images.read(image, channel_order=channel_order) if ready is None else ready.image
        return comparing.compare(self.side, recipes, words, picture, os.fspath(source), progress or _silent, ready)

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
        asked = {what: changes.get(what) for what in ("templates", "negatives", "absent")}
        vocabulary = self.vocabulary(names, **asked)
        encoding = self._encoded(image, channel_order, progress)
        return comparing.ask(self.side, encoding, vocabulary, recipe)

    def _asking(self, changes: dict[str, Any]) -> Recipe:
        """The recipe with choices of asking changed; those of the image side cannot be."""
        recipe = self.recipe.replace(**changes) if changes else self.recipe
        if recipe.image_side != self.recipe.image_side:
            raise BadUsage(
                "method, protocol, sizes, proposer and encoder belong to the image side: open another pipeline "
                f"(Pipeline.open({self.recipe.name!r}, ...)) to change them"
            )
        return recipe

    def _shown(
        self, image: Any, where: Any, channel_order: str
    ) -> tuple[DenseFeatures, Regions, Float32[np.ndarray, "n dim"]]:
        """A picture's features, the regions that are shown in it, and their vectors."""
        encoding = self._encoded(image, channel_order, None)
        regions = exemplars.shown(where, *encoding.image.shape[:2])
        described = self.side.describe(encoding.image, encoding.features, regions, encoding.taps)
        return encoding.features, regions, described.vectors

    def _encoded(self, image: Any, channel_order: str, progress: Progress | None) -> Encoding:
        if isinstance(image, Encoding):
            if image.image_side != self.recipe.image_side:
                raise BadUsage("this encoding was made by a pipeline of other choices: encode the picture again")
            return image
        encoding: Encoding = self.encode(image, channel_order=channel_order, progress=progress)
        return encoding

    def __repr__(self) -> str:
        who = runtime.describe(self.recipe.runtime, self.recipe.precision, self.clip.device)
        return f"Pipeline({self.recipe.name}: {self.clip.name} on {self.clip.device}, {self.recipe.method}, {who})"


def _kept_embeddings(budget: int | None) -> "Embeddings":
    from ovseg.sam.cache import BUDGET, Embeddings

    return Embeddings(BUDGET if budget is None else budget)


def _without(choices: dict[str, str], usual: dict[str, str]) -> dict[str, str]:
    """The choices that are not the usual ones."""
    return {key: value for key, value in choices.items() if value != usual[key]}


def _silent(stage: str, done: int, of: int) -> None:
    """Progress that nobody asked for."""


__all__ = ["Encoding", "Pipeline"]
