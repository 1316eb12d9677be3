"""What nanscope does not yet get right: per program the names of the answers that are wrong."""

KNOWN_WRONG: dict[str, tuple[str, ...]] = {
    "saturated_by_raw_inputs": (
        "verdict",
        "rule",
    ),
    "weight_decay_wins": (
        "verdict",
        "rule",
    ),
    "layer_norm_over_one_feature": (
        "verdict",
        "rule",
    ),
    "squares_overflow_to_silence": ("cause",),
}
