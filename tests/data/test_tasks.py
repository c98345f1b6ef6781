"""Synthetic tasks against what they say of themselves, read off the tokens one by one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.registry import OptionError
from lab.data.errors import DataError
from lab.data.synthetic.draws import Draws
from lab.data.synthetic.items import Items
from lab.data.synthetic.tasks import MQAR, AssociativeRecall, Induction, Passkey, SelectiveCopying, Task

CASES: list[tuple[Task, int, int]] = [
    (MQAR(pairs=4), 64, 8192),
    (MQAR(pairs=4), 16, 10),
    (MQAR(pairs=3, power=1.0, random_filler=False), 31, 64),
    (AssociativeRecall(pairs=5), 64, 40),
    (AssociativeRecall(pairs=4, random_filler=False), 9, 10),
    (Induction(), 32, 17),
    (Induction(distance=2), 5, 3),
    (Induction(distance=31), 32, 17),
    (Passkey(), 64, 257),
    (Passkey(digits=3), 7, 13),
    (Passkey(digits=3, distance=11), 20, 13),
    (SelectiveCopying(copied=4), 32, 16),
    (SelectiveCopying(copied=4), 8, 4),
]
NAMES = [f"{task.name}-{context}-{vocabulary}" for task, context, vocabulary in CASES]


def drawn(task: Task, context: int, vocabulary: int, n: int = 200, seed: str = "s") -> Items:
    task.check(context, vocabulary)
    return task.items(Draws(seed, np.arange(n)), context, vocabulary)


def solve(task: Task, read: list[int], vocabulary: int) -> tuple[int, int]:
    """The answer after reading some tokens, and how far back its key stands: by looking for it token by token."""
    here = len(read) - 1
    if isinstance(task, MQAR):
        (key,) = [i for i in range(0, 2 * task.pairs, 2) if read[i] == read[here]]
        return read[key + 1], here - key
    if isinstance(task, AssociativeRecall):
        (key,) = [i for i in range(here) if read[i] == read[here]]
        return read[key + 1], here - key
    if isinstance(task, Induction):
        (mark,) = [i for i in range(here) if read[i] == 0]
        return read[mark + 1], here - mark
    if isinstance(task, Passkey):
        (mark,), (ask,) = [i for i in range(here) if read[i] == 0], [i for i in range(here + 1) if read[i] == 1]
        return read[mark + 1 + here - ask], ask - mark
    data = [i for i, token in enumerate(read) if token >= 2]
    asked = sum(token == 1 for token in read) - 1
    return read[data[asked]], here - data[asked]


@pytest.mark.parametrize(("task", "context", "vocabulary"), CASES, ids=NAMES)
def test_every_answer_can_be_read_off_the_tokens_before_it_at_its_distance(
    task: Task, context: int, vocabulary: int
) -> None:
    items = drawn(task, context, vocabulary)
    assert items.tokens.shape == (200, context)
    assert items.places.shape == items.targets.shape == items.distances.shape == (200, task.n_targets)
    assert 0 <= items.tokens.min() <= items.tokens.max() < vocabulary
    for tokens, places, targets, distances in zip(
        items.tokens.tolist(), items.places.tolist(), items.targets.tolist(), items.distances.tolist(), strict=True
    ):
        assert sorted(set(places)) == places
        found = [solve(task, tokens[: place + 1], vocabulary) for place in places]
        assert found == list(zip(targets, distances, strict=True))


@pytest.mark.parametrize(
    ("task", "context", "vocabulary"), [case for case in CASES if case[0].n_answers(case[2]) < 100]
)
def test_an_answer_is_each_of_its_ids_as_often(task: Task, context: int, vocabulary: int) -> None:
    counts = Counter(drawn(task, context, vocabulary, n=4000).targets.flatten().tolist())
    assert len(counts) == task.n_answers(vocabulary)
    mean = 4000 * task.n_targets / len(counts)
    assert all(abs(n - mean) < 5 * mean**0.5 for n in counts.values())


def test_an_item_depends_on_its_seed_and_number_alone() -> None:
    for task, context, vocabulary in CASES:
        whole = drawn(task, context, vocabulary, 40)
        part = task.items(Draws("s", np.arange(30, 35)), context, vocabulary)
        for name in ("tokens", "places", "targets", "distances"):
            np.testing.assert_array_equal(getattr(whole, name)[30:35], getattr(part, name))
        assert not np.array_equal(drawn(task, context, vocabulary, 40, "t").tokens, whole.tokens)


def test_mqar_places_queries_as_zoology_does() -> None:
    """Against its generator, one item at a time with numpy's own choice, in the frequencies of the places."""
    pairs, context, power, n = 4, 32, 0.01, 6000
    generator = np.random.default_rng(0)
    free = (context - 2 * pairs) // 2
    p = power * np.arange(1, free + 1) ** (power - 1)
    gaps = [generator.choice(free, pairs, replace=False, p=p / p.sum()) for _ in range(n)]
    expected = np.bincount(2 * pairs + 2 * np.concatenate(gaps), minlength=context)
    found = np.bincount(drawn(MQAR(pairs=pairs, power=power), context, 64, n).places.flatten(), minlength=context)
    assert found[: 2 * pairs].sum() == found[1::2].sum() == 0
    assert found[2 * pairs] > 5 * found[30] > 0
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected + found + 1)).all()


