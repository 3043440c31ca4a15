"""One label from request to record: store, guards, child process, escalation."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.label import Label
from mlip.config.merging import merge_deeply
from mlip.io.files import sha256_of
from mlip.labels.codes.registry import find_code
from mlip.labels.escalation import difference, escalation_ladder, foreign_changes
from mlip.labels.guards import check_results, check_structure, find_traps
from mlip.labels.identity import settings_identity
from mlip.labels.importing import LabelError
from mlip.labels.process.launcher import launcher_of
from mlip.labels.process.parent import Worker
from mlip.labels.process.signals import end_if_told, store_first
from mlip.labels.refusals import check_settings
from mlip.labels.store import LabelStore, decode_structure, encode_structure, label_key
from mlip.labels.triage import LabelStatus

LOG_TAIL = 4096  # characters of a failed label's log that its record keeps
OUTPUT_TAIL = 20_000  # bytes of each of the code's outputs that the log of a failed label keeps

WRAPPED = (
    "`{path}` makes ASE's calculator of {code}: convergence is read from its outputs, but without `label.escalations`"
    " nothing is tried again, and its program gets one thread"
)


@dataclass(frozen=True)
class Outcome:
    """What became of one label request; ``record`` is what the store holds.

    ``settings_id`` is the labeller's own, unless an escalation changed more than the way to
    the solution: then the label has settings of its own.
    """

    key: str
    settings_id: str
    status: LabelStatus
    reason: str
    cached: bool
    record: dict[str, Any]

    def summary(self, structure_id: str) -> dict[str, Any]:
        """The entry of a shard's record file."""
        return {
            "structure_id": structure_id,
            "key": self.key,
            "status": self.status,
            "reason": self.reason,
            "attempts": len(self.record["attempts"]),
            "cached": self.cached,
            "core_seconds": self.record["core_seconds"],
            "wall_seconds": self.record["wall_seconds"],
            "warnings": self.record["warnings"],
        }


