"""The data sets that a config names: manifests of training, validation and tests, checked."""

import dataclasses
import pathlib

import ml_collections
from absl import logging

from masm_jax import places
from masm_jax.data import crop_flags, leaks
from masm_jax.data import manifest as manifest_lib
from masm_jax.data.columns import FAKE, REAL, UNLABELLED
from masm_jax.data.manifest import Manifest
from masm_jax.data.presets import SBI
from masm_jax.errors import UserError

SYNTHETIC = 'synthetic'  # The manifest name of the built-in set.
SYNTHETIC_NOTE = (
  'Synthetic portraits: these metrics show that the program works; they prove nothing '
  'about real deepfakes.'
)
# What is drawn because a run's config says so, which may be a stranger's: some minutes of drawing.
_MOST_PEOPLE, _MOST_PIXELS = 1000, 2**24  # Pixels: people times size squared.
_FEW_VIDEOS = 10  # Of a class in the validation set.


@dataclasses.dataclass(frozen=True)
class DataSets:
  """What a run reads.

  Attributes:
    train: what is learned from.
    val: what chooses the checkpoint.
    tests: name -> what is reported at the end.
  """

  train: Manifest
  val: Manifest
  tests: dict[str, Manifest]

  def hashes(self) -> dict[str, str]:
    """The manifests' SHA-256 by name: `train`, `val`, `test/NAME`."""
    named = {'train': self.train, 'val': self.val}
    named |= {f'test/{name}': manifest for name, manifest in self.tests.items()}
    return {name: manifest.sha256 for name, manifest in named.items()}


def load_sets(config: ml_collections.ConfigDict) -> DataSets:
  """Loads and checks every data set of `config.data`.

  Raises:
    UserError: a missing or broken manifest; no rows where some are needed; a training or validation
      set without one of the classes (`sbi` trains without fakes) or with unlabelled rows; a
      validation set with rows that are marked test.
  """
  load = SetLoader(config.synthetic)
  train = load('data.train', config.train)
  val = load('data.val', config.val)
  refuse_test_rows('data.val', val)
  refuse_unlabelled('data.train', train)
  refuse_unlabelled('data.val', val)
  for name, manifest, purpose in (
    ('data.train', train, 'learn to tell fakes from real faces'),
    ('data.val', val, 'choose the best checkpoint'),
  ):
    makes_fakes = manifest is train and config.augment == SBI
    for label, what in ((REAL, 'real'), (FAKE, 'fake')):
      if not (manifest.labels == label).any() and not (label == FAKE and makes_fakes):
        raise UserError(
          f'{name}: no {what} face among its {len(manifest)} rows; to {purpose}, a '
          'set needs both classes'
        )
  tests = {}
  for name, spec in config.tests.items():
    if spec.manifest:
      tests[name] = load(f'data.tests.{name}', spec)
  sets = DataSets(train, val, tests)
  _warn_small(val)
  _warn_overlap(sets)
  return sets


class SetLoader:
  """Loads data sets by their specs; a manifest that several of them name is read once.

  Args:
    synthetic: `config.data.synthetic`, for the built-in set.
    is_stored: whether a run's stored config says so: what it draws then has limits, unless it is
      drawn already.
  """

  def __init__(self, synthetic: ml_collections.ConfigDict, *, is_stored: bool = False):
    self._synthetic, self._is_stored = synthetic, is_stored
    self._loaded: dict[tuple[str, str], Manifest] = {}

  def __call__(
    self, name: str, spec: ml_collections.ConfigDict, *, allow_empty: bool = False
  ) -> Manifest:
    """The rows that a spec (`common.dataset`) asks for.

    Args:
      name: of the config field, for errors.
      spec: which manifest, and which of its rows.
      allow_empty: whether no row at all is a result rather than an error.

    Raises:
      UserError: a missing or broken manifest; no row, unless that is allowed.
    """
    key = (spec.manifest, spec.root)
    if key not in self._loaded:
      self._loaded[key] = _load(spec, self._synthetic, name, self._is_stored)
    return select(self._loaded[key], spec, name, allow_empty=allow_empty)


def refuse_test_rows(name: str, manifest: Manifest) -> None:
  """Raises a UserError if a set that chooses something has rows that are marked test."""
  marked = int((manifest.table['split'] == 'test').sum())
  if marked:
    raise UserError(
      f'{name}: {marked} of {len(manifest)} rows are marked test: checkpoints and thresholds are'
      f' chosen on validation data, never on a test set; set {name}.split = val'
    )


def refuse_unlabelled(name: str, manifest: Manifest) -> None:
  """Raises a UserError if a set that needs labels has rows without one."""
  unlabelled = int((manifest.labels == UNLABELLED).sum())
  if unlabelled:
    raise UserError(
      f'{name}: {unlabelled} of {len(manifest)} rows have no label (label = -1): these can be'
      ' scored by an evaluation, and nothing else; label them, or take them out'
    )


