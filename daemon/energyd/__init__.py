"""What did the machine's power do while programs ran? The daemon: samples, markers, store."""
