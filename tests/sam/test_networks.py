import pytest
import torch
from segment_anything import sam_model_registry

from ovseg.errors import BadUsage
from ovseg.sam.networks import KINDS, build, kind_of, require_float32
from tests.sam.narrow import narrow_sam


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in sam_model_registry])
def test_every_published_kind_has_the_tensors_of_segment_anythings_own(kind: str) -> None:
    with torch.device("meta"):
        theirs = {key: value.shape for key, value in sam_model_registry[kind]().state_dict().items()}
        ours = build(KINDS[kind]).state_dict()
    assert theirs == {key: value.shape for key, value in ours.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_told_by_its_tensors(kind: str) -> None:
    with torch.device("meta"):
        state = build(KINDS[kind]).state_dict()
    assert kind_of(state) == kind
    assert kind_of({key: value for key, value in state.items() if not key.startswith("image_encoder.")}) is None


def test_the_tiny_kind_stays_tiny() -> None:
    with torch.device("meta"):
        state = build(KINDS["tiny"]).state_dict()
    assert 2 * sum(value.numel() for value in state.values()) < 3e6  # bytes in half precision


def test_only_float32_networks_with_sams_parts_are_run() -> None:
    sam = narrow_sam()
    assert require_float32(sam) is sam
    with pytest.raises(BadUsage, match="this network is in float16"):
        require_float32(sam.half())
    with pytest.raises(BadUsage, match="got Linear"):
        require_float32(torch.nn.Linear(2, 3))
