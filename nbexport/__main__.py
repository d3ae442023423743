"""``python -m nbexport`` is the command ``nbexport``."""

from nbexport.cli.main import main

if __name__ == "__main__":
    main()
