"""What the demo writes to be predicted."""

import av

from masm_jax import demo
from masm_jax.data import transforms


def test_inputs_are_pictures_and_a_clip(trained_run, tmp_path):
  paths = demo.write_inputs(trained_run, tmp_path / 'inputs')
  names = ['real_1.png', 'real_2.png', 'fake_1.png', 'fake_2.png', 'fake_clip.mp4']
  assert [path.name for path in paths] == names
  pictures = [transforms.decode(path) for path in paths[:-1]]
  assert len({picture.tobytes() for picture in pictures}) == 4
  with av.open(str(paths[-1])) as container:
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
  assert len(frames) >= 8 and frames[0].shape == pictures[0].shape
