import torch

from segkit.supervision.merge import group_heads, merge_classes, merge_masks, mergeable_classes, union_of_groups


def brute_force(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, mergeable: list[bool]
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """First row of each group -> mean class logits, union of masks."""
    background = class_logits.shape[-1] - 1
    groups: dict[object, list[int]] = {}
    for row, logits in enumerate(class_logits):
        winner = int(logits.argmax())
        sure = float(logits.exp()[winner] / logits.exp().sum()) > 0.5
        alone = winner == background or not mergeable[winner] or not sure
        groups.setdefault(("alone", row) if alone else winner, []).append(row)
    return {rows[0]: (class_logits[rows].mean(0), mask_logits[rows].amax(0)) for rows in groups.values()}


def test_merge_is_the_brute_force() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        class_logits = torch.randn(2, 3, 12, 5, generator=generator) * 2
        mask_logits = torch.randn(2, 3, 12, 9, generator=generator)
        mergeable = torch.rand(4, generator=generator) > 0.5
        heads = group_heads(class_logits, mergeable)
        alive = heads == torch.arange(12)
        classes, masks = merge_classes(class_logits, heads), merge_masks(mask_logits, heads)
        rows = alive.flatten(0, 1).nonzero()
        unions = union_of_groups(mask_logits.flatten(0, 1), heads.flatten(0, 1), rows)
        torch.testing.assert_close(unions, masks.flatten(0, 1)[rows[:, 0], rows[:, 1]])
        for image in range(2):
            for layer in range(3):
                expected = brute_force(class_logits[image, layer], mask_logits[image, layer], mergeable.tolist())
                assert alive[image, layer].nonzero().flatten().tolist() == sorted(expected)
                for row, (mean, union) in expected.items():
                    torch.testing.assert_close(classes[image, layer, row], mean)
                    torch.testing.assert_close(masks[image, layer, row], union)


def test_gradients_reach_the_proposal_that_claims_a_pixel() -> None:
    class_logits = torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 1.0]], requires_grad=True)
    mask_logits = torch.tensor([[1.0, -1.0], [0.0, 2.0], [5.0, 5.0]], requires_grad=True)
    heads = group_heads(class_logits, torch.tensor([True]))
    assert heads.tolist() == [0, 0, 2]
    union_of_groups(mask_logits[None], heads[None], torch.tensor([[0, 0]])).sum().backward()
    assert mask_logits.grad is not None
    assert mask_logits.grad.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    merge_classes(class_logits, heads)[0, 0].backward()
    assert class_logits.grad is not None
    assert class_logits.grad[:, 0].tolist() == [0.5, 0.5, 0.0]


def test_what_is_merged_depends_on_the_task() -> None:
    is_thing = torch.tensor([True, False, True])
    assert mergeable_classes("panoptic", is_thing).tolist() == [False, True, False]
    assert mergeable_classes("semantic", is_thing).tolist() == [True, True, True]
    assert mergeable_classes("instance", is_thing).tolist() == [False, False, False]


def test_background_and_things_stay_alone() -> None:
    logits = torch.tensor([[0.0, 0.0, 9.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    assert group_heads(logits, torch.tensor([False, True])).tolist() == [0, 1, 2, 3, 4]
