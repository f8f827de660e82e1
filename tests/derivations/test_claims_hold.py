"""Every claim of the derivations is proved, and no two share a name."""

import pytest

from linkern.derivations import CHAPTERS, all_claims
from linkern.symbolic import Verdict


@pytest.mark.parametrize(("chapter", "claim"), all_claims(), ids=lambda value: getattr(value, "name", value))
def test_claim(chapter, claim):
    outcome = claim.verify(seed=1)
    assert outcome.verdict is Verdict.PROVED, outcome.message
    assert outcome.digits >= 45


def test_names_are_unique_and_every_chapter_claims_something():
    names = [claim.name for _, claim in all_claims()]
    assert len(set(names)) == len(names)
    assert all(chapter.CLAIMS for chapter in CHAPTERS)
