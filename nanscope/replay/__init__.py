"""What the screen shows of runs, as values: cases, the place one looks at, and what is read there.

Pure: arrays and words. Nothing here knows a terminal.
"""
