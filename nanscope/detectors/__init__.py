"""One question per file: detectors look at a run and return findings."""
