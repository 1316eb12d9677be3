"""What nanscope does not yet get right: per program the names of the answers that are wrong."""

KNOWN_WRONG: dict[str, tuple[str, ...]] = {}
