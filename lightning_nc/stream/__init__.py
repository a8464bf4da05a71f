"""What changes while a stage runs: on the device, never waiting, merged exactly over the ranks."""
