"""How strange each pixel of a picture is: words for states (`words`), and what scores a picture by them (`scorers`)."""

from ovseg.anomaly.scorers import SCORERS, Case, Scorer, score
from ovseg.anomaly.words import STATES, state_vocabulary

__all__ = ["Case", "SCORERS", "STATES", "Scorer", "score", "state_vocabulary"]
