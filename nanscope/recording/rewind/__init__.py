"""Rewind: go back to a bad step, execute it again under watch, and name where it broke and by what."""
