import math

import pytest
import torch
from torch.nn import functional as F

from models.losses import (
    FusionLoss,
    GradientLoss,
    Ssim,
    color_loss,
    element_maximum_loss,
    group_contrastive_loss,
    info_nce,
    intensity_consistency_loss,
    intensity_max_loss,
)

WEIGHTS = {
    "intensity_max": 15.0,
    "intensity_consistency": 1.0,
    "color": 20.0,
    "gradient": 10.0,
    "ssim": 2.0,
}


def flat(value: float) -> torch.Tensor:
    return torch.full((1, 3, 16, 16), value)


def test_fusion_loss_of_three_equal_images_is_zero():
    x = torch.rand(2, 1, 16, 16).expand(2, 3, 16, 16)
    terms = FusionLoss(**WEIGHTS)(x, x, x)
    assert terms.keys() == WEIGHTS.keys()
    for name, term in terms.items():
        assert float(term) == pytest.approx(0, abs=1e-5), name


def test_fusion_loss_applies_the_weights():
    fused, vi, ir = torch.rand(3, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ones = FusionLoss(**dict.fromkeys(WEIGHTS, 1.0))(fused, vi, ir)
    weighted = FusionLoss(**WEIGHTS)(fused, vi, ir)
    for name, weight in WEIGHTS.items():
        torch.testing.assert_close(weighted[name], weight * ones[name])


def test_fusion_loss_is_float32_under_autocast():
    fused, vi, ir = torch.rand(3, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    loss = FusionLoss(**WEIGHTS)
    plain = loss(fused, vi, ir)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(fused, vi, ir)
    assert all(torch.equal(plain[name], mixed[name]) for name in plain)


def test_intensity_max_takes_the_whole_brighter_pixel():
    vi = torch.tensor([0.9, 0.0, 0.0]).view(1, 3, 1, 1)  # mean 0.3
    ir = torch.full((1, 3, 1, 1), 0.4)
    assert float(intensity_max_loss(ir, vi, ir)) == 0
    assert float(intensity_max_loss(vi, vi, flat(0.2)[..., :1, :1])) == 0


def test_the_papers_content_loss_takes_the_maximum_of_each_channel():
    """Three channels, of which vi has the larger first and ir the two others."""
    vi = torch.tensor([0.9, 0.0, 0.0]).view(1, 3, 1, 1)
    ir = torch.full((1, 3, 1, 1), 0.4)
    assert float(element_maximum_loss(ir, vi, ir)) == pytest.approx(0.5 / 3)
    assert float(element_maximum_loss(vi, vi, ir)) == pytest.approx(0.8 / 3)


def test_fusion_loss_takes_the_content_target_it_is_told():
    vi = torch.tensor([0.9, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    ir = flat(0.4)
    by_pixel, by_element = (
        FusionLoss(**WEIGHTS, intensity_by_element=chosen)(ir, vi, ir) for chosen in (False, True)
    )
    assert float(by_pixel["intensity_max"]) == 0
    assert float(by_element["intensity_max"]) == pytest.approx(15 * 0.5 / 3)
    assert all(torch.equal(by_pixel[k], by_element[k]) for k in WEIGHTS if k != "intensity_max")


def test_intensity_consistency_known_value():
    loss = intensity_consistency_loss(flat(0.5), flat(0.7), flat(0.1))
    assert float(loss) == pytest.approx((0.2 + 0.4) / 2)


def test_color_ignores_brightness():
    assert float(color_loss(flat(0.2), flat(0.9))) == pytest.approx(0, abs=1e-6)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    gray = torch.zeros(1, 3, 1, 1)
    assert float(color_loss(red, gray)) == pytest.approx(0.168736 + 0.5)


def test_gradient_known_value():
    """A vertical step of 1 has |Gx| = 4 in the two columns beside it."""
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1
    zero = torch.zeros(1, 3, 8, 8)
    assert float(GradientLoss()(zero, step, zero)) == pytest.approx(4 * 2 / 8)
    assert float(GradientLoss()(zero, step.mT, zero)) == pytest.approx(4 * 2 / 8)


def test_ssim_known_values():
    ssim = Ssim()
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float(ssim(x, x)) == pytest.approx(1, abs=1e-5)
    constant = float(ssim(flat(0.2), flat(0.4)))
    expected = (2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4)
    assert constant == pytest.approx(expected, abs=1e-4)


def test_ssim_filters_a_line_with_its_window():
    similarity = Ssim()
    line = torch.rand(1, 1, 1, 20, dtype=torch.float64)
    expected = F.conv1d(line[0], similarity.window.double().view(1, 1, -1))
    band = similarity._band(20).double()
    torch.testing.assert_close(band @ line[0, 0, 0], expected[0, 0])


def test_ssim_refuses_images_below_its_window():
    with pytest.raises(ValueError, match="larger crop"):
        Ssim()(torch.rand(1, 3, 12, 16), torch.rand(1, 3, 12, 16))


def test_info_nce_known_value():
    anchor = torch.tensor([[1.0, 0.0]])
    positives = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])  # cosine 1 and 0
    negatives = torch.tensor([[[0.0, 3.0]]])  # cosine 0
    expected = -math.log(math.e**2 / (math.e**2 + 1)) - math.log(1 / 2)
    loss = info_nce(anchor, positives, negatives, temperature=0.5)
    assert float(loss) == pytest.approx(expected)


def test_info_nce_without_the_positive_in_the_denominator():
    """The paper's: one negative of cosine 0, so each term is 0 less the positive's logit."""
    anchor = torch.tensor([[1.0, 0.0]])
    positives = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])  # cosine 1 and 0
    negatives = torch.tensor([[[0.0, 3.0]]])  # cosine 0
    loss = info_nce(anchor, positives, negatives, temperature=0.5, positive_in_denominator=False)
    assert float(loss) == pytest.approx(-2)
    groups = (anchor, anchor), (positives, positives), negatives
    both = group_contrastive_loss(*groups, temperature=0.5, positive_in_denominator=False)
    # Each anchor is the other's negative of cosine 1: ln(1 + e²) less the logits 2 and 0, twice.
    assert float(both) == pytest.approx(2 * (2 * math.log(1 + math.e**2) - 2))


def test_info_nce_is_float32_under_autocast():
    generator = torch.Generator().manual_seed(0)
    anchor = torch.randn(2, 8, generator=generator)
    positives, negatives = torch.randn(2, 2, 3, 8, generator=generator)
    plain = info_nce(anchor, positives, negatives, temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(anchor, positives, negatives, temperature=0.1), plain)


def test_group_contrastive_loss_uses_the_other_anchor():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 2, 8, generator=generator)
    positives = torch.randn(2, 2, 3, 8, generator=generator)
    negatives = torch.randn(2, 6, 8, generator=generator)
    loss = group_contrastive_loss(
        (first, second), (positives[0], positives[1]), negatives, temperature=0.1
    )
    expected = 0.0
    for anchor, other, group in ((first, second, positives[0]), (second, first, positives[1])):
        rivals = torch.cat([negatives, other[:, None]], dim=1)  # B 7 D
        for k in range(3):
            row = torch.cat([group[:, k : k + 1], rivals], dim=1)  # B 8 D
            logits = F.cosine_similarity(anchor[:, None], row, dim=-1) / 0.1
            expected += float(F.cross_entropy(logits, torch.zeros(2, dtype=torch.long)))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
