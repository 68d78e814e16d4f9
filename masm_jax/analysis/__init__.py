"""What fine-tuning did to the weights and to what the features know: see `__main__`."""
