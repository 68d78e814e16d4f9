"""The paper's idea on its own: SVD into subspaces, the layer that trains them, their losses."""
