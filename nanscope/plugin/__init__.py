"""The pytest plugin behind its entry point: what it watches, what it lets pass, what it says.

- `policy.py`: what counts as a failure, from the ini file and the markers
- `session.py`: the hooks of pytest around setup, call and teardown of each test
- `imports.py`: tells when torch has been imported
- `watch.py`: watches one phase of one test; the only one that imports torch
- `failure.py`: from what was seen to a failure; `message.py`: its text
- `annotations.py`: what GitHub shows beside the line; `explicit.py`: the fixture `nanscope`
"""
