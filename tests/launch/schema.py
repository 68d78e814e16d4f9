"""Checks documents against a structural Kubernetes schema, and cuts one down to what is used."""

_TYPES = {
  'object': dict,
  'array': list,
  'string': str,
  'integer': int,
  'boolean': bool,
  'number': (int, float),
}
_KEPT = ('type', 'enum', 'required', 'minimum', 'x-kubernetes-int-or-string')


def problems(value, schema, path=''):
  """What is wrong with a document, one text per finding; unknown fields are wrong."""
  if schema.get('x-kubernetes-int-or-string'):
    return [] if isinstance(value, int | str) else [f'{path}: neither a number nor a text']
  kind = schema['type']
  if not isinstance(value, _TYPES[kind]) or (kind == 'integer' and isinstance(value, bool)):
    return [f'{path}: {value!r} is no {kind}']
  found = []
  if 'enum' in schema and value not in schema['enum']:
    found.append(f'{path}: {value!r} is none of {schema["enum"]}')
  if 'minimum' in schema and value < schema['minimum']:
    found.append(f'{path}: {value} is below {schema["minimum"]}')
  if kind == 'object':
    found += [f'{path}.{name}: missing' for name in schema.get('required', ()) if name not in value]
    for name, part in value.items():
      child = child_schema(schema, name)
      if child is None:
        found.append(f'{path}.{name}: no such field')
      else:
        found += problems(part, child, f'{path}.{name}')
  if kind == 'array':
    for i, part in enumerate(value):
      found += problems(part, schema['items'], f'{path}[{i}]')
  return found


def child_schema(schema, name):
  """The schema of one field of an object; None if there is no such field."""
  if name in schema.get('properties', {}):
    return schema['properties'][name]
  if schema.get('type') == 'object' and 'properties' not in schema:
    return schema.get('additionalProperties', {'x-kubernetes-int-or-string': True})
  return None


def cut_down(schema, values):
  """The part of a schema that speaks about the fields which documents have."""
  kept = {name: schema[name] for name in _KEPT if name in schema}
  fields = sorted({name for value in values if isinstance(value, dict) for name in value})
  if 'properties' in schema:
    kept['properties'] = {
      name: cut_down(schema['properties'][name], [v[name] for v in values if name in v])
      for name in fields
    }
    for name in kept.get('required', ()):  # What must be there is known even if it is not.
      assert name in kept['properties'], name
  elif 'additionalProperties' in schema:
    inner = [part for value in values for part in value.values()]
    kept['additionalProperties'] = cut_down(schema['additionalProperties'], inner)
  if 'items' in schema:
    kept['items'] = cut_down(schema['items'], [part for value in values for part in value])
  return kept
