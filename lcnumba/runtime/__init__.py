"""The process: threads, locks, signals, forks, memory, and who waits for the compiler."""
