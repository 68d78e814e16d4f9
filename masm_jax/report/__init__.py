"""One self-contained HTML file from the metrics and scores of evaluations."""
