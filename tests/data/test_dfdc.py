"""DFDC's metadata, as JSON and as CSV."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from masm_jax.data.importers.dfdc import import_dfdc
from masm_jax.errors import UserError


@pytest.fixture
def crops(tmp_path):
  """Crops of a real video in a part's folder and of a fake made from it."""
  for i, path in enumerate(('part_0/aaa/000.png', 'part_0/aaa/010.png', 'part_1/bbb/3.jpg')):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / path)
  return tmp_path


EXPECTED = {
  'part_0/aaa/000.png': (0, 'DFDC/real/aaa', 'DFDC/real/aaa', 'real', 0),
  'part_0/aaa/010.png': (0, 'DFDC/real/aaa', 'DFDC/real/aaa', 'real', 10),
  'part_1/bbb/3.jpg': (1, 'DFDC/fake/bbb', 'DFDC/real/aaa', 'fake', 3),
}


def _found(manifest):
  columns = ['label', 'video_id', 'source_video_id', 'method', 'frame']
  rows = manifest.table.set_index('path')[columns].itertuples()
  return {path: tuple(values) for path, *values in rows}


def test_json(crops, caplog):
  metadata = {
    'aaa.mp4': {'label': 'REAL', 'split': 'train', 'original': None},
    'bbb.mp4': {'label': 'FAKE', 'split': 'train', 'original': 'aaa.mp4'},
    'ccc.mp4': {'label': 'FAKE', 'split': 'train', 'original': 'aaa.mp4'},
  }
  (crops / 'metadata.json').write_text(json.dumps(metadata))
  with caplog.at_level(logging.WARNING):
    manifest = import_dfdc([crops / 'metadata.json'], crops)
  assert _found(manifest) == EXPECTED
  assert set(manifest.table['split']) == {'train'}
  assert 'left out 1 videos without crops, first ccc.mp4' in caplog.text


@pytest.mark.parametrize('column', ['videoname', 'filename'])
@pytest.mark.parametrize('classes', [('REAL', 'FAKE'), ('0', '1')])
def test_csv(crops, column, classes):
  (crops / 'labels.csv').write_text(
    f'{column},label,original\naaa.mp4,{classes[0]},\nbbb.mp4,{classes[1]},aaa.mp4\n'
  )
  manifest = import_dfdc([crops / 'labels.csv'], crops, split='test')
  assert _found(manifest) == EXPECTED
  assert set(manifest.table['split']) == {'test'}


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('m.json', '[1]', 'an object of videos'),
    ('m.json', '{', 'neither JSON nor CSV'),
    pytest.param('m.json', '[' * 100_000, 'neither JSON nor CSV', id='nested too deep'),
    ('m.json', '{"zzz.mp4": {"label": "FAKE", "split": "val", "original": 5}}', 'none of the 1'),
    ('m.json', '{"aaa.mp4": {"label": "MAYBE"}}', r"entry 1 \(aaa.mp4\): label 'MAYBE' is neither"),
    ('m.json', '{"aaa.mp4": {"label": "REAL"}}', 'no split in the metadata; add --split'),
    ('m.json', '{"zzz.mp4": {"label": "REAL", "split": "val"}}', 'none of the 1 videos has a fold'),
    ('m.csv', 'name,label\naaa,REAL\n', 'needs the columns videoname and label, and has name, l'),
  ],
)
def test_bad_metadata(crops, name, content, message):
  (crops / name).write_text(content)
  with pytest.raises(UserError, match=message):
    import_dfdc([crops / name], crops)


def test_two_folders_of_one_name_and_absent_files(crops):
  (crops / 'm.json').write_text('{"aaa.mp4": {"label": "REAL", "split": "val"}}')
  (crops / 'part_2/aaa').mkdir(parents=True)
  (crops / 'part_2/aaa/0.png').write_bytes((crops / 'part_0/aaa/000.png').read_bytes())
  with pytest.raises(UserError, match='two folders have its name, part_0/aaa and part_2/aaa'):
    import_dfdc([crops / 'm.json'], crops)
  with pytest.raises(UserError, match='cannot read'):
    import_dfdc([crops / 'absent.json'], crops)
  with pytest.raises(UserError, match='no folder'):
    import_dfdc([crops / 'm.json'], crops / 'absent')
