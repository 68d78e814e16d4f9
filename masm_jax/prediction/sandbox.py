"""Takes rights from this process before it reads a stranger's file; Linux, as far as it allows.

Three layers, each of which may be missing on a kernel: limits of resources (POSIX), Landlock (no
file but the program's own can be opened, and none be written), and a filter of system calls (no
socket, no other program, no other process). What was in force is returned, and can be shown.
"""

import contextlib
import ctypes
import ctypes.util
import errno
import os
import pathlib
import platform
import resource
import struct
import sys
from collections.abc import Iterable

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_SET_DUMPABLE = 38, 22, 4
_M_ARENA_MAX = -8  # Of glibc's mallopt.
_SPARE_FILES = 16  # Open files beside those that the process has.

# Landlock (Linux 5.13): numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # ABI -> how many rights it knows.

# System calls that reading a file needs none of. Numbers: the kernel's tables.
_DENIED = {
  'x86_64': (
    0xC000003E,
    {
      'socket': 41, 'connect': 42, 'accept': 43, 'bind': 49, 'listen': 50, 'accept4': 288,
      'fork': 57, 'vfork': 58, 'execve': 59, 'execveat': 322, 'ptrace': 101, 'kill': 62,
      'process_vm_readv': 310, 'process_vm_writev': 311, 'mount': 165, 'unshare': 272,
      'setns': 308, 'bpf': 321, 'userfaultfd': 323, 'perf_event_open': 298, 'keyctl': 250,
      'add_key': 248, 'io_uring_setup': 425, 'init_module': 175, 'finit_module': 313,
      'pidfd_getfd': 438, 'open_by_handle_at': 304,
    },
    56,
  ),
  'aarch64': (
    0xC00000B7,
    {
      'socket': 198, 'connect': 203, 'accept': 202, 'bind': 200, 'listen': 201, 'accept4': 242,
      'execve': 221, 'execveat': 281, 'ptrace': 117, 'kill': 129, 'process_vm_readv': 270,
      'process_vm_writev': 271, 'mount': 40, 'unshare': 97, 'setns': 268, 'bpf': 280,
      'userfaultfd': 282, 'perf_event_open': 241, 'keyctl': 219, 'add_key': 217,
      'io_uring_setup': 425, 'init_module': 105, 'finit_module': 273, 'pidfd_getfd': 438,
      'open_by_handle_at': 265,
    },
    220,
  ),
}  # fmt: skip
_CLONE3, _CLONE_THREAD = 435, 0x00010000
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def enter(*, memory_bytes: int, folders: Iterable[str | os.PathLike] = ()) -> dict[str, str]:
  """Takes this process' rights, for good; call it once all imports are done.

  Args:
    memory_bytes: of address space, beside what the process has now.
    folders: what may be read beside Python's own folders and the system's libraries.

  Returns:
    What is in force: `limits`, `files` and `calls`, each with how, or why it is not.
  """
  libc = ctypes.CDLL(None, use_errno=True)
  if hasattr(libc, 'mallopt'):  # Each thread to come would take 64 MB of address space, unused.
    libc.mallopt(_M_ARENA_MAX, 1)
  _limit_resources(memory_bytes)
  found = {'limits': 'address space, file size, open files, core files'}
  for name, restrict in (
    ('files', lambda: _restrict_files(libc, folders)),
    ('calls', lambda: _restrict_calls(libc)),
  ):
    try:
      if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), 'no_new_privs')
      found[name] = restrict()
    except (OSError, AttributeError) as error:
      found[name] = f'not in force: {error}'
  return found


def limit_cpu(seconds: int) -> None:
  """From now on, the process may compute for so long; then the kernel ends it."""
  usage = resource.getrusage(resource.RUSAGE_SELF)
  spent = int(usage.ru_utime + usage.ru_stime) + 1
  _, hard = resource.getrlimit(resource.RLIMIT_CPU)
  resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, hard))