class Labeller:
    """Labels structures one by one; a context manager that owns the child process.

    Args:
        settings: the ``label`` section.
        store: folder of the label store.
        scratch: folder for files of running calculations; a temporary one if None.
    """

    def __init__(self, settings: Label, store: Path, scratch: Path | None = None) -> None:
        check_settings(settings)
        self.settings = settings
        self.code = find_code(settings.calculator)
        self.parameters, self.profile = self.code.split(settings.parameters, settings.profile)
        self.store = LabelStore(store)
        self.identity = self._identity()
        # As JSON gives it back, to compare with records: lists, no tuples.
        self.ladder = json.loads(json.dumps(escalation_ladder(settings, self.parameters)))
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        self._scratch = Path(tempfile.mkdtemp(prefix="labels-", dir=scratch)).absolute()
        self._worker = Worker(settings.calculator, self._scratch, launcher_of(settings.calculator))
        self._worker.own_threads = self.code.runs_program

    def __enter__(self) -> Labeller:
        return self

    def __exit__(self, *exception: object) -> None:
        self._worker.__exit__()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def settings_id(self) -> str:
        """Short hash that equal settings share: labels with different ones must not be mixed."""
        return sha256_of(self.identity)[:16]

    def _identity(self) -> dict[str, Any]:
        return settings_identity(self.settings.calculator, self.parameters, self.profile)

    def _settings_id_of(self, record: dict[str, Any]) -> str:
        foreign = foreign_changes(record["changed"])
        return sha256_of([self.identity, foreign])[:16] if foreign else self.settings_id

    def label(self, atoms: Atoms) -> Outcome:
        """Label ``atoms``, from the store if it is there.

        Raises:
            LabelError: when the settings are at fault, or the code needs a cell and there is none.
        """
        files = self._element_files(atoms)
        key = label_key(atoms, self.identity | files)
        record = self.store.get(key)
        cached = record is not None and self._is_reusable(record)
        if record is None or not cached:
            with store_first():
                record = self._compute(key, atoms, files)
                self._hold_together(atoms, record, files)
                self.store.put(key, record)
        status, reason = self._judge(atoms, record)
        return Outcome(key, self._settings_id_of(record), status, reason, cached, record)

    def _hold_together(self, atoms: Atoms, record: dict[str, Any], files: dict[str, Any]) -> None:
        """Refuse a label of another program, or of other files, than those of the same settings before it.

        Files are looked at again: one that was replaced after the key was made belongs to another key.
        """
        if self.code.runs_program and (self._element_files(atoms) != files or self._identity() != self.identity):
            raise LabelError(
                f"label: a file that {self.code.name} reads, e.g. a pseudopotential, has changed since these labels"
                " were begun, and nobody knows which one made this label: it is dropped. Put the first file back, or"
                " run again and label everything anew"
            )
        facts = {"program": record["ran"]} if record.get("ran") else {}
        if not files:  # else they are in the key
            facts |= {f"file-{name}": c["sha256"] for name, c in record.get("element_files", {}).items()}
        self.store.agree(self.settings_id, facts)

    def _element_files(self, atoms: Atoms) -> dict[str, Any]:
        files = self.code.element_files(sorted(set(atoms.get_chemical_symbols())), self.parameters, self.profile)
        return {"element_files": files} if files else {}

    def _is_reusable(self, record: dict[str, Any]) -> bool:
        if record["results"] is not None:
            return True  # the guards judge it anew
        if not self.settings.reuse_failures:
            return False
        if record["status"] == "rejected":
            return record["guards"] == self.settings.guards.model_dump()
        return record["status"] == "unconverged" and record["ladder"] == self.ladder

    def _judge(self, atoms: Atoms, record: dict[str, Any]) -> tuple[LabelStatus, str]:
        """Status under the present guards, which may differ from those at the time of the calculation."""
        results = record["results"]
        if results is None:
            return record["status"], record["reason"]
        reason = check_structure(atoms, self.settings.guards) or check_results(
            results, len(atoms), self.settings.guards
        )
        return ("rejected", reason) if reason else ("ok", "")

    def _compute(self, key: str, atoms: Atoms, files: dict[str, Any]) -> dict[str, Any]:
        record: dict[str, Any] = {
            "structure_id": str(atoms.info.get("structure_id", "")),
            "structure": encode_structure(atoms),
            **self.identity,
            **files,
            "guards": self.settings.guards.model_dump(),
            "ladder": self.ladder,
            "changed": {},  # leaves of the parameters that the last attempt had otherwise
            "warnings": find_traps(atoms, self.settings.calculator, self.parameters),
            "status": "rejected",
            "results": None,
            "attempts": [],
            "core_seconds": 0.0,
            "wall_seconds": 0.0,
            "peak_mb": None,
            "log_tail": "",
        }
        refusal = check_structure(atoms, self.settings.guards)
        if refusal:
            return record | {"reason": refusal, "structure": _finite_or_none(record["structure"])}
        self.code.check_cell(atoms)
        return self._run_ladder(key, atoms, record)

    def _run_ladder(self, key: str, atoms: Atoms, record: dict[str, Any]) -> dict[str, Any]:
        """Calculate, escalating as long as the SCF does not converge; every attempt is recorded."""
        deadline = time.monotonic() + 60.0 * self.settings.timeout_minutes
        parameters, log = self.code.parameters_for(decode_structure(record["structure"]), self.parameters), ""
        first = parameters
        answer: dict[str, Any] = {}
        for changes in [{}, *self.ladder]:
            parameters = merge_deeply(parameters, changes)
            answer, text = self._attempt(record["structure"], parameters, max(0.1, deadline - time.monotonic()))
            log += f"=== attempt {len(record['attempts']) + 1}: changes {changes}\n{text}"
            attempt = {name: answer.get(name, "") for name in ("status", "reason", "core_seconds", "wall_seconds")}
            record["attempts"].append({"changes": changes} | attempt)
            record["peak_mb"] = max(record["peak_mb"] or 0.0, answer.get("peak_mb", 0.0)) or None
            if answer["status"] != "unconverged":
                break
        record["changed"] = difference(first, parameters)
        for name in ("core_seconds", "wall_seconds"):
            record[name] = sum(attempt[name] for attempt in record["attempts"])
        record |= {"status": answer["status"], "reason": answer.get("reason", "")} | _told(answer)
        record["warnings"] += _warn_of_wrapper(self.settings.calculator, answer)
        if answer["status"] == "ok":
            self._accept(answer["results"], atoms, record)
        if record["status"] != "ok":
            record["log_tail"] = log[-LOG_TAIL:]
            path = self.store.keep_log(key, log)
        if record["status"] == "config_error":
            raise LabelError(f"{record['structure_id'] or key}: {record['reason']}; log: {path}")
        return record

    def _accept(self, results: dict[str, Any], atoms: Atoms, record: dict[str, Any]) -> None:
        reason = check_results(results, len(atoms), self.settings.guards)
        if reason:
            record |= {"status": "rejected", "reason": reason}
        record["results"] = _finite_or_none(results)
        if atoms.pbc.all() and results["stress"] is None:
            record["warnings"].append("the calculator gives no stress")

    def _attempt(
        self, structure: dict[str, Any], parameters: dict[str, Any], timeout: float
    ) -> tuple[dict[str, Any], str]:
        folder = self._scratch / "attempt"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        printed = self._worker.output.stat().st_size if self._worker.output.exists() else 0
        request = {"structure": structure, "parameters": parameters, "profile": self.profile, "scratch": str(folder)}
        answer = self._worker.ask(request, timeout)
        if answer["status"] != "ok":
            end_if_told()
        text = _read_from(self._worker.output, printed)
        if answer["status"] == "ok":
            return answer, text
        return answer, read_outputs(folder, answer.get("outputs", self.code.outputs)) + text


