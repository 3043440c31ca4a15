"""What makes two labels comparable: their identity, and what an escalation may change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ase import Atoms

from mlip.config.label import Label
from mlip.io.extxyz import read_structures
from mlip.io.files import read_json, sha256_of
from mlip.jobs import digests
from mlip.labels.calculator import FailedLabelError, StoredCalculator
from mlip.labels.codes.gpaw import GPAW_LADDER
from mlip.labels.escalation import difference, escalation_ladder, foreign_changes
from mlip.labels.identity import settings_identity
from mlip.labels.importing import LabelError
from mlip.labels.refusals import check_settings
from mlip.labels.store import LabelStore
from mlip.loop.label_references import label_references
from mlip.loop.label_structures import label_structures

TESTS = Path(__file__).parents[2]
SPRING = "fake_calculators.SpringCalculator"
EMT = "ase.calculators.emt.EMT"


@pytest.fixture(autouse=True)
def _import_fakes(monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS))


def identity(parameters: dict, calculator: str = EMT) -> str:
    return sha256_of(settings_identity(calculator, parameters))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"ecut": 400}, {"ecut": 400.0}),
        ({"kpts": {"size": (2, 2, 2)}}, {"kpts": {"size": [2.0, 2, 2]}}),
        ({"a": [{"b": -0.0}]}, {"a": [{"b": 0}]}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_equal_settings_have_one_identity(one, other):
    assert identity(one) == identity(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"spinpol": True}, {"spinpol": 1}),
        ({"spinpol": False}, {"spinpol": 0.0}),
        ({"ecut": 400}, {"ecut": 400.5}),
        ({"a": "1"}, {"a": 1}),
        ({"a": None}, {}),
    ],
)
def test_other_settings_have_another(one, other):
    assert identity(one) != identity(other)


def test_gpaw_has_one_name():
    assert identity({}, "gpaw") == identity({}, "gpaw.GPAW")
    with pytest.raises(LabelError, match="ecut"):
        check_settings(Label(calculator="gpaw.GPAW", parameters={"mode": {"name": "pw", "ecut": 20}}))


def test_files_count_by_content(tmp_path):
    names = [tmp_path / "a.model", tmp_path / "elsewhere ü.model", tmp_path / "c.model"]
    for path, content in zip(names, ("same", "same", "other"), strict=True):
        path.write_text(content)
    first, second, third = (identity({"deep": [{"model": str(path)}]}) for path in names)
    assert first == second
    assert first != third
    names[0].write_text("edited")
    assert identity({"deep": [{"model": str(names[0])}]}) not in (first, third)
    # A log that grows with every calculation must not make every label a new one.
    log = {"logfile": str(names[2])}
    before = identity(log)
    names[2].write_text("longer")
    assert identity(log) == before
    assert identity({"a": "x" * 5000}) != identity({"a": "y" * 5000})  # too long for a path


def test_setups_of_gpaw_count(tmp_path, monkeypatch):
    monkeypatch.delenv("GPAW_SETUP_PATH", raising=False)
    plain = identity({}, "gpaw")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for setup in ("Si.PBE.gz", "C.PBE.gz") if name == "one" else ("C.PBE.gz", "Si.PBE.gz"):
            (tmp_path / name / setup).write_bytes(setup.encode())

    def with_path(*folders: str) -> str:
        monkeypatch.setenv("GPAW_SETUP_PATH", os.pathsep.join(str(tmp_path / folder) for folder in folders))
        return identity({}, "gpaw")

    assert with_path("one") == with_path("two") != plain
    (tmp_path / "two" / "Si.PBE.gz").write_bytes(b"another dataset")
    assert with_path("one") != with_path("two")
    assert with_path("one", "two") != with_path("two", "one")
    assert with_path("missing") != plain
    assert identity({}) == identity({})


def test_identity_is_the_same_in_every_process():
    code = (
        "from mlip.io.files import sha256_of; from mlip.labels.identity import settings_identity\n"
        f"print(sha256_of(settings_identity({EMT!r}, {{'b': {{'x': 1.0}}, 'a': (1, 2)}})))"
    )
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=TESTS.parent, env=environment, capture_output=True, check=True
        )
        assert done.stdout.decode().strip() == identity({"a": [1, 2], "b": {"x": 1}})


@pytest.mark.parametrize(
    ("calculator", "escalation", "named"),
    [
        ("gpaw.GPAW", {"occupations": {"width": 0.3}}, "occupations"),
        ("gpaw", {"unheard_of": 1}, "unheard_of"),
        (
            "ase.calculators.espresso.Espresso",
            {"input_data": {"system": {"degauss": 0.1}}},
            "input_data.system.degauss",
        ),
        ("ase.calculators.vasp.Vasp", {"ENCUT": 300}, "ENCUT"),
    ],
)
def test_known_physics_is_refused_at_any_depth(calculator, escalation, named):
    with pytest.raises(LabelError, match=f"label.escalations: `{named}`"):
        check_settings(Label(calculator=calculator, escalations=(escalation,)))


def test_steps_that_only_steer_are_accepted():
    steps = {"input_data": {"electrons": {"mixing_beta": 0.1, "electron_maxstep": 200}}}, {"algo": "All", "amix": 0.1}
    check_settings(Label(calculator=EMT, escalations=steps))
    assert not foreign_changes(difference({}, steps[0] | steps[1]))
    assert foreign_changes({"algo": "GW0", "nelm": 300}) == {"algo": "GW0"}


def test_difference_names_changed_leaves_only():
    before = {"mixer": {"beta": 0.1, "nmaxold": 5}, "kpts": (2, 2, 2), "tol": 1}
    after = {"mixer": {"beta": 0.05, "nmaxold": 5.0}, "kpts": [2, 2, 2], "tol": 1, "new": None}
    assert difference(before, after) == {"mixer.beta": 0.05, "new": None}


def test_gpaw_ladder_fits_the_users_own_solver():
    own = {"mixer": {"backend": "fft"}, "eigensolver": {"name": "rmm-diis", "keep_htpsit": True}, "maxiter": 900}
    assert escalation_ladder(Label(), own) == [{"maxiter": 900}, {"maxiter": 900}]
    assert escalation_ladder(Label(), {"mixer": {"method": "separate"}}) == list(GPAW_LADDER)
    assert escalation_ladder(Label(), {"eigensolver": "dav"})[1]["eigensolver"] == {"name": "dav", "niter": 3}


def chain(n_atoms: int, distance: float = 2.5) -> Atoms:
    atoms = Atoms(f"Si{n_atoms}", positions=[[distance * i, 0.0, 0.1 * i**2] for i in range(n_atoms)])
    atoms.info["structure_id"] = f"chain-{n_atoms}"
    return atoms


def label(folder: Path, escalations: tuple[dict, ...], **parameters) -> tuple[dict, list[Atoms]]:
    settings = Label(
        calculator=SPRING, parameters={"behaviours": {"3": "unconverged"}} | parameters, escalations=escalations
    )
    label_structures(
        [chain(2), chain(3)], settings, store=folder / "store", iteration=0, shard=0,
        out_structures=folder / "s.extxyz", out_records=folder / "s.json",
    )  # fmt: skip
    failing = read_json(folder / "s.json")["records"][1]
    return LabelStore(folder / "store").get(failing["key"]), read_structures(folder / "s.extxyz")


def settings_ids(structures: list[Atoms]) -> list[str]:
    return [atoms.info["label_settings"] for atoms in structures]


def test_escalations_are_merged_into_nested_parameters(tmp_path):
    record, (plain, escalated) = label(
        tmp_path, ({"mixer": {"beta": 0.1}}, {"maxiter": 200}), mixer={"beta": 0.3, "kerker": {"q": 1.5}}
    )
    assert record["status"] == "ok"
    assert record["changed"] == {"mixer.beta": 0.1, "maxiter": 200}
    assert plain.info["label_settings"] == escalated.info["label_settings"]


def test_a_child_sees_the_merged_parameters(tmp_path, monkeypatch):
    seen = []
    from mlip.labels.process.parent import Worker

    ask = Worker.ask
    monkeypatch.setattr(Worker, "ask", lambda self, r, t: seen.append(r["parameters"]) or ask(self, r, t))
    mixer = {"beta": 0.3, "kerker": {"q": 1.5, "p": 2}}
    label(tmp_path, ({"mixer": {"kerker": {"q": 9}}}, {"maxiter": 200}), mixer=mixer)
    assert [p["mixer"] for p in seen[-2:]] == [{"beta": 0.3, "kerker": {"q": 9, "p": 2}}] * 2
    assert seen[-1]["maxiter"] == 200


def test_unknown_changes_give_settings_of_their_own(tmp_path):
    steps = ({"maxiter": 200, "seconds": 0.01},)
    record, structures = label(tmp_path, steps)
    assert record["changed"] == {"maxiter": 200, "seconds": 0.01}
    assert len(set(settings_ids(structures))) == 2
    _, again = label(tmp_path, steps)  # from the store
    assert settings_ids(again) == settings_ids(structures)
    _, other = label(tmp_path, ())
    assert settings_ids(other) == settings_ids(structures), "the stored label keeps its mark under another ladder"


def test_where_labels_must_agree_a_marked_one_is_refused(tmp_path):
    settings = Label(
        calculator=SPRING,
        parameters={"behaviours": {"3": "unconverged"}},
        escalations=({"maxiter": 200, "seconds": 0.01},),
    )
    with StoredCalculator(settings, tmp_path) as calculator, pytest.raises(FailedLabelError, match="seconds"):
        calculator.calculate(chain(3))
    box = chain(3)
    box.set_cell([20.0] * 3)
    box.pbc = True
    with pytest.raises(LabelError, match=r"reference-eos-00: escalated.*seconds"):
        label_references({0: box}, settings, [0.0], store=tmp_path, out=tmp_path / "r.extxyz")


@pytest.mark.parametrize("module", ["label_structures", "label_references", "label_isolated_atoms"])
def test_the_digest_of_labels_contains_the_worker(module):
    assert {"mlip.labels.process.worker", "mlip.labels.triage", "mlip.labels.identity"} <= digests.code_of(
        f"mlip.loop.{module}"
    )


def test_a_changed_worker_changes_the_digest(monkeypatch):
    before = digests.code_digest.__wrapped__("mlip.loop.label_structures")
    meaning = digests._meaning
    monkeypatch.setattr(digests, "_meaning", lambda name: meaning(name) + "x" * name.endswith(".worker"))
    assert digests.code_digest.__wrapped__("mlip.loop.label_structures") != before


def test_labels_do_not_depend_on_how_properties_are_computed():
    """Else a change of the assessment would label, and so train, everything again."""
    for module in ("mlip.loop.label_structures", "mlip.loop.label_isolated_atoms"):
        assert "mlip.properties.eos" not in digests.code_of(module)
