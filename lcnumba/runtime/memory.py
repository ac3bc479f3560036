"""Available memory: what the machine, the container and the process have left."""

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SMALL", "available", "processors", "require"]

# Smaller requests are not checked: reading the limits is not worth the time.
SMALL = 64 << 20

Limit = tuple[int, str]


def available(root: Path = Path("/")) -> Limit | None:
    """Return how many bytes can be allocated, and what sets that limit; None if it is not known.

    The minimum of the machine's free memory, what the control groups of the process have left (versions 1 and 2), and
    what RLIMIT_AS leaves of the address space. Reclaimable caches count as free.

    Parameters
    ----------
    root : Path, optional
        Root of the file system, for tests.

    Examples
    --------
    >>> from lcnumba.runtime.memory import available
    >>> found = available()
    >>> found is None or found[0] > 0
    True
    """
    limits = [*_machine(root), *_groups(root), *_address_space(root)]
    return min(limits, default=None)


def processors(root: Path = Path("/")) -> float | None:
    """Return the number of processors that control groups allow (versions 1 and 2); None without a limit.

    Parameters
    ----------
    root : Path, optional
        Root of the file system, for tests.

    Examples
    --------
    >>> from lcnumba.runtime.memory import processors
    >>> found = processors()
    >>> found is None or found > 0
    True
    """
    shares = []
    for group, version in _control_groups(root, "cpu"):
        if version == 2:
            numbers = [*_lines(group / "cpu.max"), ""][0].split()
        else:
            numbers = [line for name in ("quota", "period") for line in _lines(group / f"cpu.cfs_{name}_us")]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers) and int(numbers[1]):
            shares.append(int(numbers[0]) / int(numbers[1]))
    return min(shares, default=None)


def require(size: int, what: str, hint: str) -> None:
    """Raise a MemoryError, with a hint, if `size` bytes are not available.

    Examples
    --------
    >>> from lcnumba.runtime.memory import require
    >>> require(1000, "the table", "make it smaller")
    """
    if size < SMALL:
        return
    limit = available()
    if limit is not None and size > limit[0]:
        raise MemoryError(f"{what} needs {_text(size)}, and {limit[1]} leaves {_text(max(0, limit[0]))}; {hint}")


def _machine(root: Path) -> Iterator[Limit]:
    table = _table(root / "proc/meminfo")
    if "MemAvailable" in table:
        yield 1024 * (table["MemAvailable"] + table.get("SwapFree", 0)), "the memory of this machine"


def _groups(root: Path) -> Iterator[Limit]:
    """What each control group of the process leaves, as far as they are visible in this container."""
    files = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
        2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
    }
    for group, version in _control_groups(root, "memory"):
        limit, usage, caches = files[version]
        most, used = _number(group / limit), _number(group / usage)
        if most is not None and used is not None:
            table = _table(group / "memory.stat", separator=" ")
            yield most - used + sum(table.get(cache, 0) for cache in caches), "the limit of this control group"


def _control_groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The folders of a controller's groups, from that of the process to the root, and their version."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, version = root / "sys/fs/cgroup", 2
        elif controller in controllers.split(","):
            base, version = root / "sys/fs/cgroup" / controller, 1
        else:
            continue
        folder = base / path.lstrip("/")
        for group in (folder, *folder.parents):
            yield group, version
            if group == base:
                break


def _address_space(root: Path) -> Iterator[Limit]:
    try:
        import resource
    except ImportError:  # Windows
        return
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _lines(root / "proc/self/statm")
    if most != resource.RLIM_INFINITY and pages:
        yield most - int(pages[0].split()[0]) * os.sysconf("SC_PAGE_SIZE"), "the limit of address space (RLIMIT_AS)"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _table(path: Path, separator: str = ":") -> dict[str, int]:
    """A file of lines with a name and a number, as a dict."""
    parts = (line.partition(separator) for line in _lines(path))
    return {name: int(rest.split()[0]) for name, _, rest in parts if rest.split()}


def _number(path: Path) -> int | None:
    """The number in a file, if it is one."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _text(size: int) -> str:
    return f"{size / 1e9:,.3g} GB"
