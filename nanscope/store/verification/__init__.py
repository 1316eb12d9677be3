"""Whether a run file is sound."""
