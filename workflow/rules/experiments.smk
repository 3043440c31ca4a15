# Beside the loop, on request: experiments of the studies, each in parts, e.g.
#   snakemake --configfile config/argon.yaml --cores 1 results/argon/studies/eos/comparison/comparison.md
localrules:
    report_experiment,


rule run_experiment:
    input:
        unpack(inputs_of_part),
        structures=STRUCTURE_FILES,
    output:
        result="results/{system}/studies/{study}/{experiment}/{part}/result.json",
    log:
        "results/{system}/logs/studies/{study}/run_experiment-{experiment}-{part}.log",
    benchmark:
        "results/{system}/studies/{study}/benchmarks/run_experiment-{experiment}-{part}.tsv"
    conda:
        POTENTIAL_ENVIRONMENT
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=settings_of_part,
        sources=STARTING_STRUCTURES,
        seed=CONFIG.seed,
        code=code_of_experiment("run_experiment"),
    message:
        "run_experiment: {wildcards.study}, {wildcards.experiment}, {wildcards.part}"
    script:
        "../../scripts/run_experiment.py"


rule report_experiment:
    input:
        results=results_of_page,
    output:
        page="results/{system}/studies/{study}/{experiment}/{page}.md",
        figures=directory("results/{system}/studies/{study}/{experiment}/figures/{page}"),
    log:
        "results/{system}/logs/studies/{study}/report_experiment-{experiment}-{page}.log",
    conda:
        "../../envs/mlip.yaml"
    params:
        code=code_of_experiment("report_experiment"),
    message:
        "report_experiment: results/{wildcards.system}/studies/{wildcards.study}/{wildcards.experiment}/{wildcards.page}.md"
    script:
        "../../scripts/report_experiment.py"
