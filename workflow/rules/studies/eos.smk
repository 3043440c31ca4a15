# The equation of state's own target, on request: does its acquisition beat labels at uniform densities?
#   snakemake --configfile config/argon.yaml results/argon/studies/eos/comparison/comparison.md

EOS_LABELLER_DRIVES = CONFIG.studies.eos.reference == "dynamics"
EOS_PLAN = {"n_seeds": 5, "n_rounds": 3, "n_labels": 4, "n_start": 6, "n_densities": 8}
# With DFT half the test frames: some hundred labels in all.
EOS_PLAN["n_test"] = 8 if EOS_LABELLER_DRIVES else 4


rule compare_acquisitions:
    input:
        structures=STRUCTURE_FILES,
        isolated="results/{system}/label_references/isolated_atoms.json",
        potential=[] if EOS_LABELLER_DRIVES else "results/{system}/potential/potential.json",
    output:
        table="results/{system}/studies/eos/comparison/comparison.md",
        rows="results/{system}/studies/eos/comparison/comparison.json",
        data="results/{system}/studies/eos/comparison/comparison.nc",
        picture="results/{system}/studies/eos/comparison/comparison.png",
    log:
        "results/{system}/logs/studies/eos/compare_acquisitions.log",
    benchmark:
        "results/{system}/studies/eos/benchmarks/compare_acquisitions.tsv"
    conda:
        f"../{POTENTIAL_ENVIRONMENT}"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=CONFIG.studies.eos.model_dump(mode="json"),
        # Sixty short trainings; a schedule of the loop's length would take an hour.
        train=CONFIG.train.model_dump(mode="json") | {"n_steps": min(400, CONFIG.train.n_steps)},
        label=label_settings,
        plan=EOS_PLAN,
        source=CONFIG.structures[0].model_dump(mode="json"),
        seed=CONFIG.seed,
        code=code_digest("mlip.studies.eos.experiments.experiment", "mlip.loop.train_committee", BACKEND.training_code),
    message:
        "compare_acquisitions: results/{wildcards.system}/studies/eos/comparison/comparison.md"
    script:
        "../../../scripts/compare_acquisitions.py"
