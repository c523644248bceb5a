"""Lightning Callbacks: select, adopt, weigh; evaluation, checkpoints, cost, progress, traces."""
