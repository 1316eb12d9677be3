"""Panes: functions `(scene, height, width) -> Cells`; they read files, and run in a worker."""