def select(
  manifest: Manifest, spec: ml_collections.ConfigDict, name: str, *, allow_empty: bool = False
) -> Manifest:
  """Rows of a manifest that a spec asks for.

  `methods` keeps the fakes of those methods and the real faces beside them. Crops that
  preprocessing flagged are left out, unless `flagged` asks for them; the stored config of a run
  from before that field takes them, as that run did.

  Raises:
    UserError: nothing is left, unless that is allowed.
  """
  wanted = {column: spec[column] for column in ('split', 'dataset') if spec[column]}
  selected = manifest.select(**wanted)
  if spec.methods:
    there = set(selected.table['method'])
    # An empty split is allowed; a forgery that occurs nowhere is a typo.
    known = set(manifest.table['method']) if allow_empty else there
    missing = [method for method in spec.methods if method not in known]
    if missing:
      raise UserError(
        f'{name}: no row has method {missing[0]!r}; there are {", ".join(sorted(known))}'
      )
    real = selected.table.loc[selected.table['label'] == 0, 'method']
    selected = selected.select(method=sorted({*real, *spec.methods}))
  if not len(selected):
    asked = ', '.join(f'{column} = {value}' for column, value in wanted.items())
    there = ', '.join(sorted(set(manifest.table['split'])))
    told = f'{name}: no row of {spec.manifest} has {asked}; it has the splits {there}'
    if not allow_empty:
      raise UserError(f'{told}; `python -m masm_jax.data split` divides it anew')
    logging.warning("%s; %s.split = '' takes every row", told, name)
  if spec.get('flagged', True):
    return selected
  fit = crop_flags.leave_out_flagged(selected, name)
  if len(selected) and not len(fit) and not allow_empty:
    raise UserError(
      f'{name}: preprocessing flagged all {len(selected)} crops (column {crop_flags.COLUMN}); '
      f'{name}.flagged=True takes them'
    )
  return fit


def _load(
  spec: ml_collections.ConfigDict,
  synthetic: ml_collections.ConfigDict,
  name: str,
  is_stored: bool,
) -> Manifest:
  if spec.manifest == SYNTHETIC:
    # Drawing needs OpenCV and time: only runs that use the built-in set pay for it.
    from masm_jax.data.synthetic import CODE_VERSION, materialize

    for field in ('seed', 'size_px', 'identities'):  # A stranger's config may name a folder.
      if type(synthetic[field]) is not int:
        raise UserError(f'data.synthetic.{field} = {synthetic[field]!r}: needs a whole number')
    if type(synthetic.strength) not in (int, float):
      raise UserError(f'data.synthetic.strength = {synthetic.strength!r}: needs a number')
    seed, size_px, identities = synthetic.seed, synthetic.size_px, synthetic.identities
    is_large = identities > _MOST_PEOPLE or identities * size_px**2 > _MOST_PIXELS
    folder = f'synthetic_v{CODE_VERSION}_{size_px}px_seed{seed}'
    folder += '' if identities == 90 else f'_identities{identities}'
    folder += '' if synthetic.strength == 1 else f'_strength{float(synthetic.strength):g}'
    root = pathlib.Path(synthetic.root or places.cache_folder() / folder)
    if is_stored and is_large and not root.exists():
      raise UserError(
        f'{name}: the config of the run asks for a built-in set of {identities:,} people at'
        f' {size_px} px, more than is drawn for a run: name the data on the command line'
      )
    path = materialize(
      root,
      seed=seed,
      size_px=size_px,
      num_identities=identities,
      strength=float(synthetic.strength),
    )
    return manifest_lib.load_manifest(path)
  if not spec.manifest:
    raise UserError(
      f'{name}.manifest is empty: give a manifest (`python -m masm_jax.data import` or '
      f'`python -m masm_jax.preprocess` makes one), or {SYNTHETIC!r} for the built-in set'
    )
  return manifest_lib.load_manifest(spec.manifest, spec.root or None)


def _warn_small(val: Manifest) -> None:
  """Says where the validation set is too small to choose anything with."""
  real, fake = (val.table['video_id'][val.labels == label].nunique() for label in (REAL, FAKE))
  if min(real, fake) < _FEW_VIDEOS:
    logging.warning(
      'the validation set has few videos (%d real, %d fake): the checkpoint, the threshold and the'
      ' calibration that it chooses are close to chance; %d of each are a beginning',
      real,
      fake,
      _FEW_VIDEOS,
    )


def _warn_overlap(sets: DataSets) -> None:
  """Says where a test or validation set shares faces with what was learned from or chosen with."""
  found = [('validation', leak) for leak in leaks.find_leaks(sets.train, sets.val)]
  for name, manifest in sets.tests.items():
    found += [(name, leak) for leak in leaks.find_leaks(sets.train, manifest)]
    found += [(name, leak) for leak in leaks.find_leaks(sets.val, manifest, 'validation')]
  for name, leak in found:
    logging.warning('%s %s', name, leak.text)
