"""Takes rights from this process before it reads a stranger's file; Linux, as far as it allows.

Three layers, each of which may be missing on a kernel: Landlock (no file but the program's own can
be opened, and none be written), limits of resources (POSIX), and a filter of system calls (no
socket, no other program, no other process). Landlock binds the thread that asks for it and the
threads that it starts, so it comes first, while there is one: libraries start their own as they are
imported. The other layers bind all threads.
"""

import contextlib
import ctypes
import errno
import importlib.util
import os
import pathlib
import platform
import resource
import struct
import sys
from collections.abc import Callable, Iterable

_PR_SET_NO_NEW_PRIVS, _SET_FILTER, _ALL_THREADS = 38, 1, 1
_M_ARENA_MAX = -8  # Of glibc's mallopt.
_SPARE_FILES = 16  # Open files beside those that the process has.

# Landlock (Linux 5.13): numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # ABI -> how many rights it knows.
# What imports read beside Python's folders: libraries, and the kernel's description of the machine.
_SYSTEM = (
  '/usr', '/lib', '/lib64', '/nix/store', '/gnu/store', '/etc/ld.so.cache', '/proc/cpuinfo',
  '/proc/meminfo', '/sys/devices', '/sys/bus/pci/devices',
)  # fmt: skip

# System calls that reading a file needs none of. Numbers: the kernel's tables.
_DENIED = {
  'x86_64': (
    0xC000003E,
    {
      'socket': 41, 'connect': 42, 'accept': 43, 'bind': 49, 'listen': 50, 'accept4': 288,
      'fork': 57, 'vfork': 58, 'execve': 59, 'execveat': 322, 'ptrace': 101, 'kill': 62,
      'tkill': 200, 'rt_sigqueueinfo': 129, 'rt_tgsigqueueinfo': 297, 'pidfd_open': 434,
      'process_vm_readv': 310, 'process_vm_writev': 311, 'mount': 165, 'unshare': 272,
      'setns': 308, 'bpf': 321, 'userfaultfd': 323, 'perf_event_open': 298, 'keyctl': 250,
      'add_key': 248, 'io_uring_setup': 425, 'init_module': 175, 'finit_module': 313,
      'pidfd_getfd': 438, 'open_by_handle_at': 304, 'shmget': 29, 'shmat': 30, 'msgget': 68,
      'chmod': 90, 'fchmod': 91, 'fchmodat': 268, 'fchmodat2': 452, 'chown': 92, 'fchown': 93,
      'lchown': 94, 'fchownat': 260, 'utime': 132, 'utimes': 235, 'futimesat': 261,
      'utimensat': 280, 'setxattr': 188, 'lsetxattr': 189, 'fsetxattr': 190,
      'removexattr': 197, 'lremovexattr': 198, 'fremovexattr': 199, 'setxattrat': 463,
    },
    {'clone': 56, 'tgkill': 234, 'prlimit64': 302, 'seccomp': 317},
  ),
  'aarch64': (
    0xC00000B7,
    {
      'socket': 198, 'connect': 203, 'accept': 202, 'bind': 200, 'listen': 201, 'accept4': 242,
      'execve': 221, 'execveat': 281, 'ptrace': 117, 'kill': 129, 'tkill': 130,
      'rt_sigqueueinfo': 138, 'rt_tgsigqueueinfo': 240, 'pidfd_open': 434,
      'process_vm_readv': 270, 'process_vm_writev': 271, 'mount': 40, 'unshare': 97,
      'setns': 268, 'bpf': 280, 'userfaultfd': 282, 'perf_event_open': 241, 'keyctl': 219,
      'add_key': 217, 'io_uring_setup': 425, 'init_module': 105, 'finit_module': 273,
      'pidfd_getfd': 438, 'open_by_handle_at': 265, 'shmget': 194, 'shmat': 196, 'msgget': 186,
      'fchmod': 52, 'fchmodat': 53, 'fchmodat2': 452, 'fchownat': 54, 'fchown': 55,
      'utimensat': 88, 'setxattr': 5, 'lsetxattr': 6, 'fsetxattr': 7, 'removexattr': 14,
      'lremovexattr': 15, 'fremovexattr': 16, 'setxattrat': 463,
    },
    {'clone': 220, 'tgkill': 131, 'prlimit64': 261, 'seccomp': 277},
  ),
}  # fmt: skip
_CLONE3, _CLONE_THREAD = 435, 0x00010000
_OTHER_ABI = 0x40000000  # x86's x32: the same calls, by other numbers.
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


