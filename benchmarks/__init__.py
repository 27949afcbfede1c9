"""Side-by-side runs, each one command, each writing JSON under `results/`."""
