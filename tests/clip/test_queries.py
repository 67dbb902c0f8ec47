"""Region tokens beside the image's own: equal to the published programs, and to a slow pass with a mask matrix."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN
from safetensors.torch import load_file
from torch import Tensor

from ovseg.clip import queries, tower
from ovseg.clip.families import find
from ovseg.clip.walk import Walk
from ovseg.conformance import narrow
from ovseg.errors import BadUsage
from tests import tiny

ANOMALY = GOLDEN / "anomaly"
KINDS = ("ViT-B-16", "EVA02-B-16", "MobileCLIP-B")  # towers whose image vector is their own token's
TOLERANCE = 2e-5  # the manifest's, for vectors of both programs


@pytest.fixture(scope="module")
def folder() -> Path:
    if not ANOMALY.is_dir():
        pytest.skip("parity data is not beside this checkout (../shared/golden/anomaly)")
    return ANOMALY


@pytest.fixture(scope="module")
def pixels(folder: Path) -> Tensor:
    return load_file(folder / "inputs.safetensors")["pixels_query"]


def walk_of(folder: Path, quick_gelu: bool) -> Walk:
    model = open_clip.CLIP(**json.loads((folder / "model.json").read_text()), quick_gelu=quick_gelu)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return find(model.eval().requires_grad_(False))


def of_picture(taps: Mapping[int, Tensor], place: int) -> dict[int, Tensor]:
    return {number: tokens[place] for number, tokens in taps.items()}


class TestSan:
    def asked(self, folder: Path, pixels: Tensor, bias: Tensor, how: str, start: int = 9) -> Tensor:
        """Vectors for biases (blocks, pictures, heads, tokens, rows, cols), brought to 7 x 7 as SAN does."""
        walk = walk_of(folder, quick_gelu=False)
        if bias.shape[-1] != 7:
            several = bias.flatten(0, 2)
            bias = torch.stack([downsampled(one, how) for one in several]).unflatten(0, bias.shape[:3])
        taps = tower.prefix(walk, pixels, range(start + 1, 13))
        return torch.stack(
            [queries.ask(walk, of_picture(taps, i), (7, 7), bias[:, i].flatten(3), start + 1) for i in range(2)]
        )

    @pytest.mark.parametrize("form", ["self", "cross"])
    @pytest.mark.parametrize("how", ["max", "bilinear"])
    @pytest.mark.parametrize("which", ["region", "random"])
    def test_tokens_equal_the_published_program(
        self, folder: Path, pixels: Tensor, form: str, how: str, which: str
    ) -> None:
        stored = load_file(folder / "san.safetensors")
        bias = stored["bias.region" if which == "region" else "bias.random_per_head"][None]
        assert_near(stored[f"{form}_{how}.{which}"], self.asked(folder, pixels, bias, how))

    @pytest.mark.parametrize("start", [6, 11])
    def test_tokens_that_start_elsewhere_equal_it_too(self, folder: Path, pixels: Tensor, start: int) -> None:
        stored = load_file(folder / "san.safetensors")
        found = self.asked(folder, pixels, stored["bias.region"][None], "max", start)
        assert_near(stored[f"self_max.region.first_layer{start}"], found)

    @pytest.mark.parametrize("form", ["self", "cross"])
    def test_a_bias_of_its_own_for_every_block(self, folder: Path, pixels: Tensor, form: str) -> None:
        stored = load_file(folder / "san.safetensors")
        assert_near(stored[f"{form}_max.layers"], self.asked(folder, pixels, stored["bias.per_layer"], "max"))

    @pytest.mark.parametrize("form", ["self", "cross"])
    def test_no_bias_gives_the_image_itself(self, folder: Path, pixels: Tensor, form: str) -> None:
        stored = load_file(folder / "san.safetensors")
        found = self.asked(folder, pixels, torch.zeros(1, 2, 1, 5, 7, 7), "max")
        assert_near(stored[f"{form}_max.zero"], found)
        assert_near(stored["plain_embeddings"][:, None].expand(-1, 5, -1), found)

    def test_hidden_by_minus_infinity_is_hidden_by_minus_100(self, folder: Path, pixels: Tensor) -> None:
        # its regions on our terms: any pixel of a cell counts (max), hidden cells do not take part at all
        stored = load_file(folder / "san.safetensors")
        covered = F.adaptive_max_pool2d(stored["regions"].float(), (7, 7)).log()
        assert covered.isinf().any()
        found = self.asked(folder, pixels, covered[None, None, None].expand(-1, 2, -1, -1, -1, -1), "max")
        assert_near(stored["self_max.region"], found)

    def test_tokens_of_the_dense_pass_are_those_of_the_program(self, folder: Path, pixels: Tensor) -> None:
        stored = load_file(folder / "san.safetensors")
        entering = tower.prefix(walk_of(folder, quick_gelu=False), pixels, (10,))[10]
        assert_near(stored["features.block9"].flatten(2).mT, entering[:, 1:])
        assert_near(stored["features.block9_cls"][0], entering[:, 0])


class TestFalip:
    def test_vectors_equal_the_published_program(self, folder: Path, pixels: Tensor) -> None:
        stored, walk = load_file(folder / "falip.safetensors"), walk_of(folder, quick_gelu=True)
        taps, rows = tower.prefix(walk, pixels, (9, 10)), stored["cls_bias_rows"]
        for i in range(2):
            found = queries.refocus(walk, of_picture(taps, i), (7, 7), rows, 9)
            assert_near(stored["image_embeddings"][i], found)
            assert_near(stored["plain_quickgelu_embeddings"][i], found[2])  # its third row is all zero

    def test_what_the_own_token_looks_at_equals_it(self, folder: Path, pixels: Tensor) -> None:
        # block 9 is the first with rows, 8 the last without: published indices 8 and 7
        stored, walk = load_file(folder / "falip.safetensors"), walk_of(folder, quick_gelu=True)
        taps = tower.prefix(walk, pixels, (8, 9))
        for number, rows in ((8, torch.zeros(4, 50)), (9, stored["cls_bias_rows"])):
            sides = walk.sides(number, walk.norm(number, taps[number]), (7, 7))
            logits = (sides["q"][:, :, :1] @ sides["k"].mT) / 4
            for j in range(4):
                looked = (logits + rows[j]).softmax(dim=3).mean(dim=1)[:, 0]
                assert_near(stored["cls_attention_rows"][:, j, number - 1], looked)

    @pytest.mark.parametrize(("cells", "patch"), [(14, 16), (16, 14)])
    def test_rows_of_boxes_equal_it_under_numpy_1(self, folder: Path, cells: int, patch: int) -> None:
        stored = load_file(folder / "falip.safetensors")
        rows, other = (stored[f"{name}rows.grid{cells}_patch{patch}"] for name in ("", "numpy2."))
        flat, rows, other = 0, rows.numpy(), other.numpy()
        for case, row, newer in zip(stored["rows.cases_w_h_x0_y0_x1_y1"].tolist(), rows, other, strict=True):
            found = released_row(case, cells, patch)
            np.testing.assert_allclose(row, found, atol=1e-7, err_msg=str(case))
            if len(set(found.tolist())) == 2:  # a flat box: numpy 2 divides by 1e-6 as rounded beside 1
                flat += 1
                assert 1e-3 < np.abs(newer - found).max() < 1e-2
            else:
                np.testing.assert_allclose(newer, found, atol=2e-4)
        assert flat > 3

    def test_boxes_of_the_small_picture(self, folder: Path) -> None:
        stored = load_file(folder / "falip.safetensors")
        for box, row in zip(stored["boxes_xyxy"][:2].tolist(), stored["cls_bias_rows"], strict=False):
            np.testing.assert_allclose(row, released_row([112, 112, *box], 7, 16), atol=2e-4)


def released_row(case: list[float], cells: int, patch: int) -> np.ndarray:
    """FALIP's row for a box: picture's width and height, then XYXY, on a square of `cells`."""
    size, row = cells * patch, np.zeros((cells, cells), np.float32)
    x0, y0, x1, y1 = (min(at * (size / side), size) / patch for at, side in zip(case[2:], case[:2] * 2, strict=True))
    (top, bottom), (left, right) = queries.spans(y0, y1, released=True), queries.spans(x0, x1, released=True)
    row[top : bottom + 1, left : right + 1] = queries.fovea(bottom - top + 1, right - left + 1, 0.2, 100.0)
    return np.concatenate([[0], row.ravel()])


def downsampled(bias: Tensor, how: str) -> Tensor:
    """SAN's two ways to bring biases (n, rows, cols) to the tokens' grid."""
    if how == "max":
        return F.adaptive_max_pool2d(bias, (7, 7))
    return F.interpolate(bias[None], size=(7, 7), mode="bilinear", align_corners=False)[0]


def assert_near(wanted: Tensor, found: Tensor, atol: float = TOLERANCE) -> None:
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0)


def by_matrix(walk: Walk, taps: Mapping[int, Tensor], grid: tuple[int, int], matrix: Tensor, first: int) -> Tensor:
    """Every token through the blocks from `first`, with one matrix (tokens, tokens) added to all logits; slow.

    Tokens that stand before the image's own are copies of it.
    """
    more = len(matrix) - taps[first].shape[1]
    stream = torch.cat([taps[first][:, :1].expand(-1, more, -1), taps[first]], dim=1)
    for number in range(first, walk.depth + 1):
        sides = walk.sides(number, walk.norm(number, stream), grid)
        mixed = F.scaled_dot_product_attention(sides["q"], sides["k"], sides["v"], attn_mask=matrix)
        stream = stream + walk.out(number, mixed.transpose(1, 2).flatten(2))
        stream = stream + walk.mlp(number, stream)
    return stream


@pytest.fixture(scope="module", params=KINDS)
def seen(request: pytest.FixtureRequest) -> tuple[Walk, dict[int, Tensor], tuple[int, int]]:
    """A narrow tower of a family, with the taps of one picture on a grid that is no square."""
    walk = find(narrow(request.param))
    grid = (3, 5)
    pixels = torch.randn(
        1, 3, grid[0] * walk.patch[0], grid[1] * walk.patch[1], generator=torch.Generator().manual_seed(4)
    )
    with torch.inference_mode():
        return walk, tower.prefix(walk, pixels, range(1, walk.depth + 1)), grid


def some_shares(count: int = 4, cells: int = 15) -> Tensor:
    shares = torch.rand(count, cells, generator=torch.Generator().manual_seed(7))
    return shares * (shares > 0.4)


class TestAsk:
    def test_equals_more_tokens_in_the_stream_that_no_other_sees(
        self, seen: tuple[Walk, dict[int, Tensor], tuple[int, int]]
    ) -> None:
        walk, taps, grid = seen
        first, bias = queries.first_block(9, walk.depth), some_shares().log()
        matrix = torch.zeros(4 + 16, 4 + 16)
        matrix[:, :4] = -torch.inf
        matrix[:4, 4] = -torch.inf
        matrix[:4, 5:] = bias
        matrix[torch.arange(4), torch.arange(4)] = 0
        with torch.inference_mode():
            stream = by_matrix(walk, taps, grid, matrix, first)
            plain = walk.block(walk.depth, taps[walk.depth], grid)
            found = queries.ask(walk, of_picture(taps, 0), grid, bias[None, None], first)
            assert_near(walk.project(stream[:, :4])[0], found)
            assert_near(plain, stream[:, 4:], atol=1e-4)  # the image's tokens are unmoved

    @pytest.mark.parametrize("start", [0, 4, 9, 11])
    def test_a_region_that_is_everything_is_the_image(
        self, seen: tuple[Walk, dict[int, Tensor], tuple[int, int]], start: int
    ) -> None:
        walk, taps, grid = seen
        with torch.inference_mode():
            first = queries.first_block(start, walk.depth)
            found = queries.ask(walk, of_picture(taps, 0), grid, torch.ones(1, 1, 2, 15).log(), first)
            assert_near(walk.whole(taps[walk.depth], grid).expand(2, -1), found)

    def test_many_at_once_are_each_alone(self, seen: tuple[Walk, dict[int, Tensor], tuple[int, int]]) -> None:
        walk, taps, grid = seen
        first, bias = queries.first_block(9, walk.depth), some_shares().log()
        with torch.inference_mode():
            together = queries.ask(walk, of_picture(taps, 0), grid, bias[None, None], first)
            for i in range(4):
                alone = queries.ask(walk, of_picture(taps, 0), grid, bias[None, None, i : i + 1], first)
                assert_near(alone, together[i : i + 1], atol=1e-5)
            assert queries.ask(walk, of_picture(taps, 0), grid, bias[None, None, :0], first).shape == (0, walk.dim)

    def test_patches_outside_do_not_matter_to_the_last_block(
        self, seen: tuple[Walk, dict[int, Tensor], tuple[int, int]]
    ) -> None:
        walk, taps, grid = seen
        shares = some_shares(1)
        moved = taps[walk.depth][0].clone()
        moved[1:][shares[0] == 0] += 10
        with torch.inference_mode():
            bias = shares.log()[None, None]
            found = queries.ask(walk, {walk.depth: taps[walk.depth][0]}, grid, bias, walk.depth)
            again = queries.ask(walk, {walk.depth: moved}, grid, bias, walk.depth)
            assert_near(found, again, atol=1e-6)
            inside = taps[walk.depth][0].clone()
            inside[1:][shares[0] > 0] += 10 * torch.randn(walk.width)
            other = queries.ask(walk, {walk.depth: inside}, grid, bias, walk.depth)
            assert (other - found).abs().max() > 1e-3


class TestRefocus:
    @pytest.mark.parametrize("start", [0, 8, 11])
    def test_equals_a_row_of_a_matrix(self, seen: tuple[Walk, dict[int, Tensor], tuple[int, int]], start: int) -> None:
        walk, taps, grid = seen
        first, rows = queries.first_block(start, walk.depth), some_shares(3, 16)
        with torch.inference_mode():
            found = queries.refocus(walk, of_picture(taps, 0), grid, rows, first)
            for i in range(3):
                matrix = torch.zeros(16, 16)
                matrix[0] = rows[i]
                stream = by_matrix(walk, taps, grid, matrix, first)
                assert_near(walk.project(stream[:, :1])[0, 0], found[i])

    def test_a_zero_row_and_a_constant_row_are_the_image(
        self, seen: tuple[Walk, dict[int, Tensor], tuple[int, int]]
    ) -> None:
        walk, taps, grid = seen
        first = queries.first_block(8, walk.depth)
        with torch.inference_mode():
            rows = torch.tensor([0.0, 0.7])[:, None].expand(-1, 16)
            found = queries.refocus(walk, of_picture(taps, 0), grid, rows, first)
            assert_near(walk.whole(taps[walk.depth], grid).expand(2, -1), found)

    def test_batches_change_nothing(
        self, seen: tuple[Walk, dict[int, Tensor], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        walk, taps, grid = seen
        first, rows = queries.first_block(8, walk.depth), some_shares(5, 16)
        with torch.inference_mode():
            together = queries.refocus(walk, of_picture(taps, 0), grid, rows, first)
            monkeypatch.setattr(queries, "TOKENS_AT_ONCE", 32)
            assert_near(together, queries.refocus(walk, of_picture(taps, 0), grid, rows, first), atol=1e-5)


@pytest.mark.parametrize("depth", [3, 6, 12, 24])
def test_a_region_starts_after_a_share_of_the_blocks(depth: int) -> None:
    firsts = [queries.first_block(start, depth) for start in range(12)]
    assert firsts[0] == 1 and firsts == sorted(firsts) and depth - 1 <= firsts[-1] <= depth
    assert firsts[9] == {3: 3, 6: 6, 12: 10, 24: 19}[depth]
    with pytest.raises(BadUsage, match="0 to 11, got 12"):
        queries.first_block(12, depth)


def test_fovea_is_highest_in_the_middle_and_nothing_in_the_corners() -> None:
    found = queries.fovea(5, 9, 0.2, 3.0)
    assert found.shape == (5, 9) and found.argmax() == 22 and abs(found[2, 4] - 0.2) < 1e-6
    assert found[0, 0] < 1e-5 and (found == found[::-1]).all() and np.allclose(found, found[:, ::-1])
    assert (queries.fovea(1, 2, 0.3, 100.0) == np.float32(0.3)).all()


def test_spans_hold_every_cell_that_a_stretch_touches() -> None:
    rng = np.random.default_rng(2)
    for low, length in rng.uniform(0, 7, (50, 2)):
        first, last = queries.spans(low, low + length)
        touched = [cell for cell in range(20) if low < cell + 1 and low + length > cell]
        assert [first, last] == [touched[0], touched[-1]]
    assert queries.spans(3.0, 3.0) == (3, 3)


def test_the_tiny_network_of_three_blocks_has_one_to_do_again() -> None:
    walk = find(tiny.model())
    assert queries.first_block(9, walk.depth) == queries.first_block(8, walk.depth) == 3
