"""Miniatures of raw data sets: for each layout, how to make one and what has to come out.

`build(root, put)` makes the folder; `put(path, kind)` puts a clip there ('video'), a folder of four
frames ('frames') or one image ('image').
"""

import dataclasses
import json
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Miniature:
  """One layout.

  Attributes:
    layout: its name.
    build: see above.
    rows: video_id -> (label, split, method, compression, source_video_id, identities, path).
    options: of the command line.
  """

  layout: str
  build: Callable
  rows: dict[str, tuple]
  options: tuple[str, ...] = ()


def _json(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content))


def _text(path, *lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('\n'.join(lines) + '\n')


def _ffpp(root, put):
  put('original_sequences/youtube/c23/videos/000.mp4', 'video')
  put('original_sequences/youtube/c40/videos/000.mp4', 'video')
  put('original_sequences/youtube/raw/images/003', 'frames')
  put('original_sequences/youtube/c23/videos/010.mp4', 'video')
  put('manipulated_sequences/Deepfakes/c23/videos/000_003.mp4', 'video')
  put('manipulated_sequences/Deepfakes/c23/frames/000_003', 'frames')  # The video comes first.
  put('manipulated_sequences/NeuralTextures/c23/videos/010_020.mp4', 'video')
  put('manipulated_sequences/FaceShifter/c40/videos/003_000.mp4', 'video')
  put('manipulated_sequences/Deepfakes/masks/videos/000_003.mp4', 'video')
  put('original_sequences/actors/c23/videos/01__talking_against_wall.mp4', 'video')
  put(
    'manipulated_sequences/DeepFakeDetection/c23/videos/01_02__talking_against_wall__YVGY8LOK.mp4',
    'video',
  )
  _json(root / 'splits' / 'train.json', [['000', '003']])
  _json(root / 'splits' / 'val.json', [['010', '020']])
  _json(root / 'splits' / 'test.json', [['030', '040']])


_FF = 'FaceForensics++'
_FFPP = {
  f'{_FF}/real/c23/000': (0, 'train', 'real', 'c23', f'{_FF}/real/c23/000', '000'),
  f'{_FF}/real/c40/000': (0, 'train', 'real', 'c40', f'{_FF}/real/c40/000', '000'),
  f'{_FF}/real/raw/003': (0, 'train', 'real', 'raw', f'{_FF}/real/raw/003', '003'),
  f'{_FF}/real/c23/010': (0, 'val', 'real', 'c23', f'{_FF}/real/c23/010', '010'),
  f'{_FF}/DF/c23/000_003': (1, 'train', 'DF', 'c23', f'{_FF}/real/c23/000', '000;003'),
  f'{_FF}/NT/c23/010_020': (1, 'val', 'NT', 'c23', f'{_FF}/real/c23/010', '010;020'),
  f'{_FF}/FSh/c40/003_000': (1, 'train', 'FSh', 'c40', f'{_FF}/real/c40/003', '003;000'),
}
_DFD = {
  'DeepFakeDetection/real/c23/01__talking_against_wall': (
    0, 'test', 'real', 'c23', 'DeepFakeDetection/real/c23/01__talking_against_wall', '01'
  ),
  'DeepFakeDetection/DFD/c23/01_02__talking_against_wall__YVGY8LOK': (
    1, 'test', 'DFD', 'c23', 'DeepFakeDetection/real/c23/01__talking_against_wall', '01;02'
  ),
}  # fmt: skip


def _dfd(root, put):
  put('DFD_original sequences/01__kitchen.mp4', 'video')
  put('DFD_manipulated_sequences/01_02__kitchen__YVGY8LOK.mp4', 'video')


def _deeperforensics(root, put):
  put('manipulated_videos/end_to_end/000_M101.mp4', 'video')
  put('manipulated_videos/end_to_end_level_1/000_M101.mp4', 'video')
  put('manipulated_videos/reenact_postprocess/020_W004.mp4', 'video')
  put('original_sequences/youtube/c23/videos/000.mp4', 'video')
  put('original_sequences/youtube/c23/videos/999.mp4', 'video')  # Nobody's target.
  put('source_videos/M101/light_up/M101_light_up_neutral_camera_front.mp4', 'video')
  _text(root / 'lists/splits/train.txt', '000_M101.mp4')
  _text(root / 'lists/splits/test.txt', '020_W004.mp4')


def _celebdf(root, put):
  put('Celeb-real/id0_0000.mp4', 'video')
  put('Celeb-real/id1_0000.mp4', 'video')
  put('YouTube-real/00170.mp4', 'video')
  put('Celeb-synthesis/id0_id1_0000.mp4', 'video')
  put('Celeb-synthesis/id1_id0_0000.mp4', 'video')
  _text(
    root / 'List_of_testing_videos.txt',
    '1 YouTube-real/00170.mp4', '1 Celeb-real/id1_0000.mp4', '0 Celeb-synthesis/id1_id0_0000.mp4',
    '0 Celeb-synthesis/id7_id8_0000.mp4',
  )  # fmt: skip


def _celebdf_rows(name):
  real = f'{name}/real/Celeb-real'
  return {
    f'{real}/id0_0000': (0, 'train', 'real', '', f'{real}/id0_0000', 'id0'),
    f'{real}/id1_0000': (0, 'test', 'real', '', f'{real}/id1_0000', 'id1'),
    f'{name}/real/YouTube-real/00170': (
      0, 'test', 'real', '', f'{name}/real/YouTube-real/00170', '00170'
    ),
    f'{name}/Celeb-synthesis/id0_id1_0000': (
      1, 'train', 'Celeb-synthesis', '', f'{real}/id0_0000', 'id0;id1'
    ),
    f'{name}/Celeb-synthesis/id1_id0_0000': (
      1, 'test', 'Celeb-synthesis', '', f'{real}/id1_0000', 'id1;id0'
    ),
  }  # fmt: skip


def _celebdf_pp(root, put):
  put('Celeb-real/videos/id0_0000.mp4', 'video')
  put('Celeb-synthesis/FaceSwap/BlendFace/videos/id0_id1_0000.mp4', 'video')
  put('Celeb-synthesis/FaceSwap/GHOST/id0_id1_0000.mp4', 'video')
  put('Celeb-synthesis/TalkingFace/SadTalker/id0_0000_test_0004.mp4', 'video')
  _text(
    root / 'List_of_testing_videos.txt',
    '0 Celeb-synthesis/FaceSwap/GHOST/id0_id1_0000.mp4',
    '0 Celeb-synthesis/TalkingFace/SadTalker/id0_0000_test_0004.mp4',
  )


_PP = 'Celeb-DF++/real/Celeb-real/id0_0000'


def _dfdc(root, put):
  put('train/dfdc_train_part_0/aaa.mp4', 'video')
  put('train/dfdc_train_part_0/bbb.mp4', 'video')
  put('train/dfdc_train_part_0/unnamed.mp4', 'video')
  put('test/videos/ccc.mp4', 'video')
  put('test/videos/ddd.mp4', 'video')
  put('validation/eee.mp4', 'video')
  _json(
    root / 'train/dfdc_train_part_0/metadata.json',
    {
      'aaa.mp4': {'label': 'REAL', 'split': 'train', 'original': None},
      'bbb.mp4': {'label': 'FAKE', 'split': 'train', 'original': 'aaa.mp4'},
      'gone.mp4': {'label': 'FAKE', 'split': 'train', 'original': 'aaa.mp4'},
    },
  )
  _text(root / 'test/labels.csv', 'filename,label', 'ccc.mp4,0', 'ddd.mp4,1')
  _json(root / 'validation/metadata.json', {'eee.mp4': {'is_fake': 1}})


def _dfdcp(root, put):
  real, fake = 'original_videos/1260311/1260311_C.mp4', 'method_B/1260311/1260311_C'
  put(real, 'video')
  put(f'{fake}/1255229_1260311_C_001.mp4', 'video')
  put('method_A/643049/643049_A/1255229_643049_A_001.mp4', 'video')
  put('original_videos/643049/unlisted.mp4', 'video')
  _json(
    root / 'dataset.json',
    {
      real: {'label': 'real', 'set': 'train', 'target_id': 1260311, 'swapped_id': None},
      f'{fake}/1255229_1260311_C_001.mp4': {
        'label': 'fake', 'set': 'train', 'target_id': 1260311, 'swapped_id': 1255229,
      },
      'method_A/643049/643049_A/1255229_643049_A_001.mp4': {
        'label': 'fake', 'set': 'test', 'target_id': 643049, 'swapped_id': 1255229,
      },
    },
  )  # fmt: skip


def _uadfv(root, put):
  put('real/0000.mp4', 'video')
  put('fake/0000_fake.mp4', 'video')


def _wilddeepfake(root, put):
  put('real_train/3/real/103', 'frames')
  put('fake_train/7/fake/12', 'frames')
  put('fake_test/7/fake/12', 'frames')


def _ffiw(root, put):
  put('source/train/train_00000001.mp4', 'video')
  put('target/train/train_00000003.mp4', 'video')
  put('target/val/videos/val_00000001.mp4', 'video')
  put('target_mask/train/train_00000003.mp4', 'video')


def _folder(root, put):
  put('train/real/interview one.mp4', 'video')
  put('train/fake/DF/Müller–日本.mp4', 'video')
  put('test/Real/photo.png', 'image')
  put('test/fake/clip_7', 'frames')
  put('test/fake/photo.png', 'image')


MINIATURES = [
  Miniature('ffpp', _ffpp, _FFPP | _DFD, ('--split', 'test')),
  Miniature(
    'dfd',
    _dfd,
    {
      'DeepFakeDetection/real/01__kitchen': (
        0, 'train', 'real', '', 'DeepFakeDetection/real/01__kitchen', '01'
      ),
      'DeepFakeDetection/DFD/01_02__kitchen__YVGY8LOK': (
        1, 'train', 'DFD', '', 'DeepFakeDetection/real/01__kitchen', '01;02'
      ),
    },
    ('--split', 'train'),
  ),
  Miniature(
    'deeperforensics',
    _deeperforensics,
    {
      'DeeperForensics-1.0/real/000': (
        0, 'train', 'real', '', 'DeeperForensics-1.0/real/000', '000'
      ),
      'DeeperForensics-1.0/end_to_end/000_M101': (
        1, 'train', 'end_to_end', '', 'DeeperForensics-1.0/real/000', '000;M101'
      ),
      'DeeperForensics-1.0/end_to_end_level_1/000_M101': (
        1, 'train', 'end_to_end_level_1', '', 'DeeperForensics-1.0/real/000', '000;M101'
      ),
      'DeeperForensics-1.0/reenact_postprocess/020_W004': (
        1, 'test', 'reenact_postprocess', '', 'FaceForensics++/real/c23/020', '020;W004'
      ),
    },
  ),
  Miniature('celebdf_v1', _celebdf, _celebdf_rows('Celeb-DF-v1')),
  Miniature('celebdf_v2', _celebdf, _celebdf_rows('Celeb-DF-v2')),
  Miniature(
    'celebdf_pp',
    _celebdf_pp,
    {
      _PP: (0, 'train', 'real', '', _PP, 'id0'),
      'Celeb-DF++/BlendFace/id0_id1_0000': (1, 'train', 'BlendFace', '', _PP, 'id0;id1'),
      'Celeb-DF++/GHOST/id0_id1_0000': (1, 'test', 'GHOST', '', _PP, 'id0;id1'),
      'Celeb-DF++/SadTalker/id0_0000_test_0004': (1, 'test', 'SadTalker', '', _PP, 'id0'),
    },
  ),
  Miniature(
    'dfdc',
    _dfdc,
    {
      'DFDC/real/aaa': (0, 'train', 'real', '', 'DFDC/real/aaa', ''),
      'DFDC/fake/bbb': (1, 'train', 'fake', '', 'DFDC/real/aaa', ''),
      'DFDC/real/ccc': (0, 'test', 'real', '', 'DFDC/real/ccc', ''),
      'DFDC/fake/ddd': (1, 'test', 'fake', '', '', ''),
      'DFDC/fake/eee': (1, 'val', 'fake', '', '', ''),
    },
  ),
  Miniature(
    'dfdcp',
    _dfdcp,
    {
      'DFDCP/real/1260311/1260311_C': (
        0, 'train', 'real', '', 'DFDCP/real/1260311/1260311_C', '1260311'
      ),
      'DFDCP/method_B/1260311/1260311_C/1255229_1260311_C_001': (
        1, 'train', 'method_B', '', 'DFDCP/real/1260311/1260311_C', '1260311;1255229'
      ),
      'DFDCP/method_A/643049/643049_A/1255229_643049_A_001': (
        1, 'test', 'method_A', '', '', '643049;1255229'
      ),
    },
  ),
  Miniature(
    'uadfv',
    _uadfv,
    {
      'UADFV/real/0000': (0, 'train', 'real', '', 'UADFV/real/0000', ''),
      'UADFV/fake/0000_fake': (1, 'train', 'fake', '', 'UADFV/real/0000', ''),
    },
    ('--split', 'train'),
  ),
  Miniature(
    'wilddeepfake',
    _wilddeepfake,
    {
      'WildDeepfake/real/train/3/real/103': (
        0, 'train', 'real', '', 'WildDeepfake/real/train/3/real/103', ''
      ),
      'WildDeepfake/fake/train/7/fake/12': (1, 'train', 'fake', '', '', ''),
      'WildDeepfake/fake/test/7/fake/12': (1, 'test', 'fake', '', '', ''),
    },
  ),
  Miniature(
    'ffiw',
    _ffiw,
    {
      'FFIW/real/train/train_00000001': (
        0, 'train', 'real', '', 'FFIW/real/train/train_00000001', ''
      ),
      'FFIW/fake/train/train_00000003': (1, 'train', 'fake', '', '', ''),
      'FFIW/fake/val/val_00000001': (1, 'val', 'fake', '', '', ''),
    },
  ),
  Miniature(
    'folder',
    _folder,
    {
      'Mine/real/train/interview one': (
        0, 'train', 'real', '', 'Mine/real/train/interview one', ''
      ),
      'Mine/DF/train/Müller–日本': (1, 'train', 'DF', '', '', ''),
      'Mine/real/test/photo': (0, 'test', 'real', '', 'Mine/real/test/photo', ''),
      'Mine/fake/test/clip_7': (1, 'test', 'fake', '', '', ''),
      'Mine/fake/test/photo': (1, 'test', 'fake', '', '', ''),
    },
    ('--dataset', 'Mine'),
  ),
]  # fmt: skip
