"""The full-screen replay.

- `scene.py`: everything a pane may show
- `panes/`: one file per kind of pane; a function from a scene to cells, without a terminal
- `frame.py`: which panes a screen of a size is made of, put together to one picture
- `keys.py`: the table of actions; `moves.py`: what they do to the place
- `watch.py`: the files, looked at beside the worker
- `app.py`: the terminal: keys in, pictures out
"""
