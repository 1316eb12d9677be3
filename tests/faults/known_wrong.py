"""What nanscope does not yet get right: per program the names of the answers that are wrong."""

KNOWN_WRONG: dict[str, tuple[str, ...]] = {
    "log_of_a_count": (
        "op",
        "sample",
        "cause",
    ),
    "root_of_a_negative": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "unit_vector_of_zeros": (
        "op",
        "sample",
        "cause",
    ),
    "naive_softmax": (
        "op",
        "sample",
        "cause",
    ),
    "fractional_power_of_a_negative": (
        "op",
        "sample",
        "cause",
    ),
    "power_beyond_float32": (
        "op",
        "sample",
        "cause",
    ),
    "spread_of_one_row": (
        "op",
        "cause",
    ),
    "log_of_softmax": (
        "op",
        "sample",
        "cause",
    ),
    "log_of_one_minus_sigmoid": (
        "op",
        "sample",
        "cause",
    ),
    "precision_of_a_log_variance": (
        "op",
        "sample",
        "cause",
    ),
    "dice_without_smoothing": (
        "op",
        "cause",
    ),
    "mean_of_nothing": (
        "step",
        "phase",
        "module",
        "op",
        "cause",
    ),
    "every_target_ignored": (
        "step",
        "phase",
        "module",
        "op",
        "cause",
    ),
    "variance_by_difference": (
        "op",
        "cause",
    ),
    "root_of_an_exact_zero": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "where_guards_only_the_value": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "where_over_an_exponential": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "angle_of_a_saturated_cosine": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "signed_root_of_zero": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "relu_heals_the_power": ("false alarm",),
    "spread_of_equal_outputs": (
        "module",
        "op",
        "cause",
    ),
    "reciprocal_of_a_tiny_number": (
        "op",
        "sample",
    ),
    "half_norm_of_sparse_weights": (
        "verdict",
        "step",
        "phase",
        "module",
        "op",
        "cause",
    ),
    "adam_without_epsilon": (
        "module",
        "op",
    ),
    "rmsprop_after_many_zeros": (
        "module",
        "op",
    ),
    "schedule_divides_by_zero": (
        "module",
        "op",
    ),
    "infinite_learning_rate": (
        "module",
        "op",
    ),
    "poisoned_state": (
        "module",
        "op",
    ),
    "negative_second_moment": (
        "module",
        "op",
    ),
    "gradient_of_length_zero": (
        "op",
        "cause",
    ),
    "missing_value_in_a_row": (
        "op",
        "sample",
    ),
    "missing_target": (
        "op",
        "sample",
        "cause",
    ),
    "constant_image_standardised": (
        "op",
        "sample",
    ),
    "negative_count": (
        "step",
        "phase",
        "module",
        "op",
        "sample",
        "cause",
    ),
    "infinite_ratio": (
        "op",
        "sample",
    ),
    "log_of_a_price_of_zero": (
        "op",
        "sample",
        "cause",
    ),
    "row_without_observations": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "float16_autocast_overflow": (
        "op",
        "sample",
        "cause",
    ),
    "adam_in_float16": (
        "module",
        "op",
    ),
    "square_in_float16": (
        "op",
        "sample",
        "cause",
    ),
    "sum_in_float16": (
        "step",
        "phase",
        "module",
        "op",
        "cause",
    ),
    "epsilon_lost_in_float16": (
        "op",
        "sample",
        "cause",
    ),
    "constant_loss_scale": ("op",),
    "contrastive_exp_in_float16": (
        "op",
        "sample",
        "cause",
    ),
    "one_minus_p_in_bfloat16": (
        "op",
        "sample",
        "cause",
    ),
    "scaler_hides_a_bad_feature": ("op",),
    "linear_regression_too_fast": ("op",),
    "batch_of_one_at_the_rate_of_many": ("op",),
    "deep_regression_too_fast": ("op",),
    "momentum_too_high": ("op",),
    "schedule_that_never_stops_growing": ("op",),
    "weight_decay_overshoots": ("op",),
    "accumulation_without_division": ("op",),
    "nan_in_checkpoint": ("op",),
    "scale_by_fan_of_zero": ("op",),
    "infinite_frequency": ("op",),
    "standard_normal_weights_in_depth": (
        "op",
        "cause",
    ),
    "temperature_starts_at_zero": (
        "op",
        "cause",
    ),
    "normalised_word_vectors": ("op",),
    "halved_after_initialisation": ("op",),
    "scale_given_for_its_logarithm": (
        "op",
        "cause",
    ),
    "layer_norm_without_eps": (
        "op",
        "sample",
        "cause",
    ),
    "last_batch_of_one": (
        "op",
        "cause",
    ),
    "unit_length_of_an_empty_row": (
        "op",
        "sample",
        "cause",
    ),
    "variance_in_one_pass": (
        "op",
        "sample",
        "cause",
    ),
    "eps_outside_of_the_root": (
        "module",
        "op",
        "cause",
    ),
    "spectral_norm_of_zeros": (
        "op",
        "cause",
    ),
    "calibrated_on_missing_values": ("op",),
    "statistics_poisoned_earlier": (
        "step",
        "op",
        "cause",
    ),
    "empty_sentence": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "multihead_key_padding": (
        "op",
        "sample",
        "cause",
    ),
    "causal_mask_off_by_one": (
        "module",
        "op",
        "cause",
    ),
    "entropy_of_masked_policy": (
        "op",
        "sample",
        "cause",
    ),
    "mean_of_no_words": (
        "op",
        "sample",
        "cause",
    ),
    "masked_softmax_by_hand": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "entropy_of_masked_attention": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "distances_with_masked_diagonal": (
        "module",
        "op",
        "cause",
    ),
    "mask_value_beyond_float16": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "longer_sequences_later": ("op",),
    "chaotic_recurrence": ("op",),
    "exponential_gate_without_stabiliser": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "state_carried_over_a_gap": (
        "op",
        "sample",
    ),
    "memory_without_forgetting": (
        "module",
        "op",
        "cause",
    ),
    "euler_steps_too_long": (
        "op",
        "sample",
        "cause",
    ),
    "transcript_longer_than_the_audio": (
        "op",
        "sample",
        "cause",
    ),
    "slope_of_silence": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "textbook_softplus": (
        "op",
        "sample",
        "cause",
    ),
    "logarithm_in_numpy": (
        "op",
        "sample",
        "cause",
    ),
    "reversal_strength_reaches_one": (
        "module",
        "op",
        "cause",
    ),
    "logarithm_in_a_checkpoint": (
        "module",
        "op",
        "sample",
        "cause",
    ),
    "hook_normalises_a_zero_gradient": (
        "op",
        "cause",
    ),
    "module_hook_divides_by_a_count": (
        "op",
        "cause",
    ),
    "hook_standardises_a_single_number": (
        "op",
        "cause",
    ),
    "hook_marks_with_nan": (
        "op",
        "cause",
    ),
    "forward_hook_divides": (
        "op",
        "sample",
        "cause",
    ),
    "saturated_by_raw_inputs": (
        "verdict",
        "rule",
    ),
    "weight_decay_wins": (
        "verdict",
        "rule",
    ),
    "class_zero_for_everything": (
        "step",
        "op",
    ),
    "layer_norm_over_one_feature": (
        "verdict",
        "rule",
    ),
    "squares_overflow_to_silence": ("cause",),
    "nan_slope_stopped_by_relu": ("false alarm",),
}
