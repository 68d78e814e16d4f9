"""`detector.json` from strangers: whatever is wrong with it is one line."""

import json

import pytest

from masm_jax.inference import detector_file
from tests.inference.detector_files_made import NOTE, put, refused


def test_a_bit_that_flips_in_the_note_is_found(copy, mesh):
  note = (copy / NOTE).read_bytes()
  spots = [note.index(b'"norm_eps": 1e-06') + 12, note.index(b'"digest"') + 3]
  spots += [note.index(key) + len(key) + 2 for key in (b'"temperature": ', b'"eer": ')]
  for spot in spots:
    (copy / NOTE).write_bytes(note[:spot] + bytes([note[spot] ^ 1]) + note[spot + 1 :])
    refused(copy, mesh, 'does not match its digest|Extra inputs|Input should be')


def test_a_note_of_an_earlier_version_is_believed_with_a_warning(copy, mesh, caplog):
  note = json.loads((copy / NOTE).read_text())
  del note['digest']
  (copy / NOTE).write_text(json.dumps(note))
  assert detector_file.load_detector_file(copy, mesh).file.name == 'tiny'
  (text,) = [record.getMessage() for record in caplog.records if 'digest' in record.getMessage()]
  assert 'an earlier version wrote detector.json without a digest' in text and '\n' not in text


@pytest.mark.parametrize(
  ('place', 'value', 'match'),
  [
    ('format', 'masm_jax detector 2', 'format: Input should be'),
    ('extra', 1, 'extra: Extra inputs are not permitted'),
    ('origin.extra', 1, 'origin.extra: Extra inputs'),
    ('weights.path', '/etc/passwd', 'weights.path: Extra inputs'),
    ('weights.file', '../../secret', 'weights.file: Extra inputs'),
    ('weights.sha256', 'A' * 64, 'weights.sha256: String should match'),
    ('weights.kind', 'pickle', 'weights.kind: Input should be'),
    ('weights.kind', 'adapter', "unknown backbone 'tiny'"),
    ('weights.bytes', -1, 'weights.bytes: Input should be greater'),
    ('weights.bytes', 1e3, 'weights.bytes: Input should be a valid integer'),
    ('weights.bytes', 10**400, 'weights.bytes: '),
    ('name', '', 'name: String should have at least 1'),
    ('name', 'a\nb', 'name: String should match'),
    ('name', '\x1b[2J', 'name: String should match'),
    ('name', 'x' * 300, 'name: String should have at most 200'),
    ('licence_note', 'two\nlines', 'licence_note: String should match'),
    ('method', '../masm', 'method: String should match'),
    ('head.normalize_features', 1, 'head.normalize_features: Input should be a valid boolean'),
    ('head', None, 'head: Input should be'),
    ('crops', [{'template': 'gend', 'margin': 1e400, 'size_px': 0}], 'crops.0.margin: '),
    ('crops', [{'template': '../gend', 'margin': 1, 'size_px': 0}], 'crops.0.template: '),
    ('crops', [{'template': 'gend', 'margin': 1, 'size_px': 10**9}], 'crops.0.size_px: '),
    ('validation.thresholds.frame.eer', 'nan', 'thresholds.frame.eer: Input should be a valid num'),
    ('validation.thresholds.frame.eer', 7, 'thresholds.frame.eer: Input should be less'),
    ('validation.thresholds.frame.best', 0.5, 'thresholds.frame.best.*: Input should be'),
    ('validation.calibration.temperature', 0, 'temperature: Input should be greater'),
    ('validation.features.threshold', -1, 'features.threshold: Input should be greater'),
    ('origin.step', True, 'origin.step: Input should be a valid integer'),
    ('origin.seed', 2**63, 'origin.seed: Input should be less'),
    ('config', [], 'config: Input should be'),
    ('backbone.family', 'os.system', "backbone.family 'os.system' is none of"),
    ('backbone.family', '__class__', "backbone.family '__class__' is none of"),
    ('backbone.dtype', 'float64', 'backbone.dtype: Input should be'),
    ('backbone.architecture', {}, 'backbone.architecture.image_size: '),
    ('backbone.architecture.extra', 1, 'architecture.extra: Unexpected keyword'),
    ('backbone.architecture.depth', 10**9, 'depth. holds 1e.09: a number from 0 to 65536'),
    ('backbone.architecture.depth', 60000, '60000 blocks and .* at most 256 and 64 are built'),
    ('backbone.architecture.depth', 256, 'does not hold the weights of the architecture'),
    ('backbone.architecture.num_registers', 65536, '2 blocks and 65537 tokens .* at most 256 and'),
    ('backbone.architecture.depth', 1, 'which is none of its arrays'),
    ('backbone.architecture.depth', 3, 'lacks backbone/block_02/'),
    ('backbone.architecture.depth', '2', 'architecture.depth: Input should be a valid integer'),
    ('backbone.architecture.depth', -1, 'depth. holds -1: a number from 0'),
    ('backbone.architecture.width', 48, r'is F32 \[.*24.*\], not F32 \[.*48.*\]'),
    ('backbone.architecture.width', 65536, 'architecture: .*not a multiple'),
    ('backbone.architecture.num_heads', 0, 'backbone.architecture: integer modulo by zero'),
    ('backbone.architecture.num_heads', 5, 'backbone.architecture: .* not a multiple of num_heads'),
    ('backbone.architecture.image_size', 4096, 'image_size. holds 4096: a number from 0 to 2048'),
    ('backbone.architecture.image_size', 2048, '2048 px is 65,536 patches, for 3 heads: take a'),
    ('backbone.architecture.image_size', 512, r'pos_embed is F32 .*, not F32 \[1, 4097, 24\]'),
    ('backbone.architecture.patch_size', 0, 'backbone.architecture: '),
    ('backbone.architecture.mlp_dim', 0, 'architecture cannot be built'),
    ('backbone.architecture.std', [0.5, 0.5], 'architecture.std.2: Field required'),
    ('backbone.architecture.std', [0.0, 0.5, 0.5], 'architecture.std holds a number below 1e-06'),
    ('backbone.architecture.mean', [1e300, 0.5, 0.5], 'mean. holds 1e.300: a number'),
    ('backbone.architecture.norm_eps', -1.0, 'norm_eps. holds -1: a number'),
    ('backbone.architecture.activation', '__import__', 'architecture.activation: Input should be'),
  ],
)  # fmt: skip
def test_a_note_that_is_not_what_it_should_be(copy, mesh, place, value, match):
  put(copy, place, value)
  refused(copy, mesh, match)


def test_nan_deep_nesting_and_great_length_in_the_note(copy, mesh):
  note = (copy / NOTE).read_text()
  for token in ('NaN', 'Infinity', '1e999'):
    (copy / NOTE).write_text(note.replace('"step": 1', f'"step": {token}'))
    refused(copy, mesh, 'origin.step: ')
    broken = note.replace('"percentile": 99.0', f'"percentile": {token}')
    (copy / NOTE).write_text(broken)
    refused(copy, mesh, 'validation.features.percentile: ')
  (copy / NOTE).write_text(note.replace('"config": {}', f'"config": {"[" * 5000}{"]" * 5000}'))
  refused(copy, mesh, 'detector file')
  (copy / NOTE).write_text(note + ' ' * 2**20)
  refused(copy, mesh, 'detector.json is larger than')
  (copy / NOTE).write_bytes(b'\x80\x04}q\x00.')  # A pickle.
  refused(copy, mesh, 'Invalid JSON|invalid')
