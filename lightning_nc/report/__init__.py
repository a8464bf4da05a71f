"""Outward: values, pictures and words to the loggers of a Trainer."""
