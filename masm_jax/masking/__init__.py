"""Selective layer masks: streaming gradient statistics, and the masks drawn from them."""
