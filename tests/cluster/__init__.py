"""Real clusters of one machine: Slurm and MPI as a user meets them."""
