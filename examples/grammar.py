"""A family of few-shot text classification: sentences of a small grammar, and a rule that each task has of its own.

    sentence → phrase verb phrase [adverb]      phrase → the [adjective] noun

A noun is of one of six kinds. A task gives each kind one of three classes, and a sentence has the class of its
subject's kind. Tokens are padded at the end; the mask says which are words.

    PYTHONPATH=examples metaray train examples/grammar_bert.yaml
"""

import numpy as np
import torch

from meta.episode import Episode, Examples
from tasks.family import FamilySpec, TaskKey
from tasks.inputs import InputSpec

PADDING, START, THE = 0, 1, 2
ADJECTIVES, VERBS, ADVERBS = range(3, 7), range(7, 11), range(11, 14)
KINDS, NOUNS, CLASSES = 6, 3, 3
FIRST_NOUN = 14  # nouns of one kind after the other
WORDS, LENGTH = FIRST_NOUN + KINDS * NOUNS, 9


class Grammar:
    """Sentences as ``input_ids`` and ``attention_mask``, [B, 9] each; classes are numbers from 0 to 2.

    Args:
        shot: support sentences of each kind of subject.
        query: query sentences of each kind of subject.
    """

    def __init__(self, shot: int = 2, query: int = 4) -> None:
        """Keep the numbers of sentences."""
        self._numbers = {"support": shot, "query": query}

    @property
    def spec(self) -> FamilySpec:
        """Two inputs, that a module's ``forward`` takes by these names."""
        inputs = {
            "input_ids": InputSpec((LENGTH,), "int64", vocabulary=WORDS),
            "attention_mask": InputSpec((LENGTH,), "int64", vocabulary=2),
        }
        return FamilySpec(inputs=inputs, outputs=CLASSES, objective="cross_entropy", by_class=True)

    def draw(self, key: TaskKey) -> Episode:
        """Returns the episode of one task."""
        rule = key.rng("rule").permutation(np.repeat(np.arange(CLASSES), KINDS // CLASSES))
        support, query = (self._examples(key.rng(half), rule, number) for half, number in self._numbers.items())
        return Episode(support, query, torch.zeros(0))

    def _examples(self, rng: np.random.Generator, rule: np.ndarray, number: int) -> Examples:
        kinds = np.repeat(np.arange(KINDS), number)
        tokens = torch.from_numpy(_sentences(rng, kinds))
        inputs = {"input_ids": tokens, "attention_mask": (tokens != PADDING).long()}
        return Examples(inputs, torch.from_numpy(rule[kinds]))


def _sentences(rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
    """Tokens [B, 9] of sentences whose subjects are of some kinds [B]."""
    count = len(kinds)
    words = np.empty((count, LENGTH), dtype=np.int64)
    words[:, 0] = START
    words[:, 1:4], words[:, 5:8] = _phrases(rng, kinds), _phrases(rng, rng.integers(KINDS, size=count))
    words[:, 4], words[:, 8] = rng.choice(VERBS, count), rng.choice([PADDING, *ADVERBS], count)
    # What is left out becomes padding, which goes to the end.
    return np.take_along_axis(words, np.argsort(words == PADDING, axis=1, kind="stable"), axis=1)


def _phrases(rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
    """Phrases [B, 3] about nouns of some kinds [B], the adjective 0 in half of them."""
    count = len(kinds)
    adjectives = np.where(rng.random(count) < 0.5, rng.choice(ADJECTIVES, count), PADDING)
    nouns = FIRST_NOUN + kinds * NOUNS + rng.integers(NOUNS, size=count)
    return np.stack([np.full(count, THE), adjectives, nouns], axis=1)
