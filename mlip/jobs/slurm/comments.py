"""What Snakemake's Slurm plugin writes into a job's comment: the rule and the values of its wildcards."""

from __future__ import annotations

import re

from mlip.config.study import study_names
from mlip.io.layout import ONCE, STEPS, STUDY_STEPS, Job

STUDY = "(?P<study>" + "|".join(map(re.escape, study_names())) + ")"
ITERATION = r"(?P<iteration>\d{2,3})"
ONCE_A_STUDY = ("refer_study", "report_study")
PARTS = {"label_structures": r"\d{3}", "explore_walkers": r"\d{2,3}"}
"""Steps of many jobs, and what numbers those."""
IN_LOOP = "_in_loop"
"""Ends the name of a rule by which an iteration takes the step of a study."""


def job_of(comment: str, system: str) -> Job | None:
    """The job that a comment of Snakemake's Slurm plugin names; None for another system's.

    Such as ``rule_label_structures_wildcards_silicon_00_003``, in a study
    ``rule_label_candidates_wildcards_silicon_eos_01_003``. Names of systems may hold what looks like a
    study or a number (``silicon_eos``, ``silicon_01``), so each rule is held to the wildcards that it has.
    """
    match = re.fullmatch(r"rule_(\w+?)_wildcards_(.+)", comment.strip())
    if match is None or not (match.group(2) + "_").startswith(f"{system}_"):
        return None
    rule, values = match.group(1), match.group(2)[len(system) :]
    wildcards = re.fullmatch(_wildcards_of(rule), values)
    if wildcards is None:
        return None
    parts = wildcards.groupdict()
    study, part = parts.get("study") or "", parts.get("part") or ""
    if parts.get("iteration"):  # there the study is what tells the jobs of a step from each other
        return Job(int(parts["iteration"]), rule.removesuffix(IN_LOOP), part or study)
    return Job(None, rule, _join_parts(part), study)


def _wildcards_of(rule: str) -> str:
    """Pattern of the values of a rule's wildcards after the system's, each with ``_`` before it."""
    if rule in ONCE:
        return ""
    if rule in STEPS:
        return f"_{ITERATION}" + (f"_(?P<part>{PARTS[rule]})" if rule in PARTS else "")
    if rule.endswith(IN_LOOP):
        return f"_{ITERATION}_{STUDY}"
    if rule in STUDY_STEPS:
        shard = r"_\d{3}" if rule == "label_candidates" else ""
        return f"_{STUDY}" + ("" if rule in ONCE_A_STUDY else rf"_(?P<part>\d{{2}}{shard})")
    # Beside these: what a system has once, what an iteration has, experiments of a study.
    return rf"(?:_{ITERATION}|_{STUDY}(?:_(?P<part>.+))?)?"


def _join_parts(part: str) -> str:
    """Round and shard, or experiment and part, joined as in the job's log; ``_`` may only be in the latter."""
    return "-".join(filter(None, part.partition("_")[::2]))