class Sandbox:
  """Of this process, for good: no files first, then nothing else. See `in_force`.

  Made before any import that may start a thread.

  Args:
    folders: folders and files that may be read beside Python's own and the system's libraries.

  Attributes:
    in_force: `files`, then `limits` and `calls` too, each with how, or why it is not.
  """

  def __init__(self, folders: Iterable[str | os.PathLike] = ()):
    self.in_force: dict[str, str] = {}
    self._memory: int | None = None
    with contextlib.suppress(OSError):  # Opened now: it counts the address space later.
      self._memory = os.open('/proc/self/statm', os.O_RDONLY | os.O_CLOEXEC)
    self._apply('files', lambda libc: _restrict_files(libc, folders))

  def enter(self, *, memory_bytes: int) -> None:
    """Takes the other rights of all threads; call it once all imports are done.

    Args:
      memory_bytes: of address space, beside what the process has now.
    """

    def limit(libc: ctypes.CDLL) -> str:
      if hasattr(libc, 'mallopt'):  # Each thread to come would take 64 MB of address space, unused.
        libc.mallopt(_M_ARENA_MAX, 1)
      taken = 0
      if self._memory is not None:
        taken = int(os.pread(self._memory, 99, 0).split()[0])
        os.close(self._memory)
      return _limit_resources(taken * resource.getpagesize() + memory_bytes)

    self._apply('limits', limit)
    self._apply('calls', _restrict_calls)

  def _apply(self, name: str, restrict: Callable[[ctypes.CDLL], str]) -> None:
    try:
      libc = ctypes.CDLL(None, use_errno=True)
      self.in_force[name] = restrict(libc)
    except (OSError, AttributeError) as error:
      self.in_force[name] = f'not in force: {error}'


def measured(in_force: dict[str, str], pid: int) -> dict[str, str]:
  """What a child says is in force, less what the kernel does not confirm of all its threads."""
  if 'not in force' in in_force.get('calls', 'not in force'):
    return in_force
  try:
    threads, outside = _threads(pid), _threads(os.getpid())[0]
  except OSError as error:
    return in_force | {'calls': f'not in force, as far as is known: {error}'}
  # In a container, this process too may have a filter: theirs are more (Linux 5.9 counts them).
  least = int(outside.get('Seccomp_filters', 0)) + 1
  bound = sum(
    status.get('Seccomp') == '2'
    and status.get('NoNewPrivs') == '1'
    and int(status.get('Seccomp_filters', least)) >= least
    for status in threads
  )
  if bound == len(threads) > 0:
    return in_force
  return in_force | {'calls': f'not in force: threads without a filter: {len(threads) - bound}'}


def _threads(pid: int) -> list[dict[str, str]]:
  """The kernel's status of each thread of a process; of one that ends meanwhile, none."""
  found = []
  for folder in pathlib.Path(f'/proc/{pid}/task').iterdir():
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
      text = (folder / 'status').read_text()
      found.append(dict(line.split(':\t', 1) for line in text.splitlines()))
  return found


def _no_new_rights(libc: ctypes.CDLL) -> None:
  """A program that this thread starts has no more rights than it: the kernel asks for that."""
  if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
    raise OSError(ctypes.get_errno(), 'no_new_privs')


def limit_cpu(seconds: int) -> None:
  """From now on, the process may compute for so long; then the kernel ends it."""
  usage = resource.getrusage(resource.RUSAGE_SELF)
  spent = int(usage.ru_utime + usage.ru_stime) + 1
  _, hard = resource.getrlimit(resource.RLIMIT_CPU)
  resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, hard))


def _limit_resources(address_bytes: int) -> str:
  highest = max(filter(_is_open, range(1024)), default=0)
  refused = []
  for name, kind, value in (
    ('address space', resource.RLIMIT_AS, address_bytes),
    ('file size', resource.RLIMIT_FSIZE, 0),
    ('open files', resource.RLIMIT_NOFILE, highest + 1 + _SPARE_FILES),
    ('core files', resource.RLIMIT_CORE, 0),
  ):
    try:
      resource.setrlimit(kind, (value, value))
    except (ValueError, OSError):  # An administrator's limit may be lower.
      refused.append(name)
  said = 'address space, file size, open files, core files'
  return f"{said}; the system's own: {', '.join(refused)}" if refused else said


