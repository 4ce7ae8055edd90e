import pytest
import torch

from meta.episode import LEAVES, Episode, Examples, leaves, place, pooled, stack, unstack


def episode(seed: int, shots: int = 2) -> Episode:
    generator = torch.Generator().manual_seed(seed)

    def examples(count: int) -> Examples:
        x = torch.randn(count, 3, dtype=torch.float64, generator=generator)
        return Examples(x, torch.randint(5, (count,), generator=generator))

    return Episode(examples(shots), examples(4), torch.randn(1, dtype=torch.float64, generator=generator))


def test_unstack_takes_out_what_stack_put_in() -> None:
    singles = [episode(seed) for seed in range(3)]
    batch = stack(singles)
    for task, single in enumerate(singles):
        assert all(torch.equal(a, b) for a, b in zip(leaves(unstack(batch, task)), leaves(single), strict=True))


def test_stack_names_the_part_whose_shapes_differ() -> None:
    with pytest.raises(ValueError, match=r"equal shapes of support inputs in all tasks.*\(2, 3\), \(5, 3\)"):
        stack([episode(0), episode(1, shots=5)])


def test_stack_refuses_no_episodes() -> None:
    with pytest.raises(ValueError, match="expected at least one episode to stack"):
        stack([])


def test_pooled_is_support_before_query() -> None:
    one = episode(0)
    inputs, targets = pooled(one)
    assert torch.equal(inputs, torch.cat([one.support.inputs, one.query.inputs]))
    assert torch.equal(targets, torch.cat([one.support.targets, one.query.targets]))


def test_place_converts_numbers_but_not_labels_into_memory_of_its_own() -> None:
    one = episode(0)
    placed = place(one, torch.float32, "cpu")
    kinds = dict(zip(LEAVES, (leaf.dtype for leaf in leaves(placed)), strict=True))
    labels = {"support targets", "query targets"}
    assert kinds == {name: torch.int64 if name in labels else torch.float32 for name in LEAVES}
    again = place(placed, torch.float32, "cpu")
    assert not {leaf.data_ptr() for leaf in leaves(again)} & {leaf.data_ptr() for leaf in leaves(placed)}
