"""From raw videos and images to aligned face crops and their manifest.

`layouts` says what lies in a data set's folder, `video` decodes evenly spaced frames, `faces`
detects, `tracks` decides whose face a video is about, `templates` aligns, `crops` does one video
and commits it, `pool` does many at a time, `run` is the whole command. Nothing here imports jax.
"""
