"""What a label means: one class per kind of task."""
