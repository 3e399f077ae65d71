"""``python -m foveal``: the ``foveal`` command."""

from .cli.main import run

if __name__ == "__main__":
    run()
