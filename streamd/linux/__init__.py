"""What is asked of the kernel: cores, shared memory, scheduling, process titles, usage."""
