"""Groups of walkers: what they mean, and what is refused with the remedy."""

import pytest

from mlip.config.system import Config, ConfigError, parse_config
from mlip.config.walkers import list_all_demands, list_demands, plan_walkers, plans_of, walkers_before

RAMP = [{"time": 0, "temperature": 300}, {"time": 500, "temperature": 2500}, {"time": 1000, "temperature": 300}]


def parse(*walkers: dict, n_structures: int = 2, overrides: tuple = (), **explore: object) -> Config:
    structures = [{"bulk": {"name": "Cu"}}, {"bulk": {"name": "Al"}}, {"bulk": {"name": "Au"}}][:n_structures]
    values = {"system": "x", "structures": structures, "explore": {"walkers": list(walkers), **explore}}
    return parse_config({**values, "overrides": list(overrides)})


def plans(config: Config) -> list:
    found = plan_walkers(config.structures, config.explore.walkers)
    assert len(found) == config.n_walkers
    return found


def test_groups_name_their_structures() -> None:
    found = plans(parse({"structures": [1], "temperatures": [300]}, {"ensemble": "npt", "temperatures": [400]}))
    assert [(plan.source_number, plan.ensemble) for plan in found] == [(0, "npt"), (1, "nvt"), (1, "npt")]
    assert found[1].source.bulk.name == "Al"


def test_pressures_are_a_ladder_and_pressure_is_one() -> None:
    ladder = {"ensemble": "npt", "temperatures": [300], "pressures": [0, 20, 50]}
    assert [plan.pressure for plan in plans(parse(ladder, n_structures=1))] == [0, 20, 50]
    one = {"ensemble": "npt", "temperatures": [300, 600], "pressure": 5}
    assert [plan.pressure for plan in plans(parse(one, n_structures=1))] == [5, 5]


def test_a_schedule_is_one_walker_that_begins_at_its_first_point() -> None:
    config = parse({"schedule": RAMP}, n_structures=1)
    (plan,) = plans(config)
    assert plan.temperature == 300
    assert [stage.temperature for stage in plan.schedule] == [300, 2500, 300]
    # Nothing is lost where settings are written out and read again, as overrides do.
    again = Config.model_validate(config.model_dump())
    assert plans(again) == [plan]
    pressures = [{"time": 0, "pressure": 10}, {"time": 900, "pressure": 40}]
    found = plans(parse({"ensemble": "npt", "temperatures": [300, 900], "schedule": pressures}, n_structures=1))
    assert [(plan.temperature, plan.pressure) for plan in found] == [(300, 10), (900, 10)]