def _is_open(descriptor: int) -> bool:
  try:
    os.fstat(descriptor)
  except OSError:
    return False
  return True


def _restrict_files(libc: ctypes.CDLL, folders: Iterable[str | os.PathLike]) -> str:
  """Landlock: only these folders can be read, and nothing can be written."""
  _no_new_rights(libc)
  num_threads = len(_threads(os.getpid()))
  abi = libc.syscall(_CREATE_RULESET, None, 0, 1)
  if abi < 1:
    raise OSError(ctypes.get_errno(), 'this kernel has no Landlock')
  rights = (1 << _FILE_RIGHTS.get(min(abi, 5), 13)) - 1
  # The struct grew by a field with ABI 4: rights on TCP (bind and connect); and by one with ABI 6:
  # abstract sockets and signals of other processes.
  attributes = struct.pack('=QQQ', rights, 3, 3)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
  ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
  if ruleset < 0:
    raise OSError(ctypes.get_errno(), 'no Landlock rules can be made')
  try:
    package = pathlib.Path(__file__).resolve().parents[1]
    for folder in {
      os.path.realpath(path) for path in (*_SYSTEM, *_python_folders(), package, *folders)
    }:
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
  if num_threads != 1:
    return f'not in force: threads that had started before: {num_threads - 1}'
  return f'Landlock {abi}: nothing written, nothing read but the program and what the machine is'


def _python_folders() -> set[str]:
  """Where Python and installed packages lie; not the working folder, nor a script's."""
  installed = {path for path in sys.path if path.rstrip('/').endswith('-packages')}
  try:
    numpy = importlib.util.find_spec('numpy')  # Of `pip install --target`; it is not imported.
  except (ImportError, ValueError):
    numpy = None
  if numpy and numpy.origin:
    installed.add(os.path.dirname(os.path.dirname(numpy.origin)))
  libraries = os.environ.get('LD_LIBRARY_PATH', '').split(':')
  own = {sys.prefix, sys.base_prefix, sys.exec_prefix}
  return {path for path in (*own, *installed, *libraries) if path}


def _restrict_calls(libc: ctypes.CDLL) -> str:
  """seccomp: calls of `_DENIED` fail with EPERM; threads may start, processes may not."""
  machine = platform.machine()
  if machine not in _DENIED:
    raise OSError(errno.ENOSYS, f'no table of calls for {machine}')
  architecture, denied, judged = _DENIED[machine]
  load, jump, give = 0x20, 0x15, 0x06  # BPF: A = word at k; if A == k; return k.
  above, test = 0x35, 0x45  # If A >= k; if A & k.
  forbidden = _ERRNO | errno.EPERM
  program = [
    (load, 0, 0, 4),  # The architecture.
    (jump, 1, 0, architecture),
    (give, 0, 0, forbidden),
    (load, 0, 0, 0),  # The call's number.
    (above, 0, 1, _OTHER_ABI),
    (give, 0, 0, forbidden),
    (jump, 0, 1, _CLONE3),  # Its flags lie in memory: refused, so that libc takes `clone`.
    (give, 0, 0, _ERRNO | errno.ENOSYS),
  ]
  for number in denied.values():
    program += [(jump, 0, 1, number), (give, 0, 0, forbidden)]
  # Threads may start, but no process; limits and signals are for this process alone. What follows
  # a call's number is its first argument, and how it is compared.
  for call, line in (
    ('clone', (test, 1, 0, _CLONE_THREAD)),
    ('tgkill', (jump, 1, 0, os.getpid())),
    ('prlimit64', (jump, 1, 0, 0)),
  ):
    program += [(jump, 0, 4, judged[call]), (load, 0, 0, 16), line]
    program += [(give, 0, 0, forbidden), (give, 0, 0, _ALLOW)]
  program.append((give, 0, 0, _ALLOW))
  code = b''.join(struct.pack('=HBBI', *line) for line in program)
  buffer = ctypes.create_string_buffer(code, len(code))
  header = struct.pack('@HP', len(program), ctypes.addressof(buffer))
  _no_new_rights(libc)
  # It returns the thread that cannot follow, if there is one.
  if refused := libc.syscall(judged['seccomp'], _SET_FILTER, _ALL_THREADS, header):
    reason = f'thread {refused} has a filter of its own'
    if refused < 0:
      reason = 'this kernel takes no filter of calls'
    raise OSError(ctypes.get_errno() or errno.ESRCH, reason)
  return 'seccomp: no socket, no program, no process can be opened'
