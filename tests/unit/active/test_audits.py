"""Audits are different frames, drawn with exactly the chances that are stored with them."""

import numpy as np
import pytest

from mlip.active.audits import draw_audits, include_frames

PREDICTED = np.exp(1.9 * np.random.default_rng(0).standard_normal(60))


def test_chances_sum_to_the_draw_and_none_exceeds_one() -> None:
    chance = include_frames(PREDICTED, 20)
    assert chance.sum() == pytest.approx(20)
    assert chance.max() <= 1
    assert np.sum(chance == 1) > 1, "the largest predictions leave chance over to others, more than once"
    assert chance.min() >= 0.5 * 20 / 60 * 0.999


def test_all_frames_are_certain_where_no_more_are_there() -> None:
    assert include_frames(PREDICTED, 60).tolist() == [1.0] * 60
    audits = draw_audits(PREDICTED[:3], np.zeros(3, int), 8, np.random.default_rng(0))
    assert audits.rows.tolist() == [0, 1, 2]
    assert audits.probability.tolist() == [1.0] * 3


def test_predictions_of_nothing_draw_uniformly() -> None:
    assert include_frames(np.zeros(8), 2) == pytest.approx(np.full(8, 0.25))


@pytest.mark.parametrize("n", [1, 4, 9])
def test_frames_are_drawn_as_often_as_said(n: int) -> None:
    systems = np.array(["b", "a"] * 30)
    drawn, said, rng = np.zeros(60), np.zeros(60), np.random.default_rng(1)
    for _ in range(4000):
        audits = draw_audits(PREDICTED, systems, n, rng)
        assert len(np.unique(audits.rows)) == len(audits.rows)
        drawn[audits.rows] += 1
        said[audits.rows] = audits.probability
    seen = said > 0
    deviation = (drawn[seen] / 4000 - said[seen]) / np.sqrt(said[seen] * (1 - said[seen]) / 4000 + 1e-12)
    assert np.abs(deviation).max() < 4.5
    assert drawn.sum() / 4000 == pytest.approx(n, rel=0.02)


def test_systems_get_equal_shares_whatever_is_predicted_of_them() -> None:
    systems = np.repeat([0, 1, 2], 20)
    predicted = np.where(systems == 2, 1e6, 1.0) * PREDICTED
    audits = draw_audits(predicted, systems, 9, np.random.default_rng(2))
    assert np.bincount(systems[audits.rows]).tolist() == [3, 3, 3]


def test_weights_by_the_stored_chances_estimate_the_mean_without_bias() -> None:
    errors = PREDICTED * np.exp(0.7 * np.random.default_rng(3).standard_normal(60))
    rng, estimates = np.random.default_rng(4), []
    for _ in range(3000):
        audits = draw_audits(PREDICTED, np.zeros(60, int), 6, rng)
        estimates.append(np.sum(errors[audits.rows] / audits.probability) / 60)
    assert np.mean(estimates) == pytest.approx(errors.mean(), rel=0.02)


def test_neighbours_of_one_walker_are_not_drawn_together() -> None:
    rng = np.random.default_rng(5)
    gaps = [np.diff(draw_audits(np.ones(100), np.zeros(100, int), 5, rng).rows).min() for _ in range(200)]
    assert min(gaps) >= 19


@pytest.mark.parametrize(
    ("predicted", "n", "floor", "message"),
    [
        ([1.0, -2.0], 1, 0.3, "negative or not finite, the first is -2.0"),
        ([1.0, np.nan], 1, 0.3, "the first is nan"),
        ([1.0, 2.0], 0, 0.3, "cannot draw 0 audits"),
        ([1.0, 2.0], 1, 0.0, "floor 0.0 is not in"),
        ([1.0, 2.0, 3.0], 1, 0.3, r"shapes \(3,\) and \(2,\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(predicted: list[float], n: int, floor: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_audits(np.array(predicted), np.zeros(2, int), n, np.random.default_rng(0), floor=floor)


def test_no_frames_give_no_audits() -> None:
    assert draw_audits(np.zeros(0), np.zeros(0, int), 4, np.random.default_rng(0)).rows.tolist() == []
