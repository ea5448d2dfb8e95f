from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from latentbridge.models.backbones.bagel.rectified_flow import guided, noised, sampling_times, training_times


def test_a_shift_moves_times_towards_the_noise():
    assert sampling_times(5, 1.0).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert sampling_times(5, 3.0).tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])


def test_steps_along_the_velocity_stay_on_the_path_and_end_clean():
    rng = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 5, generator=rng), torch.randn(2, 3, 5, generator=rng)
    point = noise
    for time, following in pairwise(sampling_times(4, 3.0).tolist()):
        point = point - (time - following) * (noise - clean)
        torch.testing.assert_close(point, noised(clean, noise, torch.full((2,), following)), atol=1e-6, rtol=0)
    torch.testing.assert_close(point, clean, atol=1e-6, rtol=0)


def test_each_item_has_its_own_time():
    clean, noise = torch.zeros(2, 3, 5), torch.ones(2, 3, 5)
    mixed = noised(clean, noise, torch.tensor([0.25, 1.0]))
    assert mixed[0].unique().tolist() == [0.25] and mixed[1].unique().tolist() == [1.0]


def test_training_times_are_logit_normal():
    times = training_times(4000, torch.Generator().manual_seed(0))
    shares = [float((times < torch.tensor(z).sigmoid()).float().mean()) for z in (-1.0, 0.0, 1.0)]
    assert shares == pytest.approx([0.159, 0.5, 0.841], abs=0.03)  # four standard errors and more


def test_guidance_pushes_away_and_never_lengthens():
    given = torch.tensor([[[3.0], [4.0]], [[3.0], [4.0]], [[1.0], [0.0]]])
    bare = torch.tensor([[[3.0], [0.0]], [[3.0], [8.0]], [[2.0], [0.0]]])
    pushed = guided(given, bare, 2.0).squeeze(-1)
    shrunk = 5 / 73**0.5  # (3, 8) is longer than (3, 4), so it keeps the direction only
    torch.testing.assert_close(pushed[0], torch.tensor([3 * shrunk, 8 * shrunk]))
    assert pushed[1].tolist() == [3, 0] and pushed[2].tolist() == [0, 0]
    torch.testing.assert_close(guided(given, bare, 1.0), given)


def test_norms_are_kept_by_picture_or_by_token_and_no_smaller_than_asked():
    given, bare = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [3.0, 0.0]]])
    pushed = torch.tensor([[[6.0, 8.0], [-1.0, 0.0]]])  # norms 10 and 1, of given 5 and 1
    torch.testing.assert_close(guided(given, bare, 2.0), pushed * (26 / 101) ** 0.5)
    torch.testing.assert_close(guided(given, bare, 2.0, renorm_min=0.8), pushed * 0.8)
    by_token = torch.tensor([[[3.0, 4.0], [-1.0, 0.0]]])
    torch.testing.assert_close(guided(given, bare, 2.0, renorm="channel"), by_token)
    torch.testing.assert_close(guided(given, bare, 2.0, renorm="text_channel"), by_token)


def test_image_guidance_follows_that_of_the_text_which_alone_text_channel_scales():
    given, bare = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 0.0]]])
    seen = {"without_image": torch.tensor([[[3.0, 0.0]]]), "image_guidance": 2.0}
    torch.testing.assert_close(guided(given, bare, 2.0, renorm="text_channel", **seen), torch.tensor([[[3.0, 8.0]]]))
    pushed = torch.tensor([[[9.0, 16.0]]])
    torch.testing.assert_close(guided(given, bare, 2.0, **seen), pushed * 5 / 337**0.5)
    torch.testing.assert_close(guided(given, bare, 2.0, renorm="channel", renorm_min=1.0, **seen), pushed)