def _told(answer: dict[str, Any]) -> dict[str, Any]:
    """What could not be known before the run: the program's version, and the files of a user's own calculator."""
    return {name: answer[name] for name in ("ran", "element_files") if answer.get(name)}


def _warn_of_wrapper(path: str, answer: dict[str, Any]) -> list[str]:
    """What a user's own calculator around one of ASE's, at ``path``, has not; nothing for others."""
    if "wraps" not in answer:
        return []
    unknown = "which files it reads cannot be told: another one of the same name would pass unseen"
    return [WRAPPED.format(path=path, code=answer["wraps"])] + [unknown] * (answer["element_files"] is None)


def attach_label(atoms: Atoms, outcome: Outcome, iteration: int) -> Atoms:
    """A copy of ``atoms``, constraints included, that carries the label as ASE results and its origin in ``info``."""
    results = outcome.record["results"]
    labelled = atoms.copy()
    labelled.info |= {
        "iteration": iteration,
        "label_key": outcome.key,
        "label_settings": outcome.settings_id,
        "core_seconds": outcome.record["core_seconds"],
    }
    files = outcome.record.get("element_files")
    if files:  # no part of `label_settings`: structures of other elements share these all the same
        labelled.info["label_files"] = " ".join(f"{name}:{content['sha256'][:12]}" for name, content in files.items())
    if outcome.record.get("ran"):
        labelled.info["label_program"] = outcome.record["ran"]
    values = {name: results[name] for name in ("energy", "forces", "stress") if results[name] is not None}
    labelled.calc = SinglePointCalculator(labelled, **values)
    return labelled


def _finite_or_none(values: dict[str, Any]) -> dict[str, Any] | None:
    """``values`` unless NaN or infinity occurs in them, which JSON cannot express."""
    try:
        json.dumps(values, allow_nan=False)
    except ValueError:
        return None
    return values


def read_outputs(folder: Path, patterns: Sequence[str]) -> str:
    """The code's own outputs in ``folder``, the last ``OUTPUT_TAIL`` characters of each."""
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    texts = ((path.name, _read_from(path, max(0, path.stat().st_size - OUTPUT_TAIL))) for path in paths)
    return "".join(f"--- {name}\n{text.rstrip()}\n" for name, text in texts if text.strip())


def _read_from(path: Path, offset: int) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
