"""What is done to scores between the cells and the labels, each a plain function: a row of `STAGES`.

A stage gets the `Scene` and the scaled cosines of every prompt row, and gives either scores again (on its own grid) or
segments of the picture, in which the labels vote afterwards. It asks no network: what it looks at besides the cells'
vectors is in `DenseFeatures.extras`, and its row says which of these it cannot do without (`needs`) and which it takes
where they are (`uses`). At its identity setting (0 steps, 0 neighbours) a stage changes nothing.

What needs the words on the image side is no row: `sfr` (a second pass, `clip.plugins.resclip`) is called by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.stages import cliper, cliptrase, lposs, rows, tlp
from ovseg.stages.scene import Scene

Asked = str | Mapping[str, Mapping[str, Any]]  # a stage by its name, or {name: options}


@dataclass(frozen=True)
class Stage:
    """One stage: `run(scene, scores, **options)` gives scores, or with `votes` the segment of each pixel (-1: none)."""

    run: Callable[..., np.ndarray]
    votes: bool = False
    needs_proposals: bool = False
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    source: str = ""

    @property
    def options(self) -> Mapping[str, Any]:
        """Options that it knows, with their defaults."""
        given = signature(self.run).parameters.values()
        return {one.name: one.default for one in given if one.kind is one.KEYWORD_ONLY}


def vote(scene: Scene, scores: Float32[np.ndarray, "rows r c"]) -> Int32[np.ndarray, "height width"]:
    """The proposals as segments: cells decide, and each proposal takes its most frequent label (CorrCLIP's last step).

    zdk258/CorrCLIP@103bc18, where overlapping masks are painted smallest first: `overlap="largest"`.
    """
    if scene.parts is None:
        return np.full(scene.picture.shape[:2], -1, np.int32)
    return scene.parts


STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "tlp": Stage(tlp.tlp, source="PEARL (arXiv:2603.21528)"),
        "lposs": Stage(lposs.lposs, uses=("guide",), source="LPOSS (CVPR 2025)"),
        "lposs-plus": Stage(lposs.lposs_plus, source="LPOSS+ (CVPR 2025)"),
        "surgery": Stage(rows.surgery, source="CLIP Surgery (arXiv:2304.05653)"),
        "cliper": Stage(cliper.cliper, needs=("layers", "attention"), source="CLIPer (arXiv:2411.13836)"),
        "cliptrase": Stage(cliptrase.cliptrase, votes=True, uses=("affinity",), source="CLIPtrase (ECCV 2024)"),
        "vote": Stage(vote, votes=True, needs_proposals=True, source="CorrCLIP (arXiv:2411.10086)"),
    }
)


def stage(name: str) -> Stage:
    """The row of a stage, whatever its case and with `_` read as `-`."""
    key = name.lower().replace("_", "-")
    if key not in STAGES:
        raise UnknownName.of("stage", name, STAGES)
    return STAGES[key]


def read(asked: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names and options of what a recipe's `stages` ask for, checked; at most one of them votes.

    >>> read(["Surgery", {"tlp": {"steps": 3}}])
    [('surgery', {}), ('tlp', {'steps': 3})]
    """
    out: list[tuple[str, dict[str, Any]]] = []
    if isinstance(asked, str) or not isinstance(asked, Sequence):
        raise BadUsage(f"stages is a list of names and of {{name: options}}: got {asked!r}")
    for entry in asked:
        pairs = [(entry, {})] if isinstance(entry, str) else list(entry.items()) if isinstance(entry, Mapping) else []
        if len(pairs) != 1 or not isinstance(pairs[0][1], Mapping):
            raise BadUsage(f"a stage is a name, or one {{name: {{option: value}}}}: got {entry!r}")
        name, options = pairs[0]
        row = stage(name)
        for option, value in options.items():
            if option not in row.options:
                raise UnknownName.of(f"option of stage {name}", option, row.options)
            kind = type(row.options[option])
            if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
                raise BadUsage(f"{option} of stage {name} is {kind.__name__}: got {value!r}")
        key = next(key for key, other in STAGES.items() if other is row)
        out.append((key, {option: type(row.options[option])(value) for option, value in options.items()}))
    if sum(STAGES[name].votes for name, _ in out) > 1:
        voting = [name for name, row in STAGES.items() if row.votes]
        raise BadUsage(f"labels vote once: of {', '.join(voting)} name at most one, got {list(asked)!r}")
    return out


def canonical(asked: Any) -> tuple[Asked, ...]:
    """The same list as a recipe keeps it: a name alone where no option is given, {name: options} elsewhere."""
    return tuple({name: options} if options else name for name, options in read(asked))


def apply(
    asked: Sequence[Asked], scene: Scene, scores: Float32[np.ndarray, "rows r c"]
) -> tuple[Float32[np.ndarray, "rows r2 c2"], Int32[np.ndarray, "height width"] | None]:
    """Scores after all stages in their order, and the segments in which labels vote if a stage gave some."""
    segments = None
    for name, options in read(asked):
        row = STAGES[name]
        lacking = [need for need in row.needs if need not in scene.features.extras]
        if lacking:
            raise BadInput(f"stage {name} needs {' and '.join(lacking)} of the image side: the features have none")
        made = row.run(scene, scores, **options)
        if row.votes:
            segments = made
        else:
            scores = made
    return scores, segments


__all__ = ["Asked", "STAGES", "Scene", "Stage", "apply", "canonical", "read", "stage", "vote"]
