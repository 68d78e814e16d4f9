"""Explains files, and measures explanations on data sets, for one trained run."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from masm_jax import config as config_lib
from masm_jax import files, places, telemetry
from masm_jax.data import sets as sets_lib
from masm_jax.data import transforms
from masm_jax.data.manifest import Manifest
from masm_jax.errors import UserError
from masm_jax.explain import benchmark, knock_out, pairs, verdict
from masm_jax.explain.baselines import Baselines
from masm_jax.explain.explanation import Explanation, explain
from masm_jax.explain.gates import Explainer
from masm_jax.inference import detector_file, trained
from masm_jax.inference.changes import learned_changes
from masm_jax.metrics import text_tables
from masm_jax.metrics.clusters import make_clusters
from masm_jax.parallel import sharding
from masm_jax.plots.explanation import explanation_figure, knock_out_figure
from masm_jax.preprocess.raw_video import is_picture

NOTE, LINES = 'explain.json', 'explanations.jsonl'
BENCHMARK = 'benchmark.json'
_FORM, _BENCHMARK_FORM = 'masm_jax explanations ', 'masm_jax explanation benchmark '
FORMAT = f'{_BENCHMARK_FORM}1'
_MAX_NAME_BYTES = 200  # Of a picture's own name in its map's.


class Explained(NamedTuple):
  """A run, ready to be explained.

  Attributes:
    explainer: of its detector and changes.
    facts: what the detector is, see `inference.trained.TrainedRun`.
    config: of the run; None for a detector file, which names no data.
    benchmark: what a detector file tells of the maps, in the form of `benchmark.measure`; None
      where nobody measured them.
  """

  explainer: Explainer
  facts: Mapping[str, Any]
  config: ml_collections.ConfigDict | None
  benchmark: Mapping[str, Any] | None = None


def load(source: pathlib.Path, *, step: str = 'best', weights: str = '') -> Explained:
  """A run's folder or a detector file, with what training added apart.

  Args:
    source: the folder.
    step: of a run: 'best', 'last' or a number.
    weights: of a run: the file of base weights, if it is no longer where the run found it.

  Raises:
    UserError: see `detector_file.load_detector`; or there is nothing to explain.
  """
  mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
  if detector_file.is_detector_file(source):
    found = detector_file.load_detector(source, mesh, step=step, weights=weights)
    changes = detector_file.load_changes(source, found)
    measured = found.file and found.file.explanation and found.file.explanation.benchmark
    return Explained(
      Explainer(found.detector, changes),
      found.facts,
      None,
      verdict.stored(measured.model_dump()) if measured else None,
    )
  run = trained.load_adapted(source, mesh, step=step, weights=weights)
  changes = learned_changes(run)
  if not changes.parts:
    raise UserError(
      f'{source}: the method {run.facts["method"]} trained the head alone: there is no learned'
      ' change of the backbone to explain'
    )
  return Explained(Explainer(run.detector, changes), run.facts, run.config)


def part_names(num_parts: int) -> list[str]:
  """What the K changes are called."""
  if num_parts == 1:
    return ['the learned change']
  return [f'subspace {k + 1}' for k in range(num_parts)]


def list_pictures(sources: Sequence[str], *, out: pathlib.Path | None = None) -> list[pathlib.Path]:
  """Pictures by path; those directly in a folder by name.

  Args:
    sources: pictures and folders.
    out: where the maps go: none of it is a source, by a link either.

  Raises:
    UserError: nothing there, a folder without pictures, or `out` is or holds a source.
  """
  if out:
    places.refuse_inputs(out, sources)  # The next start would explain its own maps.
  found: list[pathlib.Path] = []
  for source in sources:
    path = pathlib.Path(source)
    if path.is_dir():
      inside = sorted(entry for entry in path.iterdir() if is_picture(entry.name))
      if out:
        own = out.resolve()
        inside = [entry for entry in inside if not entry.resolve().is_relative_to(own)]
      if not inside:
        raise UserError(f'{path} holds no pictures')
      found += inside
    elif path.is_file():
      found.append(path)
    else:
      raise UserError(f'no picture or folder {path}')
  return found


def explain_files(
  run: Explained, paths: Sequence[pathlib.Path], out: pathlib.Path, *, points: int
) -> list[tuple[pathlib.Path, Explanation]]:
  """Explains face crops: one line of JSON each, and one PNG.

  Args:
    run: what explains.
    paths: crops, made as the detector's training crops were.
    out: gets `explanations.jsonl`, `001_NAME.png`, ..., and the note of them, `explain.json`; those
      that were there are replaced together.
    points: of the quadrature.

  Raises:
    UserError: a file is no picture, the folder holds other files, or nothing can be written.
  """
  with places.folder_of(NOTE, out, what='the explanations', form=_FORM) as fresh:
    found = _explain_into(fresh, run, paths, points)
    _write_note(fresh, NOTE, {'format': f'{_FORM}1', 'run': dict(run.facts)})
  return found


def _write_note(fresh: pathlib.Path, name: str, document: Mapping[str, Any]) -> None:
  """Writes a note that lists what lies beside it."""
  listed = sorted(path.name for path in fresh.iterdir())
  files.write_json(fresh / name, {**document, 'files': listed})


def _explain_into(
  fresh: pathlib.Path, run: Explained, paths: Sequence[pathlib.Path], points: int
) -> list[tuple[pathlib.Path, Explanation]]:
  size = run.explainer.config.backbone.image_size
  images = np.stack([transforms.resize(transforms.decode(path), size) for path in paths])
  names = part_names(run.explainer.changes.num_parts)
  found, lines = [], []
  with telemetry.Progress(len(paths), label='explain', unit='pictures') as progress:
    for i, one in enumerate(explain(run.explainer, images, points=points)):
      found.append((paths[i], one))
      lines.append(files.to_json({'name': paths[i].name} | one.to_dict()))
      maps = {'all changes': one.maps.sum(axis=0)}
      if len(names) > 1:
        maps |= dict(zip(names, one.maps, strict=True))
      values = {'pretrained': one.base_logit} | dict(zip(names, one.values, strict=True))
      stem = files.cut_name(paths[i].stem, _MAX_NAME_BYTES)
      explanation_figure(
        images[i], maps, values, fresh / f'{i + 1:03d}_{stem}.png',
        title=text_tables.one_line(f'{paths[i].name}: logit {one.logit:+.2f}'), note=_note(one),
      )  # fmt: skip
      progress.update(i + 1)
  files.write_text(fresh / LINES, ''.join(json.dumps(line) + '\n' for line in lines))
  return found


def _note(one: Explanation) -> str:
  return (
    f'Red speaks for fake, blue for real. m(0) = {one.base_logit:+.3f}, m(1) = {one.logit:+.3f};'
    f' the maps miss {one.completeness_error:+.4f} of the difference; {one.token_share:.0%} of the'
    ' change goes through tokens that are no place in the picture.'
  )


def load_sets(run: Explained, suite: ml_collections.ConfigDict) -> dict[str, Manifest]:
  """The test sets of a suite by name, or those of the run's config where it names none.

  Raises:
    UserError: a set is not at hand, or the suite leaves nothing to measure on.
  """
  config_lib.validate_suite(suite)
  specs, synthetic = suite.sets, suite.synthetic
  if not specs and run.config is not None:
    own = run.config.data
    specs = {name: spec for name, spec in own.tests.items() if spec.manifest}
    synthetic = own.synthetic
  if not specs:
    raise UserError('no test set is named: give --suite.sets.NAME.manifest=FILE')
  load_one = sets_lib.SetLoader(synthetic, is_stored=not suite.sets)
  return {name: load_one(f'sets.{name}', spec) for name, spec in specs.items()}


def measure(
  run: Explained,
  sets: Mapping[str, Manifest],
  out: pathlib.Path,
  *,
  points: int = 8,
  limit: int = 200,
  num_draws: int = 2000,
  seed: int = 0,
) -> dict[str, Any]:
  """Measures a run's explanations on data sets, and writes `benchmark.json` and pictures.

  Args:
    run: what is measured.
    sets: name -> manifest of real and fake crops, fakes beside their real frames.
    out: folder of the results; those that were there are replaced together.
    points: of the quadrature.
    limit: fakes of each set whose maps are measured.
    num_draws: of the bootstrap.
    seed: of draws, random maps and shuffled changes.

  Returns:
    The document: `sets`: name -> `localisation` (see `benchmark.measure`; None where no fake has
    its real frame, with the reason in `note`) and `knock_out` (see there).

  Raises:
    UserError: the folder holds other files.
  """
  what = 'the benchmark of explanations'
  with places.folder_of(BENCHMARK, out, what=what, form=_BENCHMARK_FORM) as fresh:
    document = _measure_into(
      fresh, run, sets, points=points, limit=limit, num_draws=num_draws, seed=seed
    )
    _write_note(fresh, BENCHMARK, document)
  return document


def _measure_into(
  fresh: pathlib.Path,
  run: Explained,
  sets: Mapping[str, Manifest],
  *,
  points: int,
  limit: int,
  num_draws: int,
  seed: int,
) -> dict[str, Any]:
  explainer = run.explainer
  ones = np.ones(explainer.changes.num_parts, np.float32)
  baselines = Baselines(
    explainer.config, jax.device_get(explainer.changes.at(ones)), explainer.slots.grid
  )
  document: dict[str, Any] = {'format': FORMAT, 'run': dict(run.facts), 'sets': {}}
  for name, manifest in sets.items():
    document['sets'][name] = found = {
      'localisation': None, 'knock_out': None, 'note': '', 'words': verdict.in_words(None),
    }  # fmt: skip
    try:
      chosen = pairs.find_pairs(
        manifest, image_size=explainer.config.backbone.image_size, grid=explainer.slots.grid,
        limit=limit,
      )  # fmt: skip
    except UserError as error:
      chosen, found['note'] = None, str(error)
    if chosen and chosen.pairs:
      table = manifest.table
      clusters = make_clusters(table).of(table.loc[[pair.row for pair in chosen.pairs]])
      drawn = benchmark.make_resampling(clusters, num_draws=num_draws, seed=seed)
      with telemetry.Progress(len(chosen.pairs), label=f'{name}: maps', unit='pairs') as bar:
        result = benchmark.measure(
          explainer, baselines, chosen.pairs, drawn, points=points, seed=seed,
          on_progress=bar.update,
        )  # fmt: skip
      found['localisation'] = result | {
        'masks': chosen.source, 'left_out': chosen.left_out, 'unpaired': chosen.unpaired,
        'beats_centre_prior': verdict.beats_centre_prior(result),
      }  # fmt: skip
      found['words'] = verdict.in_words(result)
    with telemetry.Progress(len(manifest), label=f'{name}: knock-out', unit='crops') as bar:
      found['knock_out'] = knock_out.knock_out(
        explainer, manifest, num_draws=num_draws, seed=seed, on_progress=bar.update
      )
    knock_out_figure(
      found['knock_out']['falls'], fresh / f'{name}_knock_out.png',
      note=f'{name}: {found["knock_out"]["num_crops"]} crops; intervals of 95 % over'
      f' {found["knock_out"]["num_clusters"]} groups.',
    )  # fmt: skip
  return document


def format_benchmark(document: Mapping[str, Any]) -> str:
  """The document as tables of text."""
  parts = []
  for name, found in document['sets'].items():
    result = found['localisation']
    if result is None:
      parts.append(f'{name}: {found["note"] or "no pair with a usable mask"}')
    else:
      metrics = list(next(iter(result['maps'].values())))
      rows = [['map', *metrics]]
      rows += [
        [title, *(_cell(of[metric]) for metric in metrics)] for title, of in result['maps'].items()
      ]
      rows += [
        [f'all changes - {title}', *(_cell(of[metric], '+') for metric in metrics)]
        for title, of in result['differences'].items()
      ]
      parts.append(f'{name}: {result["num_pairs"]} fakes, masks {result["masks"]}')
      parts.append('\n'.join(text_tables.align(rows)))
      parts.append(
        f'rank correlation with shuffled changes {_cell(result["shuffled"]["rank_correlation"])};'
        f' largest completeness error {result["path"]["largest_completeness_error"]:.1e}; share of'
        f' tokens that are no place {_cell(result["path"]["token_share"])}'
      )
      parts.append(found['words'])
    falls = found['knock_out']['falls']
    rows = [['fall of the AUROC', *falls[0]], ['(whole detector)']]
    rows[1] += [_cell(found['knock_out']['auroc'][forgery]) for forgery in falls[0]]
    rows += [
      [f'without subspace {k + 1}', *(_cell(of[forgery], '+') for forgery in of)]
      for k, of in enumerate(falls)
    ]
    rows.append(
      ['without all', *(_cell(of, '+') for of in found['knock_out']['together'].values())]
    )
    parts.append('\n'.join(text_tables.align(rows)))
  return '\n\n'.join(parts)


def _cell(metric: Mapping[str, float], sign: str = '') -> str:
  value, low, high = (float(metric[key]) for key in ('value', 'low', 'high'))
  if math.isnan(low):  # Too few groups.
    return f'{value:{sign}.3f}'
  return f'{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]'


def describe(explained: Sequence[tuple[pathlib.Path, Explanation]]) -> str:
  """A table of explanations: the logit, where it began, and each change's Shapley value."""
  names = part_names(len(explained[0][1].values))
  rows = [['picture', 'logit', 'pretrained', *names, 'no place', 'missed']]
  for path, one in explained:
    values = [f'{value:+.3f}' for value in one.values]
    rows.append(
      [text_tables.one_line(path.name), f'{one.logit:+.3f}', f'{one.base_logit:+.3f}', *values,
       f'{one.token_share:.0%}', f'{one.completeness_error:+.1e}']
    )  # fmt: skip
  return '\n'.join(text_tables.align(rows))
