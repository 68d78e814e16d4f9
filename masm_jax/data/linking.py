"""Groups of videos that share a person, a source video or a file."""

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import csgraph

from masm_jax.data.importers import names


def identities(table: pd.DataFrame) -> list[list[str]]:
  """The people of each of N rows as `scope:name`, [] where nothing tells.

  They are those of the column `identities`; where it is empty, those that the video's name speaks
  of (`802_885` of two). The same name in another data set is another person, unless both belong to
  a family that shares its people.
  """
  known: dict[tuple[str, str, str], list[str]] = {}
  found = []
  columns = (table['dataset'], table['identities'], table['video_id'])
  for key in zip(*columns, strict=True):
    if key not in known:
      dataset, text, video = key
      people = names.joined_identities(text)
      people = people or names.suggested_identities(video.rpartition('/')[2])
      scope = names.identity_scope(dataset)
      known[key] = [f'{scope}:{name}' for name in people]
    found.append(known[key])
  return found


def linked_groups(table: pd.DataFrame) -> np.ndarray:
  """Numbers the groups of rows that are linked, over any number of steps: int64 [N].

  Two rows are linked if they share a video, a source video, an identity or, where the hashes are
  known, a file. Groups count from 0 by their first row.
  """
  rows, keys = [], []
  for row, (people, video, source, sha256) in enumerate(
    zip(
      identities(table),
      table['video_id'],
      table['source_video_id'],
      table['sha256'],
      strict=True,
    )
  ):
    linked = [('video', video), ('file', sha256), *(('person', one) for one in people)]
    # A source counts as the video that it is.
    linked += [('video', source)]
    for key in linked:
      if key[1]:
        rows.append(row)
        keys.append(key)
  codes, _ = pd.factorize(pd.Series(keys, dtype=object))
  size = len(table)
  edges = (np.ones(len(rows), bool), (rows, size + codes))
  nodes = size + (codes.max() + 1 if len(codes) else 0)
  _, component = csgraph.connected_components(
    sparse.coo_array(edges, (nodes, nodes)), directed=False
  )
  return pd.factorize(component[:size])[0]
