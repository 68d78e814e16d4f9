"""One self-contained HTML file from the figures and scores of an evaluation, and nothing else."""