@pytest.mark.parametrize(
    ("walker", "message"),
    [
        ({"structures": [0, 2]}, "explore.walkers.0.structures .* there is no structure 2; the 2 of `structures`"),
        ({"structures": [1, 1]}, "names a structure twice: .*1, 1"),
        ({"structures": []}, "structures"),
        ({"repeat": [2, 0, 1]}, r"repeat must be at least 1 .*\[2, 0, 1\]"),
        ({"ensemble": "npt", "pressure": 3, "pressures": [0, 5]}, r"pressure \(3\) or pressures \(\[0.0, 5.0\]\), not"),
        ({"pressures": [0, 5]}, r"\[0.0, 5.0\] do nothing in nvt; set ensemble: npt"),
        ({"pressure": 5}, r"\[5.0\] do nothing in nvt; set ensemble: npt"),
        ({"pressure": [0, 5]}, "several in `pressures`"),
        ({"schedule": [[0, 300], [900, 600]]}, r"a point needs names: \{time: 0, temperature: 300\}.*\[0, 300\]"),
        ({"schedule": RAMP[:1]}, r"two points or more .* got \[0.0\]"),
        ({"schedule": [RAMP[0], RAMP[2], RAMP[1]]}, r"rise from 0, got \[0.0, 1000.0, 500.0\]"),
        ({"schedule": RAMP[1:]}, r"rise from 0, got \[500.0, 1000.0\]"),
        (
            {"schedule": [*RAMP, {"time": 2000, "temperature": 300}]},
            "ends at 2000 fs, .* 1000 fs; raise n_steps to 2000",
        ),
        ({"schedule": [RAMP[0], {"time": 9, "pressure": 3}]}, "has no temperature at 9 fs; give it at every point"),
        ({"schedule": [{"time": 0}, {"time": 9}]}, "neither temperatures nor pressures"),
        (
            {"schedule": RAMP, "temperatures": [300, 600]},
            r"temperatures \[300.0, 600.0\] do too; remove",
        ),
        ({"schedule": [{"time": 0, "pressure": 0}, {"time": 9, "pressure": 3}]}, "does nothing in nvt"),
        ({"start": "middle"}, "ideal.*last.*uncertain"),
    ],
)
def test_what_has_no_meaning_is_refused_with_value_and_remedy(walker: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(walker)


def test_walkers_go_on_from_those_of_their_own_structure_and_supercell() -> None:
    group = {"temperatures": [300, 600], "repeat": [2, 1, 1]}
    before = plans(parse({"temperatures": [300]}, group))
    after = plans(parse({**group, "start": "last"}, {"temperatures": [300], "start": "last"}, {"start": "uncertain"}))
    places = [(plan.source_number, plan.repeat[0]) for plan in after]
    assert places == [(0, 2), (0, 2), (0, 1), (0, 1), (0, 1), (1, 2), (1, 2), (1, 1), (1, 1), (1, 1)]
    found = [walkers_before(number, after, before) for number in range(len(after))]
    # Before: 0 small, 1 and 2 large of the first structure; 3 small, 4 and 5 large of the second.
    assert found == [[1, 2], [1], [0], [], [], [5], [4, 5], [3], [], []]


def test_what_walkers_ask_of_structures_does_not_depend_on_their_temperatures() -> None:
    cold, hot = (
        list_demands(plans(parse({"ensemble": "npt", "temperatures": [t], "pressures": [0, t / 100]})))
        for t in (300, 600)
    )
    assert cold == hot
    assert [(d.source_number, d.is_pressed) for d in cold] == [(0, False), (0, True), (1, False), (1, True)]


def test_a_group_runs_as_long_as_it_says() -> None:
    config = parse({"schedule": RAMP, "n_steps": 1000}, {"temperatures": [300]}, n_structures=1, n_steps=200)
    assert [plan.n_steps for plan in plans(config)] == [1000, None]
    with pytest.raises(ConfigError, match=r"ends at 1000 fs, .* = 900 fs; raise n_steps to 1000"):
        parse({"schedule": RAMP, "n_steps": 900}, n_steps=5000)


def test_demands_of_every_iteration_are_listed_once() -> None:
    later = {"from_iteration": 1, "explore": {"walkers": [{"repeat": [3, 3, 3], "max_atoms": 50_000}]}}
    demands = list_all_demands(parse({"repeat": [2, 2, 2]}, n_structures=1, overrides=(later,)))
    assert [(d.repeat, d.max_atoms) for d in demands] == [((2, 2, 2), 20_000), ((3, 3, 3), 50_000)]


def test_a_crystal_alone_gets_walkers_that_climb() -> None:
    config = parse_config({"system": "x", "structures": [{"bulk": {"name": "Cu"}}]})
    found = plans_of(config, 0)
    assert len(found) == config.n_walkers == 6
    assert [plan.climbs for plan in found] == 2 * ["present", "present", "below"]
    assert {plan.ensemble for plan in found} == {"nvt", "npt"}
    # As walkers do whose temperatures nobody has said; those that have are where they were.
    assert {plan.climbs for plan in plans(parse({"temperatures": [300]}))} == {""}


def test_walkers_go_on_where_they_were_and_begin_anew_now_and_then() -> None:
    config = parse({"temperatures": [300, 600]}, {"temperatures": [900], "start": "ideal"}, n_structures=1)
    starts = [[plan.start for plan in plans_of(config, iteration)] for iteration in range(5)]
    assert starts[1:] == [["last", "last", "ideal"]] * 2 + [["last", "ideal", "ideal"], ["ideal", "last", "ideal"]]
    ramp = parse({"schedule": RAMP}, n_structures=1)
    assert {plan.start for iteration in range(5) for plan in plans_of(ramp, iteration)} == {"ideal"}
    always = parse({"temperatures": [300]}, n_structures=1, fresh_every=1)
    assert {plan.start for iteration in range(5) for plan in plans_of(always, iteration)} == {"ideal"}
    assert walkers_before(1, plans_of(config, 2), plans_of(config, 1)) == [1]


def test_walkers_below_the_rung_go_on_from_those_at_it() -> None:
    groups = [{"temperatures": "ladder"}, {"temperatures": "ladder", "volumes": [0.1]}]
    config = parse(*groups, n_structures=1)
    earlier, later = plans_of(config, 0), plans_of(config, 3)
    assert [walkers_before(number, later, earlier) for number in range(6)] == [[0], [], [0, 1], [3], [4], []]


def test_what_rungs_ask_of_structures_is_known_from_the_start() -> None:
    rungs = [{"temperature": 300}, {"temperature": 900, "repeat": [2, 2, 2]}, {"temperature": 900, "pressure": 20}]
    config = parse({"ensemble": "npt", "temperatures": "ladder"}, n_structures=1, ladder={"rungs": rungs})
    demands = [(d.repeat, d.is_pressed) for d in list_all_demands(config)]
    assert demands == [((1, 1, 1), False), ((1, 1, 1), True), ((2, 2, 2), False)]


@pytest.mark.parametrize(
    ("explore", "message"),
    [
        ({"ladder": {"rungs": []}}, "rungs"),
        (
            {"ladder": {"rungs": [{"temperature": 300, "repeat": [0, 1, 1]}]}},
            r"repeat must be at least 1 .*\[0, 1, 1\]",
        ),
        ({"ladder": {"first": 900, "top": 300}}, r"top \(300 K\) is below first \(900 K\)"),
        ({"ladder": {"factor": 1.0}}, "factor"),
        ({"walkers": [{"temperatures": "stairs"}]}, "ladder"),
        ({"walkers": [{"temperatures": "ladder", "schedule": RAMP}]}, "`temperatures: ladder`; remove one"),
        ({"fresh_every": 0}, "fresh_every"),
    ],
)
def test_ladders_without_meaning_are_refused(explore: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"system": "x", "structures": [{"bulk": {"name": "Cu"}}], "explore": explore})


