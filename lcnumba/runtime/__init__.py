"""The process: threads, locks, signals, forks, memory, and notice of compilation."""
