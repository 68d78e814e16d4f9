"""JSON files in the schema of DeepfakeBench and DF40, one for each of their data sets."""

import json
import logging
import pathlib

import numpy as np
import pytest
from PIL import Image

from masm_jax.data.__main__ import main
from masm_jax.data.importers.deepfakebench import Options, import_deepfakebench
from masm_jax.data.manifest import load_manifest
from masm_jax.errors import UserError

# Data set -> its labels, in DeepfakeBench's own spelling: {label: (class, method)}.
DATA_SETS = {
  'FaceForensics++': {
    'FF-real': (0, 'real'), 'FF-DF': (1, 'DF'), 'FF-F2F': (1, 'F2F'), 'FF-FS': (1, 'FS'),
    'FF-NT': (1, 'NT'),
  },
  'FF-DF': {'FF-real': (0, 'real'), 'FF-DF': (1, 'DF')},
  'FF-F2F': {'FF-real': (0, 'real'), 'FF-F2F': (1, 'F2F')},
  'FF-FS': {'FF-real': (0, 'real'), 'FF-FS': (1, 'FS')},
  'FF-NT': {'FF-real': (0, 'real'), 'FF-NT': (1, 'NT')},
  'FaceShifter': {'FF-real': (0, 'real'), 'FF-FH': (1, 'FH')},
  'DeepFakeDetection': {'DFD_real': (0, 'real'), 'DFD_fake': (1, 'fake')},
  'Celeb-DF-v1': {'CelebDFv1_real': (0, 'real'), 'CelebDFv1_fake': (1, 'fake')},
  'Celeb-DF-v2': {'CelebDFv2_real': (0, 'real'), 'CelebDFv2_fake': (1, 'fake')},
  'DFDCP': {'DFDCP_Real': (0, 'real'), 'DFDCP_FakeA': (1, 'FakeA'), 'DFDCP_FakeB': (1, 'FakeB')},
  'DFDC': {'DFDC_Real': (0, 'real'), 'DFDC_Fake': (1, 'fake')},
  'UADFV': {'UADFV_Real': (0, 'real'), 'UADFV_Fake': (1, 'fake')},
  'WDF': {'WDF_real': (0, 'real'), 'WDF_fake': (1, 'fake')},
  'FFIW': {'FFIW_Real': (0, 'real'), 'FFIW_Fake': (1, 'fake')},
  'DFR': {'DFR_real': (0, 'real'), 'DFR_fake': (1, 'fake')},
}  # fmt: skip
COMPRESSED = ('FaceForensics++', 'FF-DF', 'FF-F2F', 'FF-FS', 'FF-NT', 'FaceShifter',
              'DeepFakeDetection')  # fmt: skip
# (real, fake) names of videos as each data set forms them, and the fake's identities.
NAMES = {
  'DeepFakeDetection': ('01__hugging_happy', '01_03__hugging_happy__ISF9SP4G', '01;03'),
  'Celeb-DF-v1': ('id0_0000', 'id0_id1_0000', 'id0;id1'),
  'Celeb-DF-v2': ('id0_0000', 'id0_id1_0000', 'id0;id1'),
  'UADFV': ('0000', '0000_fake', '0000'),
  'DFR': ('000', '000_M101', '000;M101'),
  'DFDC': ('aagfhgtpmv', 'vudstovrck', ''),
  'DFDCP': ('1027_A', '1027_B', ''),
  'WDF': ('8', '9', '9'),
}


def _image(path, seed):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)).save(path)


def _write(root, dataset, *, windows=False, prefix='', split='train'):
  """Images below root/rgb and a JSON beside them, its frames in no order; returns the JSON."""
  real, fake, _ = NAMES.get(dataset, ('000', '000_003', ''))
  content: dict = {}
  seed = 0
  for label, (is_fake, _) in DATA_SETS[dataset].items():
    video = fake if is_fake else real
    frames = []
    for frame in (40, 0, 7):
      level = ['c23'] if dataset in COMPRESSED else []
      path = '/'.join([dataset, label, *level, 'frames', video, f'{frame:03}.png'])
      _image(root / 'rgb' / path, seed := seed + 1)
      frames.append(prefix + (path.replace('/', '\\') if windows else path))
    videos = {video: {'label': label, 'frames': frames}}
    content[label] = {split: {'c23': videos} if dataset in COMPRESSED else videos}
  file = root / f'{dataset}.json'
  file.write_text(json.dumps({dataset: content}))
  return file


