import torch

from ovseg.clip.keymaps import openai_attention


def test_packed_attention_gets_torchs_names_and_nothing_else_changes() -> None:
    state = {"visual.transformer.resblocks.0.attn.in_proj.weight": torch.ones(2), "visual.proj": torch.zeros(1)}
    assert list(openai_attention(state)) == ["visual.transformer.resblocks.0.attn.in_proj_weight", "visual.proj"]
    named = {"visual.transformer.resblocks.0.attn.in_proj_weight": torch.ones(2)}
    assert openai_attention(named).keys() == named.keys()
