"""The steps of an iteration, in their order; rules, scripts and folders carry the same names."""

STEPS = (
    "prepare_structures",
    "label_references",
    "label_isolated_atoms",
    "label_structures",
    "collect_dataset",
    "train_committee",
    "explore_walkers",
    "score_frames",
    "select_candidates",
    "assess_potential",
)