BIASED = {"temperatures": [300], "uncertainty_bias": 10}


def test_biased_groups_are_like_others_to_the_plan() -> None:
    found = plans(parse({"temperatures": [300]}, BIASED, n_structures=1))
    assert [plan.uncertainty_bias for plan in found] == [0, 10]
    assert list_demands(found) == list_demands(found[:1])


def test_biased_walkers_and_plain_ones_go_on_from_their_own_kind() -> None:
    before = plans(parse(BIASED, {"temperatures": [300]}, n_structures=1))
    after = plans(parse({"temperatures": [300, 400], "start": "last"}, {**BIASED, "start": "last"}, n_structures=1))
    assert [walkers_before(k, after, before) for k in range(3)] == [[1], [1], [0]]
    ladder = {"temperatures": "ladder", "start": "last"}
    climbing = plans(parse(ladder, {**ladder, "uncertainty_bias": 10}, n_structures=1))
    assert climbing[5].climbs == "below"
    assert walkers_before(5, climbing, climbing) == [3, 4]


@pytest.mark.parametrize(
    ("walkers", "train", "message"),
    [
        ([BIASED], {}, "walkers.0.uncertainty_bias is 10 .* no other group explores structure 0, .*add a group"),
        ([BIASED, {"structures": [0]}], {}, "no other group explores structure 1"),
        (
            [{**BIASED, "temperatures": "ladder"}, {}],
            {},
            "no other group with `temperatures: ladder` explores structure 0",
        ),
        ([{**BIASED, "ensemble": "npt"}, {}], {}, "has no stress .* npt could feel; set ensemble: nvt"),
        ([BIASED, {}], {"uncertainty": "last_layer"}, "last_layer has no members .*; set train.uncertainty: committee"),
        ([{**BIASED, "uncertainty_bias": -1}, {}], {}, "uncertainty_bias"),
    ],
)
def test_a_bias_that_cannot_be_or_stands_alone_is_refused(walkers: list, train: dict, message: str) -> None:
    structures = [{"bulk": {"name": "Cu"}}, {"bulk": {"name": "Al"}}]
    with pytest.raises(ConfigError, match=message):
        parse_config({"system": "x", "structures": structures, "explore": {"walkers": walkers}, "train": train})


def test_a_bias_that_begins_later_is_checked_there() -> None:
    with pytest.raises(ConfigError, match="uncertainty_bias is 10 at iteration 2"):
        parse({}, overrides=({"from_iteration": 2, "explore": {"walkers": [BIASED]}},))
