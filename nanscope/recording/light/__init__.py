"""A recorder that costs next to nothing, for trainings of which only trouble is of interest.

No module is watched: of each step what the rewind needs is kept, and the loss and the norms of the
gradients are looked at. Where those are not finite the step is executed again under full watch, as always.

- `recorder.py`: the recorder; `entrance.py`: what it hears of calls
- `look.py`: the look at the gradients; `history.py`: what is kept of each step, and its row
"""
