"""The built-in training job: the MLP of the batch-size story, on data sets that need no program."""
