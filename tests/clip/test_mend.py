import torch

from ovseg.clip.mend import mend, outlier_score, pool


def test_mending_takes_the_mean_of_sound_neighbours_on_any_grid() -> None:
    cells = torch.arange(15.0).view(1, 15, 1)
    outliers = torch.zeros(1, 15, dtype=torch.bool)
    outliers[0, [0, 1, 7]] = True  # (0, 0), (0, 1), (1, 2) of 3 rows x 5 columns
    got = mend(cells, outliers, (3, 5))[0, :, 0]
    assert got[0] == (5 + 6) / 2 and got[1] == (2 + 5 + 6) / 3
    assert got[7] == (2 + 3 + 6 + 8 + 11 + 12 + 13) / 7
    assert got[[2, 3, 14]].tolist() == [2, 3, 14]


def test_outlier_without_sound_neighbours_stays_or_becomes_zero() -> None:
    cells, everyone = torch.ones(1, 6, 2), torch.ones(1, 6, dtype=torch.bool)
    assert torch.equal(mend(cells, everyone, (2, 3)), cells)
    assert torch.equal(mend(cells, everyone, (2, 3), "zero"), torch.zeros(1, 6, 2))


def test_planted_stray_patch_has_the_highest_outlier_score() -> None:
    tokens = torch.randn(2, 60, 16, generator=torch.Generator().manual_seed(1))
    tokens[0, 17] += 20
    tokens[1, 42] -= 20
    assert outlier_score(tokens).argmax(dim=1).tolist() == [17, 42]
    one = tokens[0].double()
    distance = torch.cdist(one, one).square().fill_diagonal_(torch.inf)
    near, who = distance.topk(30, largest=False)
    far = near[:, -1]
    torch.testing.assert_close(outlier_score(tokens)[0].double(), far * (1 / far)[who].mean(dim=1), rtol=1e-5, atol=0)


def test_pooling_with_an_impossible_floor_gives_each_token_itself() -> None:
    tokens = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(pool(tokens, tokens, 0.999999), tokens, rtol=0, atol=1e-4)
    everyone = pool(tokens, torch.ones(2, 7, 3), -2.0)
    torch.testing.assert_close(everyone, tokens.mean(dim=1, keepdim=True).expand(2, 7, 5), rtol=0, atol=1e-5)
