"""The configuration: strict, explained, and the same as its generated documents."""

from pathlib import Path

import pytest
import yaml

from mlip.config.schema import stale_documents
from mlip.config.system import load_config, parse_config
from mlip.config.values import ConfigError

ROOT = Path(__file__).resolve().parents[3]
MINIMAL = {"system": "si", "structures": [{"bulk": {"name": "Si"}}]}


def test_shipped_configurations_are_valid() -> None:
    for path in (ROOT / "config").glob("*.yaml"):
        assert load_config(path).system == path.stem


def test_schema_and_reference_are_generated_from_the_models() -> None:
    assert stale_documents() == [], "run `mlip config-docs`"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sytem": "x"}, "sytem: unknown key"),
        ({"train": {"cutof": 5.0}}, "train.cutof: unknown key"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"max_iterations": "many"}, "found 'many'"),
        ({"structures": []}, "structures"),
        ({"structures": [{"file": "a.cif", "bulk": {"name": "Si"}}]}, "exactly one of `file` and `bulk`"),
        ({"select": {"n_structures": 2, "n_audit": 3}}, "n_audit (3) cannot exceed"),
        ({"train": {"cutoff": -1}}, "train.cutoff"),
        ({"train": {"cutoff": float("nan")}}, "train.cutoff"),
        ({"label": {"calculator": "os; rm"}}, "label.calculator"),
        ({"min_iterations": 9}, "min_iterations (9) exceeds max_iterations"),
        ({"max_iterations": 1}, "exceeds max_iterations (1); set min_iterations: 1, or raise max_iterations"),
        ({"system": "../escape"}, "system"),
        ({"overrides": [{"from_iteration": 2, "select": {"n_structure": 3}}]}, "n_structure"),
        ({"overrides": [{"from_iteration": 2, "label": {"parameters": {}}}]}, "labels of two settings do not mix"),
        ({"overrides": [{"from_iteration": 2, "assess": {"eos_volumes": []}}]}, "the reference is labelled once"),
        ({"overrides": [{"from_iteration": 2, "select": {"n_audit": 1}}]}, "n_audit is 1 at iteration 2"),
        ({"select": {"n_audit": 1}}, "needs at least 2 audit frames"),
        ({"assess": {"eos_structures": [1]}}, "no starting structure 1; there are 1"),
        ({"assess": {"eos_structures": [0, 0]}}, "need different structures"),
        ({"assess": {"eos_volumes": [0.0, 0.0, 0.0, 0.0, 0.0]}}, "both sides of 0"),
        (
            {"label": {"parameters": {"convergence": {"density": "1e-6"}}}},
            "convergence.density: '1e-6' is text to YAML",
        ),
        ({"prepare": {"rattle": []}}, "prepare.rattle"),
        ({"explore": {"walkers": [{"volumes": [-2]}]}}, "volumes"),
    ],
)
def test_mistakes_are_named_with_key_and_remedy(change: dict, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(MINIMAL | change, "my.yaml")
    message = str(caught.value)
    assert expected in message
    assert message.startswith("my.yaml")
    assert len(message.splitlines()) < 25


def test_missing_key_is_required() -> None:
    with pytest.raises(ConfigError, match="system: this key is required"):
        parse_config({"structures": MINIMAL["structures"]})


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "a: [", "\x00\x01"])
def test_files_that_are_no_mapping_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(path)


def test_yaml_cannot_execute_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    marker = tmp_path / "executed"
    path.write_text(f"system: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(ConfigError):
        load_config(path)
    assert not marker.exists()


def test_overrides_apply_from_their_iteration_on() -> None:
    config = parse_config(MINIMAL | {"overrides": [{"from_iteration": 2, "select": {"n_structures": 30}}]})
    sizes = [config.at_iteration(i).select.n_structures for i in range(4)]
    default = config.select.n_structures
    assert sizes == [default, default, 30, 30]


def test_overrides_merge_deeply_and_are_judged_together() -> None:
    config = parse_config(
        MINIMAL
        | {
            "label": {"guards": {"max_force": 10.0}},
            "overrides": [
                {"from_iteration": 3, "select": {"n_audit": 15}},
                {"from_iteration": 2, "select": {"n_structures": 20}, "label": {"guards": {"energy_window": 3.0}}},
            ],
        }
    )
    assert config.at_iteration(3).select.n_audit == 15
    assert config.at_iteration(2).label.guards.max_force == 10.0
    assert config.at_iteration(2).label.guards.energy_window == 3.0


def test_number_of_walkers_counts_the_ladder() -> None:
    walkers = [{"temperatures": [300, 600], "volumes": [-0.1, 0.0, 0.1]}, {"ensemble": "npt"}]
    config = parse_config(MINIMAL | {"explore": {"walkers": walkers}})
    from mlip.config.walkers import plan_walkers

    assert config.n_walkers == len(plan_walkers(config.structures, config.explore.walkers)) == 2 * 3 + 2


def test_reference_page_lists_every_shipped_key() -> None:
    page = (ROOT / "config" / "README.md").read_text()
    for path in (ROOT / "config").glob("*.yaml"):
        for key, value in yaml.safe_load(path.read_text()).items():
            for name in value if isinstance(value, dict) else [""]:
                full = f"{key}.{name}".rstrip(".")
                assert f"`{full}`" in page or f"`{full}." in page, full