@pytest.mark.parametrize('dataset', DATA_SETS)
def test_each_data_set_of_deepfakebench(tmp_path, dataset):
  file = _write(tmp_path, dataset, windows=dataset < 'F')
  manifest = import_deepfakebench([file], tmp_path / 'rgb')
  labels, (real, fake, people) = (
    DATA_SETS[dataset],
    NAMES.get(dataset, ('000', '000_003', '000;003')),
  )
  assert len(manifest) == 3 * len(labels)
  name = 'FaceForensics++' if dataset.startswith(('FF-', 'Face')) else dataset
  level = 'c23' if dataset in COMPRESSED else ''
  table = manifest.table
  assert set(table['dataset']) == {name}
  assert set(table['split']) == {'train'}
  assert set(table['compression']) == {level}
  videos = table.groupby('video_id').agg('first')
  middle = f'/{level}' if level else ''
  expected = {}
  for is_fake, method in labels.values():
    expected[f'{name}/{method}{middle}/{fake if is_fake else real}'] = (is_fake, method)
  found = {video: (row['label'], row['method']) for video, row in videos.iterrows()}
  assert found == expected
  assert table.groupby('video_id')['frame'].apply(sorted).tolist() == [[0, 7, 40]] * len(labels)
  # What a fake was made from is the real video's id, where the names say it.
  fakes = videos[videos['label'] == 1]
  known = bool(people) and dataset not in ('WDF',)
  assert set(fakes['source_video_id']) == {f'{name}/real{middle}/{real}' if known else ''}
  assert set(fakes['identities']) == {people}


def test_same_video_name_under_four_manipulations(tmp_path):
  manifest = import_deepfakebench([_write(tmp_path, 'FaceForensics++')], tmp_path / 'rgb')
  fakes = manifest.table[manifest.table['label'] == 1]
  assert sorted(set(fakes['video_id'])) == [
    f'FaceForensics++/{method}/c23/000_003' for method in ('DF', 'F2F', 'FS', 'NT')
  ]
  assert set(fakes['source_video_id']) == {'FaceForensics++/real/c23/000'}


@pytest.mark.parametrize('windows', [False, True])
@pytest.mark.parametrize('prefix', ['', 'rgb/', './datasets/rgb/', '/home/me/datasets/rgb/'])
def test_paths_with_and_without_the_rgb_folder(tmp_path, windows, prefix):
  prefix = prefix.replace('/', '\\') if windows else prefix
  file = _write(tmp_path, 'UADFV', windows=windows, prefix=prefix)
  for root, start in ((tmp_path / 'rgb', ''), (tmp_path, 'rgb/')):
    table = import_deepfakebench([file], root).table
    assert table['path'][0] == f'{start}UADFV/UADFV_Fake/frames/0000_fake/000.png'


def test_strip_and_windows_drives(tmp_path):
  file = _write(tmp_path, 'UADFV', windows=True, prefix='D:\\data\\')
  with pytest.raises(UserError, match=r'6 of 6 frames are not below .*--strip'):
    import_deepfakebench([file], tmp_path / 'rgb')
  manifest = import_deepfakebench([file], tmp_path / 'rgb', Options(strip='D:\\data'))
  assert len(manifest) == 6


def test_parts_of_faceforensics_repeat_their_real_videos(tmp_path):
  whole = _write(tmp_path, 'FaceForensics++')
  content = json.loads(whole.read_text())['FaceForensics++']
  parts = []
  for label in ('FF-DF', 'FF-NT'):
    parts.append(tmp_path / f'{label}.json')
    parts[-1].write_text(json.dumps({label: {k: content[k] for k in ('FF-real', label)}}))
  manifest = import_deepfakebench(parts, tmp_path / 'rgb')
  assert manifest.table['method'].value_counts().to_dict() == {'real': 3, 'DF': 3, 'NT': 3}
  # A file of its own for c40 keeps the data set's key.
  copy = tmp_path / 'FaceForensics++_c40.json'
  copy.write_text(whole.read_text())
  assert len(import_deepfakebench([copy], tmp_path / 'rgb')) == 15


