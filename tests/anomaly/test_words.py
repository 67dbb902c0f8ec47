import numpy as np
import pytest

import tiny
from ovseg.anomaly import STATES, state_vocabulary
from ovseg.clip.text import encode_phrases
from ovseg.errors import BadUsage


@pytest.fixture(scope="module")
def clip():
    return tiny.clip()


def test_every_state_has_a_place_for_the_object_and_stands_once():
    every = [state for states in STATES.values() for state in states]
    assert [1] * len(every) == [state.count("{}") for state in every]
    assert len(every) == len(set(every))
    assert list(STATES) == ["normal", "anomalous"]


def test_rows_are_the_states_in_order_owned_by_the_two_names(clip):
    made = state_vocabulary(clip, "ceramic tile", templates="bare")
    assert made.names == ("normal", "anomalous")
    assert [len(states) for states in STATES.values()] == np.bincount(made.owner).tolist()
    expected, _ = encode_phrases(clip, ["ceramic tile", "damaged ceramic tile"])
    np.testing.assert_allclose(expected[0], made.vectors[made.phrases.index("ceramic tile")], atol=1e-6)
    np.testing.assert_allclose(expected[1], made.vectors[made.owner == 1][0], atol=1e-6)


@pytest.mark.parametrize(
    "given, asked",
    [
        ("metal_nut", "metal nut"),
        ("pcb1", "pcb"),
        ("hex-bolt_12", "hex bolt"),
        ("  tile ", "tile"),
        ("m3 bolt", "m3 bolt"),
    ],
)
def test_a_file_name_is_asked_as_words_and_said_so(clip, given, asked):
    made = state_vocabulary(clip, given, templates="bare")
    assert asked == made.phrases[0]
    assert (asked != given.strip()) == any("is asked as" in note for note in made.notes)


@pytest.mark.parametrize("given", ["", "  ", "_", "12", "-3"])
def test_a_name_without_a_word_is_refused(clip, given):
    with pytest.raises(BadUsage, match="name of the object is needed"):
        state_vocabulary(clip, given)


def test_a_model_that_never_learned_states_says_that_it_guesses(clip):
    from dataclasses import replace

    assert not state_vocabulary(clip, "tile", templates="bare").notes
    small = replace(clip, learned=frozenset({"tile"}))
    assert "guess" in " ".join(state_vocabulary(small, "tile", templates="bare").notes)
