import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.stats import kstest

from deepmedic.config.augmentation import AffineAugmentation
from deepmedic.data.affine import affine_matrix, augment_case, draw_affine
from deepmedic.data.randomness import stream

GOLDEN = Path(__file__).parents[1] / "golden" / "augmentation"
RECORDS = json.loads((GOLDEN / "augmentation.json").read_text())["affine"]
MATRIX = affine_matrix((20.0, -10.0, 30.0), 1.1)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"matrix{record['k']}")
def test_matrices_of_the_original(record):
    with np.load(GOLDEN / "augmentation.npz") as arrays:
        expected = arrays[f"aug.matrix{record['k']}"]
    matrix = affine_matrix(tuple(record["angles_degrees_xyz"]), record["isotropic_scale"])
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-15)


class TestDraws:
    def test_probability(self):
        drawn = [draw_affine(stream(n), AffineAugmentation(probability=0.3)) for n in range(600)]
        assert 140 < sum(matrix is not None for matrix in drawn) < 220

    def test_never_and_always(self):
        assert all(draw_affine(stream(n), AffineAugmentation()) is None for n in range(50))
        assert all(draw_affine(stream(n), AffineAugmentation(probability=1.0)) is not None for n in range(50))

    def test_the_same_again(self):
        config = AffineAugmentation(probability=1.0)
        np.testing.assert_array_equal(draw_affine(stream(3), config), draw_affine(stream(3), config))

    @pytest.mark.parametrize("plane", [0, 1, 2])
    def test_angles_and_scales_are_uniform(self, plane):
        """With a rotation in one plane only, angle and scale can be read off the matrix."""
        limits = tuple(30.0 if k == plane else 0.0 for k in range(3))
        config = AffineAugmentation(probability=1.0, max_rotation=limits, max_scaling=0.2)
        first, second = ((0, 1), (0, 2), (1, 2))[plane]
        matrices = np.array([draw_affine(stream(n), config) for n in range(400)])
        scales = np.cbrt(np.linalg.det(matrices))
        angles = np.rad2deg(np.arctan2(matrices[:, first, second], matrices[:, first, first]))
        assert kstest(scales, "uniform", (0.8, 0.4)).pvalue > 0.001
        assert kstest(angles, "uniform", (-30, 60)).pvalue > 0.001


class TestCases:
    def augmented(self, case, device="cpu", **settings):
        return augment_case(case, MATRIX, AffineAugmentation(probability=1.0, **settings), device)

    @staticmethod
    def oracle(image, order, mode="nearest", fill=0.0):
        centre = np.floor(0.5 * np.array(image.shape))
        return ndimage.affine_transform(
            np.asarray(image), MATRIX.T, centre - centre @ MATRIX, order=order, mode=mode, cval=fill
        )

    def test_everything_is_resampled_in_the_same_way(self, make_case, device):
        case = make_case(with_roi=True, n_weight_maps=2)
        result = self.augmented(case, device)
        assert {t.device.type for t in (result.channels, result.labels, result.roi, result.weight_maps)} == {device}
        for channel in range(2):
            np.testing.assert_allclose(
                result.channels[channel].cpu(), self.oracle(case.channels[channel], 1), atol=1e-5
            )
            np.testing.assert_allclose(
                result.weight_maps[channel].cpu(), self.oracle(case.weight_maps[channel], 1), atol=1e-5
            )
        np.testing.assert_array_equal(result.labels.cpu(), self.oracle(case.labels, 0))
        np.testing.assert_array_equal(result.roi.cpu(), self.oracle(case.roi.to(torch.uint8), 0) > 0)
        assert (result.labels.dtype, result.roi.dtype) == (torch.uint8, torch.bool)
        assert (result.name, result.padding, result.size) == (case.name, case.padding, case.size)

    def test_border_values_are_those_of_the_result(self, make_case):
        result = self.augmented(make_case())
        x, y, z = np.ix_([0, -1], [0, -1], [0, -1])
        corners = result.channels.numpy()[:, x, y, z]
        np.testing.assert_allclose(result.border_values, corners.mean(axis=(1, 2, 3)), rtol=1e-6)

    def test_the_case_itself_is_not_changed(self, make_case):
        case, untouched = make_case(with_roi=True), make_case(with_roi=True)
        self.augmented(case, boundary_mode="min")
        assert torch.equal(case.channels, untouched.channels)
        assert torch.equal(case.labels, untouched.labels)

    def test_what_is_missing_stays_missing(self, make_case):
        result = self.augmented(make_case(labels=None))
        assert (result.labels, result.roi, result.weight_maps) == (None, None, None)

    def test_minimum_of_each_channel_outside(self, make_case):
        case = make_case(with_roi=True)
        case.channels[1] += 100
        result = self.augmented(case, boundary_mode="min", order_images=3)
        for channel in range(2):
            image = case.channels[channel]
            expected = self.oracle(image, 3, "constant", float(image.min()))
            np.testing.assert_allclose(result.channels[channel], expected, rtol=1e-5, atol=1e-5)

    def test_constant_is_for_intensities_only(self, make_case):
        case = make_case(with_roi=True, n_weight_maps=1)
        result = self.augmented(case, boundary_mode="constant", constant=-7.0)
        np.testing.assert_allclose(result.channels[0], self.oracle(case.channels[0], 1, "constant", -7.0), atol=1e-5)
        np.testing.assert_array_equal(result.labels, self.oracle(case.labels, 0, "constant"))
        np.testing.assert_allclose(result.weight_maps[0], self.oracle(case.weight_maps[0], 1, "constant"), atol=1e-5)
        assert not result.roi[0, 0, 0]

    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_labels_of_higher_order_are_rounded_to_values_that_occur(self, order, make_case):
        case = make_case(with_roi=True)
        result = self.augmented(case, order_labels=order, order_roi=order)
        exact = self.oracle(case.labels.float(), order)
        expected = np.clip(np.floor(exact + 0.5), 0, 2)
        away_from_ties = np.abs(exact - np.floor(exact) - 0.5) > 1e-5
        np.testing.assert_array_equal(result.labels.numpy()[away_from_ties], expected[away_from_ties])
        assert result.labels.dtype == torch.uint8
        exact = self.oracle(case.roi.float(), order)
        away_from_ties = np.abs(exact - 0.5) > 1e-5
        np.testing.assert_array_equal(result.roi.numpy()[away_from_ties], exact[away_from_ties] > 0.5)

    def test_weights_stay_above_zero(self, make_case):
        weights = np.zeros((1, 8, 7, 6), np.float32)
        weights[0, 4, 3, 3] = 1
        result = self.augmented(make_case(weight_maps=weights), order_weight_maps=3)
        assert result.weight_maps.min() == 0
        assert result.weight_maps.max() > 0.1
