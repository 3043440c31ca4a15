"""When walkers climb, stay, run shorter or are done."""

import pytest

from mlip.active.ladder import SHORTEST, Climb, Observed, climb, place_below
from mlip.config.ladder import Ladder, Rung

LADDER = Ladder()
START = Climb().settled(LADDER, lindemann=1500.0)
CALM = Observed(n_walkers=4, expected=0.2)


def test_rungs_follow_from_what_the_potential_says_of_melting() -> None:
    assert (START.first, START.top) == (300.0, 4500.0)
    temperatures = [rung.temperature for rung in START.rungs(LADDER)]
    assert temperatures == pytest.approx([300 * 1.5**k for k in range(7)])
    soft = Climb().settled(LADDER, lindemann=160.0)
    assert (soft.first, soft.top) == (40.0, 480.0)
    given = Ladder(first=100, top=1000, factor=3)
    assert [r.temperature for r in Climb().settled(given, 1500.0).rungs(given)] == [100, 300, 900]
    unknown = Climb().settled(LADDER, lindemann=float("nan"))
    assert [r.temperature for r in unknown.rungs(LADDER)] == [300]
    # Asked once: later potentials do not shift the rungs.
    assert START.settled(LADDER, lindemann=9000.0) == START


def test_walkers_climb_by_one_and_by_two_where_it_is_easy() -> None:
    assert climb(START, CALM, LADDER).rung == 1
    cold = Climb().settled(LADDER, lindemann=2100.0)
    assert climb(cold, Observed(4, expected=0.1), LADDER).rung == 2
    assert climb(cold, Observed(4, expected=0.2), LADDER).rung == 1
    assert climb(START, Observed(4, expected=0.1), LADDER).rung == 1  # 675 K would be near melting
    audited = Observed(4, expected=0.1, audited=0.25, n_audits=4, audited_rung=0)
    after = climb(START, audited, LADDER)
    assert after.rung == 1
    assert "error of 4 audits at rung 0 0.25" in after.reason


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (Observed(4, n_stopped=1, n_exploded=1, n_molten=4, expected=0.1), "1 of 4 walkers stopped early"),
        (Observed(4, n_stopped=1, expected=0.1), "1 of 4 walkers stopped early"),
        (Observed(4, expected=0.4), "expected error 0.4 of the RMS force, limit 0.3"),
        (Observed(4, expected=0.1, audited=0.5, n_audits=6, audited_rung=2), "error of 6 audits at rung 2 0.5"),
        (Observed(4), "no frame to judge by"),
        (Observed(0), "no walker"),
    ],
)
def test_walkers_stay_while_the_rung_does_not_allow_more(seen: Observed, reason: str) -> None:
    after = climb(START, seen, LADDER)
    assert (after.rung, after.done) == (0, False)
    assert reason in after.reason


def test_time_shortens_while_walkers_stop_and_lengthens_again() -> None:
    state, lengths = START, []
    for n_stopped in (1, 2, 1, 1, 1, 0):
        state = climb(state, Observed(4, n_stopped=n_stopped, expected=0.9), LADDER)
        lengths.append(state.length)
    assert lengths == [0.5, 0.25, 0.125, SHORTEST, SHORTEST, 2 * SHORTEST]
    assert climb(state, CALM, LADDER).length == 1.0


def test_the_ladder_ends_in_the_melt_once_its_errors_are_small() -> None:
    molten = {"n_walkers": 4, "n_molten": 2}
    assert not climb(START, Observed(**molten, expected=0.5), LADDER).done
    done = climb(START, Observed(**molten, expected=0.2), LADDER)
    assert (done.done, done.rung, done.reason[:6]) == (True, 0, "molten")
    # Walkers that begin in the crystal again are no reason to climb on from what is known to melt.
    before = climb(START, Observed(**molten, expected=0.5), LADDER)
    again = climb(before, Observed(4, n_molten=1, expected=0.2), LADDER)
    assert (again.done, again.rung, again.melts_at) == (True, 0, 0)
    # Of what audits a rung below say, the melt knows nothing.
    unheard = climb(START, Observed(**molten, expected=0.2, audited=0.1, n_audits=4, audited_rung=-1), LADDER)
    assert (unheard.done, unheard.reason[-17:]) == (False, "no audit here yet")
    # What was done is not for ever: a new potential may fail at the top.
    assert not climb(done, Observed(**molten, expected=0.5), LADDER).done


def test_a_melt_that_explodes_goes_on_a_rung_lower() -> None:
    hot = climb(START, CALM, LADDER)
    boiling = Observed(4, n_stopped=1, n_exploded=1, n_molten=3, expected=0.1)
    assert climb(hot, boiling, LADDER).rung == 0
    assert climb(hot, Observed(4, n_stopped=1, n_molten=3, expected=0.1), LADDER).rung == 1
    assert climb(hot, Observed(4, n_stopped=1, n_exploded=1, expected=0.1), LADDER).rung == 1


def test_rungs_that_are_given_are_climbed_to_the_last_one() -> None:
    ladder = Ladder(rungs=(Rung(temperature=300), Rung(temperature=300, pressure=20), Rung(temperature=900)))
    state = Climb().settled(ladder, float("nan"))
    molten = Observed(4, n_molten=4, expected=0.1)
    for rung in (1, 2):
        state = climb(state, molten, ladder)
        assert (state.rung, state.done) == (rung, False)
    state = climb(state, molten, ladder)
    assert (state.rung, state.done) == (2, True)
    # A shorter ladder in a later iteration: on its last rung.
    shorter = Ladder(rungs=ladder.rungs[:2])
    assert state.settled(shorter, float("nan")).rung == 1


def test_states_survive_their_file() -> None:
    state = climb(START, CALM, LADDER)
    assert Climb.from_dict(state.as_dict() | {"seen": {}}) == state
    assert Climb.from_dict({}) == Climb()


def test_walkers_below_visit_every_lower_rung() -> None:
    assert {place_below(3, iteration) for iteration in range(6)} == {0, 1, 2}
    assert place_below(0, 5) == 0