def test_missing_frames_and_videos_without_frames(tmp_path, caplog):
  file = _write(tmp_path, 'UADFV')
  gone = tmp_path / 'rgb/UADFV/UADFV_Fake/frames/0000_fake/007.png'
  gone.unlink()
  message = (
    r'1 of 6 frames are not below .*first UADFV/UADFV_Fake/frames/0000_fake/007.png '
    r'\(.*UADFV.json: UADFV/UADFV_Fake/train/0000_fake\); looked for UADFV/UADFV_Fake/.*--skip-mis'
  )
  with pytest.raises(UserError, match=message):
    import_deepfakebench([file], tmp_path / 'rgb')
  content = json.loads(file.read_text())
  content['UADFV']['UADFV_Real']['train']['0007'] = {'label': 'UADFV_Real', 'frames': []}
  file.write_text(json.dumps(content))
  with caplog.at_level(logging.WARNING):
    manifest = import_deepfakebench([file], tmp_path / 'rgb', Options(skip_missing=True))
  assert len(manifest) == 5
  assert 'left out 1 of 6 frames that are not there' in caplog.text
  assert 'left out 1 videos without frames, first' in caplog.text


def test_unknown_labels_are_listed_and_can_be_mapped(tmp_path):
  content = {'Mine': {}}
  for label, seed in (('authentic', 1), ('lipsync', 2)):
    _image(tmp_path / f'{label}/v/0.png', seed)
    content['Mine'][label] = {'test': {'v': {'label': label, 'frames': [f'{label}/v/0.png']}}}
  file = tmp_path / 'Mine.json'
  file.write_text(json.dumps(content))
  with pytest.raises(UserError) as caught:
    import_deepfakebench([file], tmp_path)
  message = str(caught.value)
  assert "unknown label 'authentic'; known are FF-real, FF-SH, FF-F2F" in message
  for known in ('DFDCP_FakeA', 'CelebDFv2_fake', 'roop_Real', 'UADFV_Fake', '*_Real'):
    assert known in message
  assert '--label authentic=real or --label authentic=fake' in message
  arguments = ['import', '--format', 'deepfakebench', '--input', str(file), '--root', str(tmp_path)]
  arguments += ['--output', str(tmp_path / 'm.csv')]
  assert main([*arguments, '--label', 'authentic=real', '--label', 'lipsync=fake']) == 0
  table = load_manifest(tmp_path / 'm.csv').table
  assert table['method'].tolist() == ['real', 'lipsync']
  assert table['label'].tolist() == [0, 1]


def test_a_split_that_repeats_another(tmp_path):
  file = _write(tmp_path, 'UADFV', split='test')
  content = json.loads(file.read_text())
  for label in content['UADFV'].values():
    label['val'] = label['test']
  file.write_text(json.dumps(content))
  with pytest.raises(UserError, match=r'stands in test and in val: .* choose with --splits'):
    import_deepfakebench([file], tmp_path / 'rgb')
  manifest = import_deepfakebench([file], tmp_path / 'rgb', Options(splits=('test',)))
  assert set(manifest.table['split']) == {'test'}


def test_masks_become_a_column(tmp_path):
  file = _write(tmp_path, 'FF-DF')
  content = json.loads(file.read_text())
  _image(tmp_path / 'rgb/masks/040.png', 99)
  video = content['FF-DF']['FF-DF']['train']['c23']['000_003']
  video['masks'] = ['masks\\040.png', 'masks\\007.png']
  file.write_text(json.dumps(content))
  table = import_deepfakebench([file], tmp_path / 'rgb').table
  assert sorted(table['mask']) == [''] * 5 + ['masks/040.png']
  assert table.loc[table['mask'] != '', 'frame'].tolist() == [40]


