"""What tests, benchmarks and the demo run against: real engines, each in an environment and a process of its own, and
fakes at the transport for the faults that real servers do not produce on demand."""
