"""Published numbers are those of their sources, and stand beside sets of the same name alone."""

from masm_jax.evaluation import published

# Typed from the specification once more, so that a slip in `published.py` shows.
FRAME = """
| | CDFv1 | CDFv2 | DFD | DFDC | DFDCP | DFo | UADFV |
| Xception | .779 | .737 | .816 | .708 | .737 | .834 | .938 |
| EfficientNet-B4 | .791 | .749 | .815 | .696 | .728 | .833 | .947 |
| F3Net | .777 | .735 | .798 | .702 | .735 | .843 | .935 |
| SPSL | .815 | .765 | .812 | .704 | .741 | .877 | .942 |
| UCF | .779 | .753 | .807 | .719 | .759 | .824 | .953 |
| LSDA | .867 | .830 | .880 | .736 | .815 | | |
| Forensics Adapter | .914 | .900 | .933 | .843 | .890 | | |
"""
VIDEO = """
| | CDFv2 | DFD | DFDC | DFDCP | DFo | WDF | FFIW |
| SBI | .886 | .827 | .717 | .848 | .899 | .703 | .866 |
| LSDA | .875 | .881 | .701 | .812 | .768 | .797 | .724 |
| ProDet | .926 | .901 | .707 | .828 | .879 | .781 | .751 |
| CDFA | .938 | .954 | .830 | .881 | .973 | .796 | .777 |
| Effort | .956 | .965 | .843 | .909 | .977 | .848 | .921 |
| GenD | .960 | .970 | .871 | | | | .945 |
"""
SOURCES = {
  ('frame', 'LSDA'): 'Forensics Adapter README',
  ('frame', 'Forensics Adapter'): 'Forensics Adapter README',
  ('video', 'GenD'): 'second-hand, variant not stated',
}
USUAL = {'frame': 'DeepfakeBench README', 'video': 'number in the Effort README'}


def test_published_numbers_are_those_of_their_sources():
  expected = {}
  for level, text in (('frame', FRAME), ('video', VIDEO)):
    header, *rows = (
      [cell.strip() for cell in line.split('|')[1:-1]] for line in text.split('\n')[1:-1]
    )
    for method, *cells in rows:
      source = SOURCES.get((level, method), USUAL[level])
      found = zip(header[1:], cells, strict=True)
      auroc = {name.lower(): float(cell) for name, cell in found if cell}
      expected[level, method] = (source, auroc)
    for method in ('MASM', 'FMSD'):
      expected[level, method] = ('no verified number is known', {})
  there = {(row.level, row.method): (row.source, dict(row.auroc)) for row in published.PUBLISHED}
  assert there == expected and len(published.PUBLISHED) == len(expected)


def test_published_numbers_stand_by_level_and_never_stand_alone():
  frame = published.rows_for('frame', ['uadfv', 'mine'])
  assert [row.method for row in frame] == [
    *('Xception', 'EfficientNet-B4', 'F3Net', 'SPSL', 'UCF'), 'MASM', 'FMSD',
  ]  # fmt: skip
  assert published.rows_for('video', ['uadfv', 'mine']) == []
  assert all(0.5 < value < 1 for row in published.PUBLISHED for value in row.auroc.values())