def test_mqar_has_keys_from_the_first_half_values_from_the_second_and_no_key_in_the_filler() -> None:
    items = drawn(MQAR(pairs=4), 64, 40, n=500)
    keys, values = items.tokens[:, 0:8:2], items.tokens[:, 1:8:2]
    assert (keys.min(), keys.max(), values.min(), values.max()) == (1, 19, 20, 39)
    for row, own in zip(items.tokens, keys, strict=True):
        assert len(set(own)) == 4
        assert all((row == key).sum() == 2 for key in own)
    filler = Counter(items.tokens[:, 9::2].flatten().tolist())
    assert set(filler) == set(range(40))


def test_random_distances_take_every_value_that_fits() -> None:
    assert set(drawn(Induction(), 8, 5, 500).distances.flatten()) == set(range(2, 8))
    assert set(drawn(Passkey(digits=2), 9, 13, 500).distances.flatten()) == set(range(3, 8))
    assert set(drawn(AssociativeRecall(pairs=1), 9, 13, 500).distances.flatten()) == {2, 4, 6, 8}


@pytest.mark.parametrize(
    ("make", "context", "vocabulary", "message"),
    [
        (lambda: MQAR(pairs=0), 64, 64, "pairs: must be at least 1, got 0"),
        (lambda: MQAR(pairs=5), 19, 64, "pairs: 5 pairs need a context of at least 20 tokens, got 19"),
        (lambda: MQAR(pairs=5), 64, 11, "pairs: 5 pairs need a vocabulary of at least 12 tokens, got 11"),
        (lambda: AssociativeRecall(pairs=5), 10, 64, "pairs: 5 pairs need a context of at least 11 tokens"),
        (lambda: Induction(distance=1), 64, 64, "distance: must be at least 2"),
        (lambda: Induction(distance=64), 64, 64, "distance: marks at a distance of 64 need a context of at least 65"),
        (lambda: Passkey(distance=5), 64, 64, "distance: must be more than the 5 digits, got 5"),
        (lambda: Passkey(distance=60), 64, 64, "distance: a passkey of 5 digits and a question 60 tokens later need a"),
        (lambda: Passkey(digits=32), 64, 64, "need a context of at least 65 tokens, got 64"),
        (lambda: SelectiveCopying(copied=33), 64, 64, "copied: 33 copied tokens need a context of at least 66"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make: Any, context: int, vocabulary: int, message: str) -> None:
    with pytest.raises(OptionError) as error:
        make().check(context, vocabulary)
    assert message in str(error.value)


def test_every_task_fits_into_its_smallest_context_and_vocabulary() -> None:
    for task, least, vocabulary in [(MQAR(pairs=5), 20, 12), (AssociativeRecall(pairs=5), 11, 12), (Induction(), 3, 3)]:
        drawn(task, least, vocabulary)
    drawn(Passkey(digits=32), 65, 13)
    drawn(SelectiveCopying(copied=33), 66, 4)


def test_a_synthetic_task_has_no_text_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="corpus 'mqar' generates ids and has no text to read"):
        MQAR().open(tmp_path)
