"""Every row of the manifest is pinned, can be told from the others, and is true of what is bundled."""

from typing import Any

import pytest

from ovseg import weights
from ovseg.errors import BadUsage, UnknownName
from ovseg.recipe import PRESETS
from ovseg.weights import search
from tests.weights.standins import add_row

REAL_CHECKOUT = search._checkout  # before any test puts its own there


def test_every_row_can_be_told_from_the_others() -> None:
    rows = weights.MANIFEST.values()
    assert list(weights.MANIFEST) == [row.name for row in rows]
    assert len(rows) == len({row.saved_as for row in rows}) == len({(row.location, row.file) for row in rows})


@pytest.mark.parametrize("row", weights.MANIFEST.values(), ids=weights.MANIFEST.keys())
def test_every_row_is_pinned(row: weights.WeightFile) -> None:
    assert row.licence and row.what
    if not row.sha256:  # told, never a pickle, and a folder of the hub's form whose names say what is in it
        assert "digest" in row.note and row.source == "huggingface" and not row.pickle and not row.bytes
        assert row.saved_as == f"{row.saved_as.split('/')[0]}/{row.file}" and row.name.startswith(
            row.saved_as.split("/")[0]
        )
        assert row.location.count("/") == 1
        return
    if row.source != "bundled":
        assert len(row.sha256) == 64 and row.bytes > 1_000_000 and row.input_size in (224, 336, 518, 1024)
    if row.source == "huggingface":
        assert len(row.revision) == 40 and int(row.revision, 16) and row.location.count("/") == 1 and not row.pickle
    if row.location.startswith("https://openaipublic"):
        assert row.location.endswith(row.sha256)  # OpenAI's addresses hold the digest


def test_bundled_rows_match_what_is_bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_checkout", REAL_CHECKOUT)
    bundled = [row.name for row in weights.MANIFEST.values() if row.source == "bundled" and weights.find(row.name)]
    assert [check.detail for check in weights.verify(*bundled) if check.verdict == "bad"] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"sha256": "abc"},
        {"licence": ""},
        {"location": "http://weights.example"},
        {"file": "a/b.pth"},
        {"source": "ftp"},
    ],
    ids=["short digest", "no licence", "not https", "a path for a file", "unknown source"],
)
def test_a_malformed_row_is_refused(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadUsage):
        add_row(monkeypatch, **fields)


def test_licences_of_mask_networks_are_true() -> None:
    """Nothing but SAM 3 asks for more than Apache-2.0, and SAM 3 says that it does."""
    rows = {row.name: row.licence for row in weights.MANIFEST.values() if "sam" in row.name.lower()}
    asking = {name for name, licence in rows.items() if licence != "Apache-2.0"}
    assert asking == {"sam3", "sam3-config", "sam3-tokenizer"}
    assert all("SAM License" in rows[name] for name in asking)
    assert not [preset for preset in PRESETS.values() if preset.sam in asking]


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'sam-vit-b'"):
        weights.path("sam_vit_b")
