"""Convergence: every criterion must pass, budgets end the loop and say which."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.loop import Assess, Budget
from mlip.criteria import Criterion
from mlip.jobs.ledger import Cost
from mlip.loop.assess_potential import _assess_test, decide_stop, force_interval, list_criteria
from mlip.potential import Prediction

GOOD_ERRORS = {
    "fresh": {"force_rmse": 0.05, "force_rms": 1.0},
    "audit": {"interval": [0.03, 0.06], "relative_upper": 0.06},
    "calibration": {"coverage": 0.95},
}
GOOD_PROPERTIES = {
    "lattice_constant": {"relative_error": 0.001},
    "bulk_modulus": {"relative_error": 0.01},
    "eos_rmse": 0.001,
}
STABLE = {"n_walkers": 4, "n_exploded": 0, "n_uncertain": 0}


def verdicts(errors=GOOD_ERRORS, properties=GOOD_PROPERTIES, exploration=STABLE) -> list[Criterion]:
    return list_criteria(errors, properties, exploration, Assess(force_rmse=0.15))


def test_everything_good_passes() -> None:
    assert all(criterion.passed for criterion in verdicts())
    assert len(verdicts()) == 8


@pytest.mark.parametrize(
    ("part", "value", "failing"),
    [
        ("errors", GOOD_ERRORS | {"fresh": {"force_rmse": 0.5, "force_rms": 9.0}}, "force RMSE on new"),
        ("errors", GOOD_ERRORS | {"fresh": {"force_rmse": 0.05, "force_rms": 0.06}}, "over RMS force"),
        ("errors", GOOD_ERRORS | {"audit": {"interval": [None, None]}}, "audit"),
        ("errors", GOOD_ERRORS | {"calibration": {"coverage": 0.2}}, "coverage"),
        ("properties", GOOD_PROPERTIES | {"bulk_modulus": {"relative_error": 0.2}}, "bulk modulus"),
        ("properties", GOOD_PROPERTIES | {"lattice_constant": {"relative_error": None}}, "lattice constant"),
        ("exploration", STABLE | {"n_exploded": 1}, "stopped early"),
        ("exploration", STABLE | {"n_uncertain": 1}, "stopped early"),
        ("errors", GOOD_ERRORS | {"audit": {"interval": [None, None], "n_failed": 3, "refused": "3 of 24"}}, "audit"),
    ],
)
def test_each_criterion_can_fail(part: str, value: dict, failing: str) -> None:
    failed = [c.name for c in verdicts(**{part: value}) if not c.passed]
    assert len(failed) == 1
    assert failing in failed[0]


def test_systems_without_an_equation_of_state_are_not_gated_by_it() -> None:
    assert len(verdicts(properties={})) == 5


def test_without_numbers_in_ev_per_angstrom_errors_count_relative_to_the_forces() -> None:
    """0.15 eV/Å is much in soft lithium and nothing in a melt."""
    certificate = GOOD_ERRORS["audit"] | {"interval": [0.0, 0.4], "relative_upper": 0.13}
    melt = GOOD_ERRORS | {"fresh": {"force_rmse": 0.4, "force_rms": 2.9}, "audit": certificate}
    criteria = list_criteria(melt, GOOD_PROPERTIES, STABLE, Assess())
    assert all(criterion.passed for criterion in criteria)
    assert [c.value for c in criteria if c.name.startswith("audit")] == [0.13]
    assert not any("new labels" in criterion.name for criterion in criteria)
    worse = melt | {"audit": certificate | {"relative_upper": 0.2}}
    unknown = melt | {"audit": certificate | {"relative_upper": None}}
    for errors in (worse, unknown):
        failed = [c.name for c in list_criteria(errors, GOOD_PROPERTIES, STABLE, Assess()) if not c.passed]
        assert failed == ["audit force RMSE over RMS force, upper bound"]
    in_numbers = list_criteria(melt, GOOD_PROPERTIES, STABLE, Assess(force_rmse=0.15, audit_force_rmse=0.15))
    assert len([c for c in in_numbers if not c.passed]) == 2


def test_audit_criterion_can_be_switched_off() -> None:
    criteria = list_criteria(GOOD_ERRORS | {"audit": None}, GOOD_PROPERTIES, STABLE, Assess(audit_force_rmse=None))
    assert all(criterion.passed for criterion in criteria)


def test_what_audits_may_have_missed_is_a_criterion_where_asked_for() -> None:
    seen = GOOD_ERRORS | {
        "audit": GOOD_ERRORS["audit"] | {"certificates": {"0": {"unseen": 0.1}, "1": {"unseen": 0.3}}}
    }

    def failed(errors: dict, limit: float) -> list[str]:
        settings = Assess(max_unseen=limit)
        return [c.name for c in list_criteria(errors, GOOD_PROPERTIES, STABLE, settings) if not c.passed]

    assert failed(seen, 0.35) == []
    assert failed(seen, 0.25) == ["share of frames that audits may have missed"]
    assert failed(GOOD_ERRORS | {"audit": None}, 0.25)[-1] == "share of frames that audits may have missed"


def hours(core: float = 0.0, gpu: float = 0.0) -> Cost:
    return Cost(3600 * core, 3600 * gpu)


def test_budgets_end_the_loop_before_they_are_exceeded_and_say_which() -> None:
    spent, needed = hours(1.0, 0.2), hours(0.5, 0.1)
    assert decide_stop(False, 10, 5, spent, needed, Budget()) == (False, "continue")
    assert decide_stop(True, 10, 5, spent, needed, Budget(labels=5, core_hours=0.1)) == (True, "converged")
    assert decide_stop(False, 10, 5, spent, needed, Budget(labels=15)) == (False, "continue")
    _, reason = decide_stop(False, 10, 5, spent, needed, Budget(labels=14))
    assert reason.startswith("budget: 10 labels used, 5 more")


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(core_hours=1.5, gpu_hours=0.31), "continue"),
        (Budget(core_hours=1.0), "budget: 1 of 1 core-hours used"),
        (Budget(core_hours=1.4), "budget: 1 of 1.4 core-hours used, the next iteration needs about 0.5"),
        (Budget(gpu_hours=0.1), "budget: 0.2 of 0.1 GPU-hours used"),
        (
            Budget(core_hours=9, gpu_hours=0.25),
            "budget: 0.2 of 0.25 GPU-hours used, the next iteration needs about 0.1",
        ),
    ],
)
def test_no_iteration_is_begun_that_would_exceed_the_budget(budget: Budget, reason: str) -> None:
    assert decide_stop(False, 10, 5, hours(1.0, 0.2), hours(0.5, 0.1), budget) == (reason != "continue", reason)


def test_nothing_left_to_label_ends_the_loop() -> None:
    stop, reason = decide_stop(False, 10, 0, hours(1.0), hours(), Budget())
    assert stop
    assert "nothing to label" in reason


def test_interval_covers_the_true_rmse() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        squared = (rng.normal(0, 0.1, (4, 24)) ** 2).mean(axis=1)
        low, high = force_interval(squared, 0.9)
        hits += low <= 0.1 <= high
    assert hits / 400 == pytest.approx(0.9, abs=0.05)


def test_one_structure_has_no_interval() -> None:
    assert force_interval([0.01], 0.9) == [None, None]


def test_errors_on_the_test_set_have_an_interval_over_its_structures() -> None:
    structures, predictions = [], []
    for error in (0.1, 0.3):
        atoms = bulk("Cu", cubic=True)
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((4, 3)))
        structures.append(atoms)
        forces, std = np.full((4, 3), error), np.full((4, 3), 0.2)
        predictions.append(Prediction(0.0, forces, None, np.zeros(1), forces[None], 0.1, std, std[:, 0]))
    potential = SimpleNamespace(predict=lambda given: predictions)
    errors = _assess_test(structures, potential.predict(structures), 0.9)
    assert errors["force_rmse"] == pytest.approx(np.sqrt((0.1**2 + 0.3**2) / 2))
    assert errors["interval"] == force_interval([0.1**2, 0.3**2], 0.9)
    assert (errors["confidence"], errors["n_structures"]) == (0.9, 2)
    assert _assess_test([], [], 0.9) is None