def _limit_resources(memory_bytes: int) -> None:
  status = pathlib.Path('/proc/self/statm')
  taken = int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else 0
  descriptors = pathlib.Path('/proc/self/fd')
  count = max(map(int, os.listdir(descriptors)), default=64) + 1 if descriptors.exists() else 256
  for kind, value in (
    (resource.RLIMIT_AS, taken + memory_bytes),
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_NOFILE, count + _SPARE_FILES),
    (resource.RLIMIT_CORE, 0),
  ):
    with contextlib.suppress(ValueError, OSError):  # An administrator's limit may be lower.
      resource.setrlimit(kind, (value, value))


def _restrict_files(libc: ctypes.CDLL, folders: Iterable[str | os.PathLike]) -> str:
  """Landlock: only these folders can be read, and nothing can be written."""
  abi = libc.syscall(_CREATE_RULESET, None, 0, 1)
  if abi < 1:
    raise OSError(ctypes.get_errno(), 'this kernel has no Landlock')
  rights = (1 << _FILE_RIGHTS.get(min(abi, 5), 13)) - 1
  # The struct grew by one field with ABI 4: rights on TCP (bind and connect).
  attributes = struct.pack('=QQ', rights, 3) if abi >= 4 else struct.pack('=Q', rights)
  ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
  if ruleset < 0:
    raise OSError(ctypes.get_errno(), 'no Landlock rules can be made')
  try:
    own = {sys.prefix, sys.base_prefix, sys.exec_prefix, '/usr', '/lib', '/lib64'}
    package = pathlib.Path(__file__).resolve().parents[1]
    for folder in {os.path.realpath(path) for path in (*own, package, *folders)}:
      try:
        descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
      except OSError:
        continue
      try:
        allowed = _READ_FILE | (_READ_DIR if os.path.isdir(folder) else 0)
        rule = struct.pack('=Qi', allowed, descriptor)
        if libc.syscall(_ADD_RULE, ruleset, 1, rule, 0):
          raise OSError(ctypes.get_errno(), f'Landlock refuses {folder}')
      finally:
        os.close(descriptor)
    if libc.syscall(_RESTRICT_SELF, ruleset, 0):
      raise OSError(ctypes.get_errno(), 'Landlock is not allowed here')
  finally:
    os.close(ruleset)
  return f'Landlock {abi}: nothing written, nothing read but the program itself'


def _restrict_calls(libc: ctypes.CDLL) -> str:
  """seccomp: calls of `_DENIED` fail with EPERM; threads may start, processes may not."""
  machine = platform.machine()
  if machine not in _DENIED:
    raise OSError(errno.ENOSYS, f'no table of calls for {machine}')
  architecture, denied, clone = _DENIED[machine]
  load, jump, give = 0x20, 0x15, 0x06  # BPF: A = word at k; if A == k; return k.
  test = 0x45  # If A & k.
  forbidden = _ERRNO | errno.EPERM
  program = [
    (load, 0, 0, 4),  # The architecture.
    (jump, 1, 0, architecture),
    (give, 0, 0, forbidden),
    (load, 0, 0, 0),  # The call's number.
    (jump, 0, 1, _CLONE3),  # Its flags lie in memory: refused, so that libc takes `clone`.
    (give, 0, 0, _ERRNO | errno.ENOSYS),
  ]
  for number in denied.values():
    program += [(jump, 0, 1, number), (give, 0, 0, forbidden)]
  program += [
    (jump, 0, 3, clone),
    (load, 0, 0, 16),  # Its flags.
    (test, 1, 0, _CLONE_THREAD),
    (give, 0, 0, forbidden),
    (give, 0, 0, _ALLOW),
  ]
  code = b''.join(struct.pack('=HBBI', *line) for line in program)
  buffer = ctypes.create_string_buffer(code, len(code))
  header = struct.pack('@HP', len(program), ctypes.addressof(buffer))
  if libc.prctl(_PR_SET_SECCOMP, 2, header, 0, 0):
    raise OSError(ctypes.get_errno(), 'this kernel takes no filter of calls')
  return 'seccomp: no socket, no program, no process can be opened'
