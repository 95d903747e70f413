"""The commands of `hybrid-rs`, one per file: each has `add_arguments(parser)` and `run(args)`."""
