"""What must hold for every method on every tower, asked of a tower and its walk; no stored data is needed.

Differences are over the spread (standard deviation) of the right answer. Equalities are asked of a copy of the tower in
double precision, where a difference is a mistake and not rounding, and where no decision (an outlier, a cut) is so
close that rounding takes it; the tower itself is asked, in its own precision, for what a user sees: finite numbers, the
same ones twice, and a tower that is left as it was found.

Weights should all differ from their first values (`towers.moved`): a lost bias that is 0 cannot be seen.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from ovseg.clip import families
from ovseg.clip.attention import run
from ovseg.clip.methods import LAST_BLOCKS, canonical, last_block
from ovseg.clip.program import LastBlock
from ovseg.clip.sight import Sight
from ovseg.clip.tower import VANILLA, prefix, visual_of, why_not
from ovseg.clip.walk import Tower, Walk
from ovseg.conformance.bench import UPSTREAM, Bench, Found, apart, embedding, first, knows_places, size_of, turned
from ovseg.conformance.plugins import plugins
from ovseg.conformance.results import Result, number
from ovseg.errors import BadInput, UnsupportedTower

EQUAL = 1e-5  # of the spread: PEARL and the nearness map are float32 inside; everything else is at 1e-12
APART = 1e-4  # of the spread: on the stored data no two methods are nearer than 4e-2; what does nothing is below 1e-6

# what a walk that is wrong ends in: parts that are not there, shapes that do not fit
BREAKS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

Measured = tuple[float, str] | str  # the number and what came, or why there is nothing to measure


@dataclass(frozen=True)
class Check:
    """A claim, how far it is from true, and what to say and where to look where it does not hold.

    `least` turns the limit round: the number must be at least that. `of`: "vanilla" for claims about the walk itself,
    "changed" for all other methods, "" for every one.
    """

    claim: str
    broken: str
    measure: Callable[[Bench, LastBlock], Measured]
    limit: float = 0.0
    least: bool = False
    of: str = ""


def invariants(
    tower: Tower,
    *,
    name: str = "",
    find: Callable[[Tower], Walk] = families.find,
    methods: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Result]:
    """Every check of every method and plug-in, or of the rows named, on this vision tower (or a model's `.visual`).

    `find` makes the walk: give the constructor of a walk that no family knows yet. The tower is read and never
    changed; a copy in double precision is made beside it. A method that the tower cannot do is one "refused" with its
    sentence.
    """
    tower, rows = visual_of(tower), {canonical(key): last_block(key) for key in methods or LAST_BLOCKS}
    name = name or type(tower).__name__
    try:
        walk = find(tower)
    except UnsupportedTower as error:
        return [Result(name, method, "walk", "refused", sentence=str(error)) for method in rows]
    refusals = {method: why_not(walk, row) for method, row in rows.items()}
    asked = {method: row for method, row in rows.items() if not refusals[method]}
    copied = copy.deepcopy(tower).double()
    bench = Bench(tower, walk, copied, find(copied), asked)
    out = []
    with torch.no_grad(), Found(tower, walk) as found:
        for done, (method, row) in enumerate(rows.items()):
            if progress:
                progress(method, done, len(rows))
            if refusals[method]:
                out.append(Result(name, method, "walk", "refused", sentence=refusals[method]))
                continue
            out += [_made(name, method, key, CHECKS[key], bench, row) for key in CHECKS if _asks(CHECKS[key], row)]
            out.append(found.result(name, method))
        if progress:
            progress("", len(rows), len(rows))
        if not methods:
            out += plugins(bench, name)
            out.append(found.result(name, "plug-ins"))
        out.append(found.forward(name))
    return out


def _asks(check: Check, row: LastBlock) -> bool:
    return not check.of or (check.of == "vanilla") == (row == VANILLA)


def _made(name: str, method: str, key: str, check: Check, bench: Bench, row: LastBlock) -> Result:
    try:
        measured = check.measure(bench, row)
    except (*BREAKS, BadInput, UnsupportedTower) as error:
        said = f"it ends in {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Result(name, method, key, "failed", limit=check.limit, sentence=f"{check.claim}: {said}")
    if isinstance(measured, str):
        return Result(name, method, key, "not covered", sentence=measured)
    value, came = measured
    fine = value >= check.limit if check.least else value <= check.limit  # NaN is never fine
    wanted = f"{'at least' if check.least else 'at most'} {number(check.limit)}"
    sentence = check.claim if fine else f"{check.broken} ({came or number(value)}, {wanted} is right)"
    return Result(name, method, key, "ok" if fine else "failed", value, check.limit, sentence)


# ---------------------------------------------------------------- claims about the walk itself


def _forward(bench: Bench, row: LastBlock) -> Measured:
    """The image embedding, on the tower's own square size: no upstream forward takes every other."""
    walk = bench.exact
    pixels = bench.noise(2, 3, *size_of(bench.exact_tower, walk))
    taps = prefix(walk, pixels)
    wanted = embedding(bench.exact_tower, pixels)
    got = walk.whole(taps[walk.depth], walk.native)
    return apart(got, wanted), ""


def _tokens(bench: Bench, row: LastBlock) -> Measured:
    """Every patch, where upstream gives tokens: they say nothing of regions else."""
    walk = bench.exact
    given = next((tokens for part, tokens in UPSTREAM.items() if hasattr(bench.exact_tower, part)), None)
    if given is None:
        return "upstream's own forward gives no tokens for this family"
    pixels = bench.noise(2, 3, *size_of(bench.exact_tower, walk))
    wanted = given(bench.exact_tower, pixels)
    got = bench.cells(walk, row, prefix(walk, pixels), grid=walk.native).flatten(1, 2)
    if wanted.shape[1] < got.shape[1]:
        return f"upstream's own forward gives {wanted.shape[1]} tokens and the picture has {got.shape[1]} patches"
    return apart(got, wanted[:, wanted.shape[1] - got.shape[1] :]), ""


def _parts(bench: Bench, row: LastBlock) -> Measured:
    """`norm`, `sides`, `out` and `mlp` put together, against upstream's own block, every token of it."""
    walk = bench.exact
    if "attention" in walk.refuses:
        return f"there are no parts to put together: {walk.refuses['attention']}"
    kept = replace(VANILLA, residual="residual" not in walk.refuses, mlp="mlp" not in walk.refuses)
    together, _ = run(Sight(walk, bench.both, bench.grid), kept)
    return apart(together, walk.block(walk.depth, bench.both[walk.depth], bench.grid)), ""


def _place(bench: Bench, row: LastBlock) -> Measured:
    """Painting one patch moves the token of that row and column most; convolutions may put it a cell or two aside."""
    walk, (rows, cols) = bench.walk, bench.grid  # no equality is asked: the tower's own precision will do
    pixels = bench.pixels.to(first(bench.tower))
    before, worst, came = walk.enter(pixels, "bicubic"), 0, ""
    for down, col in ((0, cols - 1), (rows - 1, 1), (rows // 2, cols - 2)):
        painted = pixels.clone()
        top, left = down * walk.patch[0], col * walk.patch[1]
        painted[:, :, top : top + walk.patch[0], left : left + walk.patch[1]] += 3
        moved = (walk.enter(painted, "bicubic") - before)[:, walk.own :].square().sum(dim=(0, 2))
        at = divmod(int(moved.argmax()), cols)
        aside = max(abs(at[0] - down), abs(at[1] - col))
        if aside > worst:
            worst, came = aside, f"row {down}, column {col} is seen at row {at[0]}, column {at[1]}"
    return float(worst), came


# ---------------------------------------------------------------- claims about every method


def _shape(bench: Bench, row: LastBlock) -> Measured:
    got = list(bench.cells(bench.walk, row, bench.twice[0]).shape)
    grid = bench.guide.shape[2:] if "guide" in row.needs else bench.grid
    wanted = [2, *grid, bench.walk.dim]
    wrong = sum(a != b for a, b in zip(got, wanted, strict=True)) if len(got) == len(wanted) else 4
    return float(wrong), f"{got} came where {wanted} was asked" if wrong else ""


def _batch(bench: Bench, row: LastBlock) -> Measured:
    each = [bench.cells(bench.exact, row, bench.alone[i], guide=bench.guide[i : i + 1]) for i in range(2)]
    return apart(torch.cat(each), bench.answer(row)), ""


def _transposed(bench: Bench, row: LastBlock) -> Measured:
    """At the blocks that a row looks at: taps and guide are transposed (a whole tower is not symmetric)."""
    walk, (rows, cols) = bench.exact, bench.grid
    if "attention" in walk.refuses:
        return "there is no block that a transposed grid could be given to"
    if knows_places(bench):
        return "its blocks know where a token lies (rotation), so a transposed grid is another picture to them"
    taps = {number: turned(tokens, bench.grid, walk.own) for number, tokens in bench.both.items()}
    got = bench.cells(walk, row, taps, guide=bench.guide.mT.contiguous(), grid=(cols, rows))
    return apart(got.transpose(1, 2), bench.answer(row)), ""


def _flat(bench: Bench, row: LastBlock) -> Measured:
    out = bench.cells(bench.walk, row, bench.flat, guide=torch.ones_like(bench.guide))
    lost = int((~out.isfinite()).sum())
    return float(lost), f"{lost} of {out.numel()} numbers are not" if lost else ""


def _again(bench: Bench, row: LastBlock) -> Measured:
    once, again = (bench.cells(bench.walk, row, taps) for taps in bench.twice)
    return float((once - again).abs().max()), ""


def _distinct(bench: Bench, row: LastBlock) -> Measured:
    if "guide" not in row.needs:
        return apart(bench.answer(row), bench.answer(VANILLA)), ""
    guide = bench.noise(2, 9, *bench.grid)  # on the patches' own grid, so that there is something to compare with
    return apart(bench.cells(bench.exact, row, bench.both, guide=guide), bench.answer(VANILLA)), ""


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "forward": Check(
            "the walk's image embedding is the tower's own",
            "the walk's image embedding is not the tower's own: look at `enter`, `block` and `whole`",
            _forward,
            EQUAL,
            of="vanilla",
        ),
        "tokens": Check(
            "vanilla is upstream's own tokens through upstream's own exit",
            "vanilla is not upstream's own tokens through its exit: look at the order of patches and at `project`",
            _tokens,
            EQUAL,
            of="vanilla",
        ),
        "parts": Check(
            "norm, sides, out and mlp make upstream's own block",
            "norm, sides, out and mlp do not make upstream's own block: a bias, a scale or a norm is lost",
            _parts,
            EQUAL,
            of="vanilla",
        ),
        "place": Check(
            "a patch at (row, column) is the token at (row, column)",
            "a patch is not seen where it lies: rows and columns are swapped in `enter`",
            _place,
            2.0,
            of="vanilla",
        ),
        "shape": Check(
            "one vector a patch on a grid that is not square",
            "the answer has another shape than (pictures, rows, columns, dim)",
            _shape,
        ),
        "batch": Check(
            "a batch of two is two batches of one",
            "a picture's answer depends on the other pictures of its batch",
            _batch,
            EQUAL,
        ),
        "transposed": Check(
            "a transposed token grid gives the transposed answer",
            "a transposed token grid does not give the transposed answer: rows and columns are mixed up in the block",
            _transposed,
            EQUAL,
        ),
        "flat": Check("a picture without content stays finite", "a picture without content is not finite", _flat),
        "again": Check("the same call gives the same bits", "the same call gives other bits", _again),
        "distinct": Check(
            "it differs from the unchanged tower",
            "it gives the unchanged tower's answer, so the method does nothing here: refuse it with a sentence instead",
            _distinct,
            APART,
            least=True,
            of="changed",
        ),
    }
)


__all__ = ["APART", "BREAKS", "CHECKS", "Check", "EQUAL", "Measured", "invariants"]