@pytest.mark.parametrize(
  ('key', 'dataset'), [('simswap_ff', 'DF40-ff'), ('simswap_cdf', 'DF40-cdf'), ('simswap', 'DF40')]
)
def test_df40(tmp_path, key, dataset):
  content: dict = {}
  for label, video in (('simswap_Real', '000'), ('simswap_Fake', '000_003')):
    _image(tmp_path / f'DF40/{label}/{video}/1.png', len(video))
    frames = [f'./DF40\\{label}\\{video}\\1.png']
    content[label] = {'train': {video: {'label': label, 'frames': frames}}, 'val': {}, 'test': {}}
  file = tmp_path / f'{key}.json'
  file.write_text(json.dumps({key: content}))
  table = import_deepfakebench([file], tmp_path, Options(is_df40=True)).table
  assert table['video_id'].tolist() == [f'{dataset}/simswap/000_003', f'{dataset}/real/000']
  assert table['source_video_id'].tolist() == [f'{dataset}/real/000'] * 2
  assert table['method'].tolist() == ['simswap', 'real']


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{', 'not a JSON file'),
    ('[]', 'one object with one key'),
    ('{"a": {}, "b": {}}', 'one object with one key'),
    pytest.param('[' * 100_000, 'not a JSON file', id='nested too deep'),
    ('{"Y": {}}', "top key 'Y' is not the name of the file"),
    ('{"X": []}', 'X.json: X: an object is expected here, not list'),
    ('{"X": {"a_fake": {"dev": {}}}}', 'X/a_fake/dev: the splits are train, val, test'),
    ('{"X": {"a_fake": {"val": {"v": []}}}}', 'X/a_fake/val/v: a video is an object with'),
    ('{"X": {"a_fake": {"val": {"v": {"frames": [1]}}}}}', 'a list of paths'),
    ('{"X": {"a_fake": {"val": {"v": {"frames": [], "label": "b"}}}}}', "its label is 'b'"),
    ('{"X": {"a_fake": {"val": {"v": {"frames": ["../x.png"]}}}}}', 'leaves the root'),
    ('{"X": {"a_fake": {"val": {}}}}', 'no frame in'),
    ('{"X": {"a_fake": {"val": {"c23": {"v": {"frames": []}}}}}}', 'a video is an object with'),
  ],
)
def test_files_of_another_form(tmp_path, content, message):
  (tmp_path / 'X.json').write_text(content)
  with pytest.raises(UserError, match=message) as caught:
    import_deepfakebench([tmp_path / 'X.json'], tmp_path)
  assert '\n' not in str(caught.value)


def test_a_level_is_needed_where_there_is_one(tmp_path):
  file = _write(tmp_path, 'FF-DF')
  content = json.loads(file.read_text())
  label = content['FF-DF']['FF-DF']
  label['train'] = label['train']['c23']
  file.write_text(json.dumps(content))
  with pytest.raises(UserError, match='train/000_003: FF-DF has a level raw, c23 or c40 above'):
    import_deepfakebench([file], tmp_path / 'rgb')
  with pytest.raises(UserError, match='cannot read'):
    import_deepfakebench([tmp_path / 'absent.json'], tmp_path)
  with pytest.raises(UserError, match=r'no folder .*--root'):
    import_deepfakebench([file], tmp_path / 'absent')


def test_compressions_are_videos_of_their_own_and_can_be_chosen(tmp_path):
  file = _write(tmp_path, 'FF-DF')
  content = json.loads(file.read_text())
  for label, by_split in content['FF-DF'].items():
    videos = json.loads(json.dumps(by_split['train']['c23']).replace('c23', 'c40'))
    by_split['train']['c40'] = videos
    for video in videos.values():
      for seed, frame in enumerate(video['frames']):
        _image(tmp_path / 'rgb' / frame, (len(label), seed, 40))
  file.write_text(json.dumps(content))
  assert len(import_deepfakebench([file], tmp_path / 'rgb').table['video_id'].unique()) == 4
  only = import_deepfakebench([file], tmp_path / 'rgb', Options(compressions=('c40',)))
  assert set(only.table['compression']) == {'c40'}
  assert len(only) == 6


def test_two_runs_give_the_same_bytes(tmp_path):
  file = _write(tmp_path, 'FaceForensics++')
  arguments = ['import', '--format', 'deepfakebench', '--input', str(file)]
  arguments += ['--root', str(tmp_path / 'rgb'), '--output']
  contents = []
  for name in ('a.parquet', 'b.parquet'):
    assert main([*arguments, str(tmp_path / name)]) == 0
    contents.append(pathlib.Path(tmp_path / name).read_bytes())
  assert contents[0] == contents[1]
