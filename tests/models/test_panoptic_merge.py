"""The merge of instances and semantic map, on cases worked out by hand and on random ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pet.models.heads.panoptic import build_panoptic_head

THINGS, STUFF = 3, 2  # so in the semantic map 2 means things, and in the result stuff is 3 and 4


def build(**options: Any) -> Any:
    return build_panoptic_head("merge", THINGS, STUFF, {"stuff_area": 1, **options})


def instances(size: tuple[int, int], *found: tuple[tuple[int, int, int, int], float, int]) -> dict[str, Tensor]:
    """Rectangles (x1, y1, x2, y2) that fill their boxes, with score and label."""
    masks = torch.zeros(len(found), *size, dtype=torch.bool)
    for mask, ((x1, y1, x2, y2), _, _) in zip(masks, found, strict=True):
        mask[y1:y2, x1:x2] = True
    return {
        "boxes": torch.tensor([box for box, _, _ in found], dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor([score for _, score, _ in found]),
        "labels": torch.tensor([label for _, _, label in found], dtype=torch.int64),
        "masks": masks,
    }


def segment(id: int, label: int, score: float, is_thing: bool, area: int) -> dict[str, Any]:
    return {"id": id, "label": label, "score": pytest.approx(score), "is_thing": is_thing, "area": area}


def test_better_instances_come_first_and_stuff_gets_the_rest() -> None:
    # Row 0 and 1: columns 0-3 the better instance, 4-5 what is left of the other; below, stuff class 1.
    found = instances((4, 8), ((2, 0, 6, 2), 0.7, 2), ((0, 0, 4, 2), 0.9, 1))
    semantic = torch.ones(4, 8, dtype=torch.uint8)
    semantic[:, 7] = 0
    ids, segments = build()(found, semantic)
    assert ids.dtype == torch.int32
    assert ids.tolist() == [[1, 1, 1, 1, 2, 2, 4, 3]] * 2 + [[4, 4, 4, 4, 4, 4, 4, 3]] * 2
    # Half of the second instance (4 of 8 pixels) was taken: exactly the limit, so it stays.
    assert segments == [
        segment(1, 1, 0.9, True, 8),
        segment(2, 2, 0.7, True, 4),
        segment(3, 3, 1.0, False, 4),
        segment(4, 4, 1.0, False, 16),
    ]


def test_an_instance_that_is_mostly_covered_goes() -> None:
    found = instances((2, 8), ((0, 0, 5, 1), 0.9, 0), ((1, 0, 7, 1), 0.8, 0))  # 4 of 6 taken
    semantic = torch.full((2, 8), STUFF)
    assert [s["area"] for s in build(nms_thresh=1.0)(found, semantic)[1]] == [5]
    assert [s["area"] for s in build(nms_thresh=1.0, overlap=0.7)(found, semantic)[1]] == [5, 2]


def test_nms_looks_at_boxes_of_all_classes() -> None:
    found = instances((2, 10), ((0, 0, 6, 2), 0.8, 0), ((1, 0, 7, 2), 0.9, 2))  # IoU 10 / 14
    semantic = torch.full((2, 10), STUFF)
    assert [s["label"] for s in build(overlap=1.0)(found, semantic)[1]] == [2]
    assert [s["label"] for s in build(overlap=1.0, nms_thresh=0.75)(found, semantic)[1]] == [2, 0]


def test_low_scores_small_stuff_and_unknown_pixels_become_void() -> None:
    found = instances((4, 4), ((0, 0, 4, 1), 0.59, 0), ((0, 1, 4, 2), 0.6, 1))
    semantic = torch.tensor([[STUFF] * 4, [0] * 4, [0, 0, 0, 1], [255, 1, 1, 0]], dtype=torch.uint8)
    ids, segments = build(stuff_area=4)(found, semantic)
    assert ids.tolist() == [[0] * 4, [1] * 4, [2, 2, 2, 0], [0, 0, 0, 2]]
    assert segments == [segment(1, 1, 0.6, True, 4), segment(2, 3, 1.0, False, 4)]


def test_stuff_counts_only_what_no_instance_took() -> None:
    found = instances((2, 4), ((0, 0, 3, 2), 0.9, 0))
    semantic = torch.zeros(2, 4, dtype=torch.uint8)
    assert [s["area"] for s in build(stuff_area=3)(found, semantic)[1]] == [6]
    assert [s["area"] for s in build(stuff_area=2)(found, semantic)[1]] == [6, 2]


def test_no_instances_and_no_stuff() -> None:
    nothing, semantic = instances((3, 5)), torch.ones(3, 5, dtype=torch.int64)
    ids, segments = build()(nothing, semantic)
    assert ids.tolist() == [[1] * 5] * 3
    assert segments == [segment(1, THINGS + 1, 1.0, False, 15)]
    ids, segments = build()(nothing, torch.full((3, 5), STUFF))
    assert not ids.any()
    assert segments == []


def test_an_instance_without_pixels_is_left_out() -> None:
    found = instances((3, 5), ((0, 0, 2, 2), 0.9, 0))
    found["masks"][:] = False
    assert build(overlap=1.0)(found, torch.full((3, 5), STUFF))[1] == []


@pytest.mark.parametrize("seed", range(20))
def test_segments_share_no_pixel_and_their_areas_are_those_of_the_map(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count, size = 12, (40, 50)
    corners = torch.rand(count, 2, 2, generator=generator).sort(1).values * torch.tensor([50, 40])
    found = {
        "boxes": corners.flatten(1),
        "scores": torch.rand(count, generator=generator),
        "labels": torch.randint(0, THINGS, (count,), generator=generator),
        "masks": torch.zeros(count, *size, dtype=torch.bool),
    }
    for mask, (x1, y1, x2, y2) in zip(found["masks"], corners.flatten(1).long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = torch.rand(y2 - y1, x2 - x1, generator=generator) < 0.8
    semantic = torch.randint(0, STUFF + 1, size, generator=generator).to(torch.uint8)
    ids, segments = build(stuff_area=30, score_thresh=0.3)(found, semantic)
    present, areas = ids.unique(return_counts=True)
    table = dict(zip(present.tolist(), areas.tolist(), strict=True))
    void = table.pop(0, 0)
    assert {s["id"]: s["area"] for s in segments} == table
    assert len({s["id"] for s in segments}) == len(segments)
    assert sum(s["area"] for s in segments) + void == ids.numel()
    assert len({s["label"] for s in segments if not s["is_thing"]}) == sum(not s["is_thing"] for s in segments)
    for s in segments:
        pixels = ids == s["id"]
        if s["is_thing"]:
            assert s["label"] < THINGS
            assert found["masks"][(found["scores"] - s["score"]).abs().argmin()][pixels].all()
        else:
            assert (semantic[pixels] == s["label"] - THINGS).all()
            assert s["area"] >= 30
    scores = [s["score"] for s in segments if s["is_thing"]]
    assert scores == sorted(scores, reverse=True)


def test_unknown_options_are_named() -> None:
    with pytest.raises(TypeError, match=r"PANOSEG\.MERGE"):
        build(overlaps=0.5)
