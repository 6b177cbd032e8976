"""Transforms: pure functions of sample and generator that keep uint8 and never write to the picture they get."""

from __future__ import annotations

import numpy as np
import pytest

from pet.config.rules import TRANSFORM_NAMES
from pet.data.structures import Sample
from pet.data.transforms import TRANSFORMS, Chain, build_transforms
from pet.data.transforms.augment_ops import OPERATIONS
from pet.data.transforms.auto_augment import POLICIES
from pet.data.transforms.build import MARKERS
from pet.data.transforms.erase import RandomErasing
from pet.data.transforms.geometry import CenterCrop, RandomCrop, RandomResizedCrop, Resize
from pet.data.transforms.mix import Cutmix, Mixup


def sample(height: int = 40, width: int = 60, label: int = 1) -> Sample:
    image = np.random.default_rng(label).integers(0, 256, (height, width, 3), np.uint8)
    image.setflags(write=False)
    return Sample(image, {"label": label}, 0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


OPTIONS = {"mixup": {"num_classes": 5, "prob": 1.0}, "cutmix": {"num_classes": 5, "prob": 1.0}, "random_erasing": {"prob": 1.0}}


# Copy-paste refuses samples without masks; tests/data/test_instance_transforms.py looks at it.
@pytest.mark.parametrize("name", [name for name in TRANSFORMS.names() if name != "copy_paste"])
def test_every_transform_is_reproducible_keeps_uint8_and_leaves_its_input_alone(name):
    chain = Chain(build_transforms([name], OPTIONS), lambda generator: sample(label=2))
    source = sample()
    before = source.image.copy()
    for seed in range(25):
        first, second = chain(source, rng(seed)), chain(source, rng(seed))
        assert first.image.dtype == np.uint8
        assert first.image.ndim == 3
        assert np.array_equal(first.image, second.image)
    assert np.array_equal(source.image, before)
    assert source.target == {"label": 1}


def test_unknown_names_options_and_values_are_named():
    with pytest.raises(KeyError, match="no transform is named 'resise'. Did you mean 'resize'"):
        build_transforms(["resise"])
    with pytest.raises(TypeError, match="transform 'resize' has no option 'scale'. Did you mean 'scales'"):
        build_transforms(["resize"], {"resize": {"scale": 3}})
    with pytest.raises(ValueError, match="transform 'auto_aug': POLICY is 'x'"):
        build_transforms(["auto_aug"], {"auto_aug": {"policy": "x"}})


def test_normalize_must_follow_what_changes_the_picture():
    assert len(build_transforms(["center_crop", "to_tensor", "normalize", "random_erasing"])) == 2
    with pytest.raises(ValueError, match="transform 'center_crop' comes after 'normalize'"):
        build_transforms(["resize", "normalize", "center_crop"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scales": (20,)}, (20, 30)),
        ({"scales": 20}, (20, 30)),
        ({"scales": (80,), "max_size": 90}, (60, 90)),
        ({"scales": (13, 17), "scales_sampling": "force_size"}, (13, 17)),
        ({"scales": 24, "scales_sampling": "force_size"}, (24, 24)),
        ({"scales": ((13, 17),), "scales_sampling": "force_size"}, (13, 17)),
        ({"scales_sampling": "scale_factor", "scale_factor": (2.0, 2.0)}, (80, 120)),
    ],
)
def test_resize_reaches_the_size_it_was_told(options, expected):
    assert Resize(**options)(sample(), rng()).image.shape[:2] == expected


def test_resize_draws_scales_from_the_list_or_the_range():
    drawn = {Resize((20, 32))(sample(), rng(s)).image.shape[0] for s in range(30)}
    assert drawn == {20, 32}
    ranged = {Resize((20, 24), scales_sampling="range")(sample(), rng(s)).image.shape[0] for s in range(60)}
    assert ranged == {20, 21, 22, 23, 24}
    for bad in ({"scales": (20,), "scales_sampling": "range"}, {"scales": ((3, 4),)}, {"scales": (0,)}):
        with pytest.raises(ValueError, match="SCALES is"):
            Resize(**bad)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (333, 500), (256, 256), (1, 1000), (257, 1023)])
def test_the_shorter_side_is_exact(height, width):
    assert min(Resize(256)(sample(height, width), rng()).image.shape[:2]) == 256


def test_crops_have_their_size_even_from_small_pictures():
    for shape in ((50, 70), (40, 60), (10, 10)):
        assert RandomCrop((32, 48), padding=4)(sample(*shape), rng()).image.shape == (32, 48, 3)
        assert CenterCrop((32, 48))(sample(*shape), rng()).image.shape == (32, 48, 3)
    sizes = {RandomCrop(((8, 9), (10, 11)))(sample(), rng(s)).image.shape[:2] for s in range(30)}
    assert sizes == {(8, 9), (10, 11)}


def test_random_crop_reaches_every_position_and_fills_the_border():
    white = Sample(np.full((8, 8, 3), 255, np.uint8), {}, 0)
    seen = {
        tuple(np.argwhere(RandomCrop((8, 8), padding=1, fill=(9, 9, 9))(white, rng(s)).image[..., 0] == 255)[0])
        for s in range(200)
    }
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}
    corner = next(
        i for s in range(200) if (i := RandomCrop((8, 8), padding=1, fill=(9, 8, 7))(white, rng(s)).image)[0, 0, 0] != 255
    )
    assert corner[0, 0].tolist() == [9, 8, 7]


