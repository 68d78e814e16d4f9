"""Tables of face crops, and what turns them into batches.

`manifest` and `importers` describe data sets, `transforms` decodes and augments single images,
`samplers` orders records, `pipeline` makes batches. Nothing here imports a model.
"""
