"""When and how a stage runs in a Trainer; knows nothing of what is measured."""
