"""Which geometry a network with unequal counts is heading for, and what its small classes become."""
