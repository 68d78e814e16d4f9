"""Analysis of a trained run: how weights and features differ from the pretrained ones."""
