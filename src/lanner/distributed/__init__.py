"""Training the language model on several devices: degrees, parallelism, compression, balancing, planning."""