def test_random_resized_crop_falls_back_to_the_middle_of_an_extreme_picture():
    assert RandomResizedCrop(8, scale=(1.0, 1.0)).choose(10, 1000, rng()) == (0, 493, 10, 13)
    assert RandomResizedCrop(8, scale=(1.0, 1.0)).choose(1000, 10, rng()) == (493, 0, 13, 10)


def test_erasing_covers_the_area_it_was_told():
    shares = []
    for seed in range(200):
        place = RandomErasing(area=(0.1, 0.2), ratio=(0.5, 2.0)).choose(100, 120, rng(seed))
        assert place is not None
        top, left, height, width = place
        assert 0 <= top <= 100 - height
        assert 0 <= left <= 120 - width
        assert 0.48 < height / width < 2.1
        shares.append(height * width / 12000)
    assert 0.095 < min(shares) < 0.11 < 0.19 < max(shares) < 0.205
    flat = RandomErasing(1.0, mode="mean", pixel_mean=(1, 2, 3))(sample(), rng()).image
    assert (flat == (1, 2, 3)).all(-1).mean() > 0.01
    grey = Sample(np.zeros((200, 200, 3), np.uint8), {}, 0)
    noise = RandomErasing(1.0, area=(0.3, 0.3))(grey, rng()).image
    covered = noise[noise.any(-1)].astype(float)
    assert np.allclose(covered.mean(0), (123.7, 116.3, 103.5), atol=3)


# --------------------------------------------------------------------------------------------------- mixup, cutmix


def test_mixup_mixes_pictures_and_labels_by_the_same_share():
    black, white = (Sample(np.full((8, 8, 3), v, np.uint8), {"label": k}, 0) for k, v in ((0, 0), (1, 255)))
    chain = Chain([Mixup(3, alpha=1.0, prob=1.0)], lambda generator: white)
    shares = []
    for seed in range(200):
        mixed = chain(black, rng(seed))
        assert "label" not in mixed.target
        scores = mixed.target["scores"]
        assert scores.dtype == np.float32
        assert scores.sum() == pytest.approx(1)
        assert mixed.image.mean() / 255 == pytest.approx(scores[1], abs=0.003)
        shares.append(scores[1])
    assert 0.4 < np.mean(shares) < 0.6  # Beta(1, 1)


def test_cutmix_labels_follow_the_area_really_covered():
    black, white = (Sample(np.full((20, 30, 3), v, np.uint8), {"label": k}, 0) for k, v in ((0, 0), (1, 255)))
    chain = Chain([Cutmix(2, prob=1.0)], lambda generator: white)
    for seed in range(100):
        mixed = chain(black, rng(seed))
        assert (mixed.image[..., 0] == 255).mean() == pytest.approx(mixed.target["scores"][1], abs=1e-6)


def test_all_samples_leave_with_scores_and_none_is_mixed_twice():
    drawn = []

    def draw(generator: np.random.Generator) -> Sample:
        drawn.append(1)
        return sample(label=2)

    chain = Chain([Mixup(5, prob=0.5), Cutmix(5, prob=1.0)], draw)
    results = [chain(sample(), rng(s)) for s in range(50)]
    assert all(r.target.keys() == {"scores"} for r in results)
    assert len(drawn) == 50
    never = Chain([Mixup(5, prob=0.0)], draw)(sample(), rng())
    assert never.target["scores"].tolist() == [0, 1, 0, 0, 0]


def test_the_partner_goes_through_the_transforms_before_the_mix():
    chain = Chain(
        build_transforms(
            ["random_resized_crop", "mixup"], {"random_resized_crop": {"size": 16}, "mixup": {"num_classes": 3, "prob": 1.0}}
        ),
        lambda g: sample(90, 20, 2),
    )
    assert chain(sample(), rng()).image.shape == (16, 16, 3)
    with pytest.raises(ValueError, match="pictures of one size, but got 40x60 and 90x20"):
        Chain([Mixup(3, prob=1.0)], lambda g: sample(90, 20, 2))(sample(), rng())
    with pytest.raises(ValueError, match="label 9 does not fit MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES 5"):
        Chain([Mixup(5, prob=1.0)], lambda g: sample())(sample(label=9), rng())


def test_policies_use_known_operations():
    for policy in POLICIES.values():
        assert len(policy) == 25
        assert {step[0] for pair in policy for step in pair} <= OPERATIONS.keys()


def test_former_names_of_openmmlab_work_with_a_warning(caplog):
    with caplog.at_level("WARNING", logger="pet"):
        (only,) = build_transforms(["resize", "ImageToTensor", "normalize"])
    assert isinstance(only, Resize)
    assert "'ImageToTensor' is called 'to_tensor'" in caplog.text
    with pytest.raises(ValueError, match="comes after 'to_tensor'"):
        build_transforms(["DefaultFormatBundle", "resize"])


def test_the_config_knows_the_names_of_all_transforms():
    assert set(TRANSFORM_NAMES) == {*TRANSFORMS.names(), *MARKERS}
