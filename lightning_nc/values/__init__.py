"""Frozen values, never aliased: what a stage leaves behind, and nothing that computes a measure."""
