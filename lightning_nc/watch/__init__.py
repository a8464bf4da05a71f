"""One network under observation: hooks, labels and what becomes of a batch; knows no Lightning."""
