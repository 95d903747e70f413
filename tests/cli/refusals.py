"""What the command line says when it refuses."""

from hybrid_rs_jax.cli import main


def refused(arguments, capsys):
    """Run a command that must refuse, and give its one sentence."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("hybrid-rs: error: ")
    assert len(error.strip().splitlines()) == 1
    return error
