r"""Real crops for a fair comparison: only the pairs that a table names, no others.

python launch/dfdc_crops.py --pairs=../shared/data/dfdc_pairs.csv --git=PATH/TO/repo --out=data/dfdc

Reads `faces_224/VIDEO.jpg` of i-Shreyansh/DeepFake-Detection at one commit (DFDC's terms: research
use) and writes

- `crops/`: the crops, as they are;
- `within.parquet`: protocol a, real and fake crops of train (the first `--train` pairs), val, test;
  pairs of train with a file that has the same bytes in val or test are left out;
- `unseen.parquet`: protocol b, the real crops of train alone, val as self-blended fakes beside
  their originals (made here, seeded, under `blended/`), and the DFDC fakes of test.
"""

import argparse
import csv
import hashlib
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from masm_jax.data import manifest as manifest_lib
from masm_jax.data import self_blending, transforms

_COMMIT = '39728535acf043fba39623885f91319db521bf23'
_FOLDER = 'faces_224'
_SEED = 20_260


def extract(git: pathlib.Path, commit: str, names: list[str], folder: pathlib.Path) -> None:
  """Writes the named crops that are not in the folder yet, from a git directory."""
  folder.mkdir(parents=True, exist_ok=True)
  wanted = {f'{name}.jpg' for name in names if not (folder / f'{name}.jpg').is_file()}
  if not wanted:
    return
  run = ['git', f'--git-dir={git}']
  tree = subprocess.run(
    [*run, 'ls-tree', f'{commit}:{_FOLDER}'], check=True, capture_output=True, text=True
  ).stdout
  hashes = {}
  for line in tree.splitlines():
    facts, _, name = line.partition('\t')
    if name in wanted:
      hashes[name] = facts.split()[2]
  if missing := wanted - hashes.keys():
    sys.exit(f'error: {git} has no {_FOLDER}/{min(missing)} at {commit}')
  batch = subprocess.Popen(
    [*run, 'cat-file', '--batch'], stdin=subprocess.PIPE, stdout=subprocess.PIPE
  )
  for name, digest in hashes.items():
    batch.stdin.write(f'{digest}\n'.encode())
    batch.stdin.flush()
    size = int(batch.stdout.readline().split()[2])
    (folder / name).write_bytes(batch.stdout.read(size))
    batch.stdout.read(1)
  batch.stdin.close()
  batch.wait()


def apart(folder: pathlib.Path, pairs: dict[str, list[tuple[str, str]]]) -> list[tuple[str, str]]:
  """The pairs of train none of whose files has the same bytes as one of val or test."""
  digest = lambda name: hashlib.sha256((folder / f'{name}.jpg').read_bytes()).hexdigest()
  elsewhere = {digest(name) for split in ('val', 'test') for two in pairs[split] for name in two}
  return [two for two in pairs['train'] if not elsewhere & {digest(name) for name in two}]


def row(video: str, real: str, split: str) -> dict:
  """A crop of DFDC; `real` is the original that it was made from, or the crop itself."""
  method = 'real' if video == real else 'fake'
  return {
    'path': f'crops/{video}.jpg',
    'label': int(video != real),
    'dataset': 'dfdc',
    'split': split,
    'method': method,
    'video_id': f'dfdc/{method}/{video}',
    'source_video_id': f'dfdc/real/{real}',
    'identities': real,  # People are not known: a source and its fake are drawn together.
    'frame': 0,
  }


def blended(out: pathlib.Path, real: str, index: int, split: str) -> list[dict]:
  """A self-blended fake of a real crop and the original beside it, both augmented alike."""
  image = transforms.decode(out / 'crops' / f'{real}.jpg')
  rows = []
  for label, kind in ((0, 'real'), (1, 'sbi')):
    made = self_blending.self_blended(
      image, np.random.default_rng((_SEED, index)), is_fake=bool(label)
    )
    path = out / 'blended' / f'{real}_{kind}.png'
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(made).save(path)
    rows.append(
      {
        'path': f'blended/{path.name}',
        'label': label,
        'dataset': 'dfdc_blended',
        'split': split,
        'method': kind,
        'video_id': f'dfdc_blended/{kind}/{real}',
        'source_video_id': f'dfdc/real/{real}',
        'identities': real,
        'frame': 0,
      }
    )
  return rows


def main(argv: list[str] | None = None) -> None:
  """Extracts, blends, and writes both manifests."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--pairs', type=pathlib.Path, required=True)
  parser.add_argument('--git', type=pathlib.Path, required=True)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--commit', default=_COMMIT)
  parser.add_argument('--train', type=int, default=2000, help='pairs to train on')
  args = parser.parse_args(argv)
  pairs: dict[str, list[tuple[str, str]]] = {'train': [], 'val': [], 'test': []}
  with args.pairs.open(newline='') as file:
    for line in csv.DictReader(file):
      names = (line[column].removesuffix('.mp4') for column in ('real_video', 'fake_video'))
      pairs[line['split']].append(tuple(names))
  pairs['train'] = pairs['train'][: args.train]
  names = [name for chosen in pairs.values() for two in chosen for name in two]
  extract(args.git, args.commit, names, args.out / 'crops')
  pairs['train'] = apart(args.out / 'crops', pairs)
  within = [
    row(video, real, split)
    for split, chosen in pairs.items()
    for real, fake in chosen
    for video in (real, fake)
  ]
  unseen = [line for line in within if line['split'] == 'test' or line['method'] == 'real']
  unseen = [line for line in unseen if line['split'] != 'val']
  for index, (real, _) in enumerate(pairs['val']):
    unseen += blended(args.out, real, index, 'val')
  for name, rows in (('within', within), ('unseen', unseen)):
    manifest = manifest_lib.build_manifest(rows, args.out)
    manifest_lib.write_manifest(manifest, args.out / f'{name}.parquet')
    print(name, manifest.sha256)
    print(manifest.table.groupby(['split', 'method']).size().to_string())


if __name__ == '__main__':
  main()
