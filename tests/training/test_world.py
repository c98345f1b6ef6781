"""The share of a step's work that each process of a run takes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from components.registry import OptionError
from lab.training.options import Train
from lab.training.parallel.world import World


def train(global_batch: int, micro_batch: int | None = None) -> Train:
    return Train(tokens=1000, context=10, global_batch=global_batch, micro_batch=micro_batch)


def worlds(size: int) -> list[World]:
    return [World(rank=rank, size=size) for rank in range(size)]


CASES = [
    (batch, micro, size)
    for batch, micro, size in itertools.product(range(1, 13), (None, 1, 2, 3, 4, 6), range(1, 6))
    if size <= batch and (micro is None or batch % micro == 0)
]


def test_every_sequence_is_taken_once_and_all_processes_make_equally_many_passes() -> None:
    for batch, micro, size in CASES:
        plan = train(batch, micro)
        passes = [world.micro_batches(plan) for world in worlds(size)]
        assert len({len(each) for each in passes}) == 1
        taken = [first for each in passes for p in each if p.is_counted for first in range(p.first, p.first + p.size)]
        assert taken == list(range(batch))
        for world, each in zip(worlds(size), passes, strict=True):
            part = world.part(plan)
            assert len(part) > 0
            assert all(part.start <= p.first and p.first + p.size <= part.stop for p in each)
            assert all(1 <= p.size <= world.sequences_per_forward(plan) <= plan.sequences_per_forward for p in each)


def test_processes_go_through_the_passes_of_one_where_there_are_enough() -> None:
    enough = [(batch, micro, size) for batch, micro, size in CASES if micro and batch // micro >= size]
    for batch, micro, size in enough:
        plan = train(batch, micro)
        together = [p for world in worlds(size) for p in world.micro_batches(plan) if p.is_counted]
        assert together == World().micro_batches(plan)
    assert len(enough) > 50


def test_a_process_with_fewer_passes_goes_through_its_last_one_again_for_nothing() -> None:
    first, second = (world.micro_batches(train(6, 2)) for world in worlds(2))
    assert [(p.first, p.is_counted) for p in first] == [(0, True), (0, False)]
    assert [(p.first, p.is_counted) for p in second] == [(2, True), (4, True)]


@pytest.mark.parametrize("items", [1, 2, 3, 4, 7])
def test_items_are_dealt_out_once_in_equally_many_turns(items: int) -> None:
    dealt = [list(world.distribute(range(items))) for world in worlds(3)]
    assert {len(each) for each in dealt} == {-(-items // 3)}
    assert sorted(item for each in dealt for item, counts in each if counts) == list(range(items))


def test_a_batch_of_fewer_sequences_than_processes_is_refused_with_both_figures() -> None:
    World(size=4).check(train(4))
    with pytest.raises(OptionError, match="global_batch: 4 sequences a step cannot be split over 5 processes"):
        World(size=5).check(train(4))


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"rank": 2, "size": 2}, "rank 2 is not one of 2 processes, 0 to 1"),
        ({"size": 2, "nodes": 3}, "2 processes cannot be on 3 nodes"),
        ({"strategy": "dpp"}, "must be one of ddp, fsdp"),
    ],
)
def test_a_world_that_cannot_be_is_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        World(**wrong)
