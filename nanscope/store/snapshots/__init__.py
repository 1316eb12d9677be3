"""States of the training in a run file."""
