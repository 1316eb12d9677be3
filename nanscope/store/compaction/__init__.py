"""Compaction: a run in one compressed file, made, checked and read."""
