import pytest

from ovseg.clip.program import IDENTITY, KK, QK, QQ, Group, LastBlock, Pool, Repair, Term
from ovseg.errors import BadUsage, OvsegError


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Term("qv"), "source of a term"),
        (lambda: Term("qq", weight=0.0), "positive weight"),
        (lambda: Term("qq", std=1.0), "std is for gauss"),
        (lambda: Term("gauss"), "gauss needs one"),
        (lambda: Term("qq", scale="norms"), '"norms" for gauss'),
        (lambda: Term("gauss", std=1.0, scale="norm"), '"norm" is for q, k, v'),
        (lambda: Term("qq", scale="warm"), "scale of a term"),
        (lambda: Term("guide", unit=True), "are for q, k, v terms"),
        (lambda: Term("qk", unit=True, rounds=1), "rounds need unit rows of one side"),
        (lambda: Term("qq", rounds=1), "rounds need unit rows"),
        (lambda: Term("kk", align="svd"), "it is for qk"),
        (lambda: Term("qk", align="polar6"), "align of a term"),
        (lambda: Term("qk", align="svd", unit=True), "are one choice"),
        (lambda: Term("kk", centre=True, unit=True), "are one choice"),
        (lambda: Term("kk", cut=True), "are for guide, block and feedback"),
        (lambda: Term("block"), "block needs one"),
        (lambda: Term("block", layer=13), "from 1 to 12"),
        (lambda: Group(), "needs terms"),
        (lambda: Group((QQ,), weight=0.0), "weight 0 does nothing"),
        (lambda: Group((QQ,), normaliser="identity"), "identity group has none"),
        (lambda: Group((QQ,), normaliser="balance"), "it needs some"),
        (lambda: Group((QQ,), normaliser="softmin"), "normaliser"),
        (lambda: Group((Term("gauss", std=1.0),), layers=(3,)), "q, k, v terms alone"),
        (lambda: Group((QQ,), layers=(0,)), "from 1 to 12"),
        (lambda: Group((QQ,), layers="later"), "from 1 to 12"),
        (lambda: Group((Term("guide"), KK)), "alone in its group"),
        (lambda: Repair("eye", 3), "detector"),
        (lambda: Repair("lof", 1.5), "quantile"),
        (lambda: Repair("som", 3, lonely="drop"), "lonely"),
        (lambda: Pool(0), "from 1 to 12"),
        (lambda: LastBlock(()), "at least one group"),
        (lambda: LastBlock((Group((QK,)),), cls_add=0.3), "cls=False"),
        (lambda: LastBlock((Group((Term("guide"),)),)), "cls=False"),
        (lambda: LastBlock((Group((Term("guide"),)),), cls=False), "residual=False"),
        (lambda: LastBlock((Group((Term("guide"),)), IDENTITY), cls=False, residual=False, mlp=False), "guide's grid"),
        (lambda: LastBlock((Group((QK,)),), cls=False, cls_logits=-0.3), "cls=True"),
        (lambda: LastBlock((Group((QK,)),), dual=6), "takes no MLP"),
        (lambda: LastBlock((Group((QK,)),), extra_groups=(IDENTITY,)), "extra pass"),
    ],
)  # fmt: skip
def test_rows_are_checked_when_made(make: object, told: str) -> None:
    with pytest.raises(OvsegError, match=told):
        make()  # type: ignore[operator]


def test_a_row_says_what_it_needs_and_what_its_weights_add_up_to() -> None:
    row = LastBlock((Group((QQ,)), Group((KK,), weight=0.5)), residual=False)
    assert row.row_sum == 1.5 and row.needs == {"attention", "mlp"}
    assert LastBlock((IDENTITY,), residual=False, mlp=False).needs == {"attention"}
    guided = LastBlock((Group((Term("guide"),)),), cls=False, residual=False, mlp=False)
    assert guided.needs == {"attention", "guide"}
    assert isinstance(BadUsage("x"), OvsegError)
