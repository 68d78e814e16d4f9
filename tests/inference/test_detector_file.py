"""Detector files from strangers: each damage is one line, and nothing but the folder is read."""

import os
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from masm_jax.errors import UserError
from masm_jax.inference import detector_file
from masm_jax.metrics import scores
from tests.inference.detector_files_made import (
  NOTE,
  VALIDATION,
  WEIGHTS,
  note_hash,
  put,
  refused,
  replace,
  write,
)


def test_what_is_written_is_read_back(sound, params, config, found, mesh):
  run = detector_file.load_detector_file(sound, mesh)
  jax.tree.map(np.testing.assert_array_equal, run.params, params)
  assert run.detector == config
  assert run.validation.thresholds == found.thresholds
  assert run.validation.calibration == found.calibration
  for level in scores.LEVELS:
    assert run.validation.band(level) == found.band(level)
  for name in ('means', 'whitening', 'threshold', 'percentile', 'num'):
    np.testing.assert_array_equal(
      getattr(run.validation.features, name), getattr(found.features, name)
    )
  assert run.facts['method'] == 'linear' and run.file.name == 'tiny' and run.crops == ()


def test_a_file_without_validation(params, config, mesh, tmp_path):
  write(tmp_path / 'file', params, config, None)
  assert detector_file.load_detector_file(tmp_path / 'file', mesh).validation is None


def test_weights_that_are_not_finite_are_not_written(params, config, tmp_path):
  params = jax.tree.map(np.array, params)
  params['head']['bias'][0] = np.nan
  with pytest.raises(UserError, match='the first is head/bias: the model has diverged'):
    write(tmp_path / 'file', params, config, None)
  assert not (tmp_path / 'file').exists()


def test_every_flipped_bit_and_every_truncation_is_told(copy, mesh):
  rng = np.random.default_rng(0)
  for name in (WEIGHTS, VALIDATION):
    sound = (copy / name).read_bytes()
    for where in (0, 3, 8, 40, *rng.integers(0, len(sound), 8), len(sound) - 1):
      broken = bytearray(sound)
      broken[where] ^= 1 << int(rng.integers(8))
      (copy / name).write_bytes(broken)
      refused(copy, mesh, f'{name} is not the file that its note was written with')
    for length in (0, 7, 100, len(sound) - 1):
      (copy / name).write_bytes(sound[:length])
      refused(copy, mesh, f'{name} is not the file')
    (copy / name).write_bytes(sound + b'\0')
    refused(copy, mesh, f'{name} is not the file')
    (copy / name).write_bytes(sound)
  note = (copy / NOTE).read_bytes()
  for length in (0, 1, 50, len(note) // 2, len(note) - 3):
    (copy / NOTE).write_bytes(note[:length])
    refused(copy, mesh, 'Invalid JSON')


def test_files_of_two_detectors_do_not_mix(copy, params, config, found, tmp_path, mesh):
  other = tmp_path / 'other'
  params = jax.tree.map(lambda x: x + 1, params)
  write(other, params, config, found)
  shutil.copy(other / WEIGHTS, copy / WEIGHTS)
  refused(copy, mesh, 'weights.safetensors is not the file')
  shutil.copy(copy / VALIDATION, copy / WEIGHTS)
  refused(copy, mesh, 'weights.safetensors is not the file')


@pytest.mark.parametrize('name', [NOTE, WEIGHTS, VALIDATION])
def test_a_missing_file_a_pipe_and_a_folder_are_told(copy, mesh, name):
  (copy / name).unlink()
  refused(copy, mesh, f'there is no file {name}')
  os.mkfifo(copy / name)
  refused(copy, mesh, f'there is no file {name}')
  (copy / name).unlink()
  (copy / name).mkdir()
  refused(copy, mesh, f'there is no file {name}')
  (copy / name).rmdir()
  (copy / name).symlink_to('/dev/zero')
  refused(copy, mesh, f'there is no file {name}')


def test_weights_of_another_type_shape_or_name_are_refused(copy, params, config, mesh):
  sound = safetensors.numpy.load_file(copy / WEIGHTS)
  for change, match in (
    ({'head/bias': np.zeros(2, np.float64)}, r'head/bias is F64 \[2\], not F32 \[2\]'),
    ({'head/bias': np.zeros(3, np.float32)}, r'head/bias is F32 \[3\], not F32 \[2\]'),
    ({'head/bias': np.array([0, np.nan], np.float32)}, 'head/bias holds values that are not fin'),
    ({'head/bias': np.array([0, np.inf], np.float32)}, 'head/bias holds values that are not fin'),
    ({'../\n\x1b': np.zeros(1, np.float32)}, r'holds ../\\n\\x1b, which is none'),
  ):
    replace(copy, WEIGHTS, sound | change)
    refused(copy, mesh, match)
  del sound['head/bias']
  replace(copy, WEIGHTS, sound)
  refused(copy, mesh, 'lacks head/bias and 0 other arrays')
  (copy / WEIGHTS).write_bytes(b'no safetensors at all')
  note_hash(copy, WEIGHTS)
  refused(copy, mesh, 'is no whole safetensors file')


def test_validation_arrays_that_are_no_scores_are_refused(copy, mesh):
  sound = safetensors.numpy.load_file(copy / VALIDATION)
  num = len(sound['frame/scores'])
  for change, match in (
    ({'frame/scores': sound['frame/scores'][::-1].copy()}, 'frame scores are no sorted scores'),
    ({'frame/scores': np.linspace(0, 2, num)}, 'frame scores are no sorted scores'),
    ({'frame/labels': np.full(num, 2, np.uint8)}, 'frame scores are no sorted scores'),
    ({'frame/labels': np.zeros(num + 1, np.uint8)}, r'frame/labels is U8 \[41\], not U8 \[40\]'),
    ({'video/scores': np.zeros((2, 2))}, r'video/scores is F64 \[2, 2\], not F64 \[2\]'),
    ({'frame/scores': np.zeros(2**17 + 1)}, 'more than 131072 scores'),
    ({'frame/scores': np.array(0.5)}, r'frame/scores is F64 \[\], not F64 \[0\]'),
    ({'features/means': np.zeros((2, 25), np.float32)}, r'not F32 \[2, 24\]'),
    ({'features/whitening': np.full((24, 24), np.inf, np.float32)}, 'are not finite'),
    ({'more': np.zeros(1)}, 'holds more, which is none of its arrays'),
  ):
    replace(copy, VALIDATION, sound | change)
    refused(copy, mesh, match)


def test_step_and_base_weights_are_of_runs(sound, mesh):
  for words, match in (({'step': '7'}, 'holds one checkpoint'), ({'weights': 'a'}, 'no base')):
    with pytest.raises(UserError, match=match):
      detector_file.load_detector(sound, mesh, **words)


def test_one_that_a_kill_left_half_replaced_is_told_and_finished(copy, params, config, found, mesh):
  put(copy, 'origin.seed', 7)
  ready = copy / f'.{NOTE}.finished'
  ready.mkdir()
  (copy / NOTE).rename(ready / NOTE)
  with pytest.raises(UserError, match='is half replaced: run the command again that wrote it'):
    detector_file.load_detector(copy, mesh)
  with pytest.raises(UserError, match='holds another detector'):  # It is read where it belongs.
    write(copy, params, config, found)
  assert detector_file.load_detector(copy, mesh).file and not ready.exists()
