"""The built-in training job: the batch-size experiment."""
