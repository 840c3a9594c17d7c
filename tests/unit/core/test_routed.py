"""RoutedExchange against a model that follows a client's requests one by one to their brokers."""

from random import Random

import pytest
from conversations import Cut, at_random, one_byte, one_frame, whole
from routed_conversations import RoutedTalk


@pytest.mark.parametrize("cut", [whole, one_byte, one_frame, at_random])
@pytest.mark.parametrize("seed", range(30))
def test_conversations(seed: int, cut: Cut) -> None:
    """However the streams are cut, every broker and the client get the model's bytes, one broker owing at a time."""
    rng = Random(seed)
    RoutedTalk(rng, rng.choice((1, 5, 25))).run(cut)


@pytest.mark.parametrize("cut", [whole, one_byte, one_frame, at_random])
@pytest.mark.parametrize("seed", range(10))
def test_renewed_anywhere(seed: int, cut: Cut) -> None:
    """Wherever a login is renewed all is as without, and what was held back goes to its own broker."""
    RoutedTalk(Random(seed), 10).run(cut, hold_share=0.05)
